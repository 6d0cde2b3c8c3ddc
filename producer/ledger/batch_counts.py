"""The batch reconciler: holds the counts of batches against their jobs, and mends them should they differ."""

import asyncio
import logging
from datetime import timedelta
from functools import partial
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.patience import until_stored
from producer.ledger.turns import Turns
from producer.store import batches
from producer.store.database import Database
from shared.clock import utc_now

# A round costs an index scan over the jobs of so many batches; the next round goes on with the next ones.
_EVERY_SECONDS = 60.0
_PAGE_BATCHES = 20
_PAUSE_SECONDS = 0.1
# Finished batches are looked at for so long after their end.
_RECENT = timedelta(hours=1)

logger = logging.getLogger(__name__)


class BatchReconciler:
    """Counts the jobs of batches again, a page of batches at a time: the jobs are right."""

    def __init__(self, *, store: Database, turns: Turns, metrics: LedgerMetrics) -> None:
        """Make a reconciler that has counted nothing yet."""
        self._store = store
        self._turns = turns
        self._metrics = metrics
        self._after: UUID | None = None

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            if await self._turns.take():
                await self.check_page()
                await self._turns.give_up()

    async def check_page(self, *, limit: int = _PAGE_BATCHES) -> None:
        """Check the next batches that are unfinished or ended lately; after the last, begin anew."""
        since = utc_now() - _RECENT
        find = partial(
            self._store.read, batches.batches_to_check, since=since, after=self._after, limit=limit
        )
        page = await until_stored(find)
        self._after = page[-1] if len(page) == limit else None
        for batch_id in page:
            await self._check(batch_id)
            await asyncio.sleep(_PAUSE_SECONDS)
            await self._turns.take()

    async def _check(self, batch_id: UUID) -> None:
        # Looked at without a lock first: it is right but for a fault of ours.
        if not await until_stored(partial(self._store.read, batches.wrong_counts, batch_id)):
            return
        correct = partial(self._store.write, batches.correct_counts, batch_id, now=utc_now())
        if wrong := await until_stored(correct):
            self._metrics.counts_corrected.inc()
            said = {state.value: f"{kept} instead of {counted}" for state, (kept, counted) in wrong.items()}
            logger.error("batch_counts_wrong", extra={"batch_id": str(batch_id), "corrected": said})
