"""The repeat answerer: gives repeats the answer of their original once that has ended. Knows no broker."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.store import repeats
from producer.store.database import RetryingStore
from shared.clock import utc_now

_POLL_SECONDS = 0.5
_PAGE_ORIGINALS = 250

logger = logging.getLogger(__name__)


class RepeatAnswerer:
    """Looks in the store for originals that have ended. Any number of answerers share the work."""

    def __init__(self, *, store: RetryingStore, metrics: LedgerMetrics) -> None:
        """Make an answerer that has done nothing yet."""
        self._store = store
        self._metrics = metrics
        # Originals whose repeats this version cannot answer, until it is started again.
        self._aside: set[UUID] = set()

    async def run(self) -> None:
        """Answer until cancelled. Stopping at any point is safe: each page is one transaction."""
        while True:
            if not await self.tick():
                await asyncio.sleep(_POLL_SECONDS)

    async def tick(self) -> bool:
        """Answer a page of repeats; return whether there were any."""
        read = self._store.read(repeats.ended_originals, limit=_PAGE_ORIGINALS, without=self._aside)
        if not (originals := await read):
            return False
        try:
            changed = await self._store.write(repeats.answer_repeats, originals, now=utc_now())
        except Exception as failure:  # One of the three edges: a job must not hold up those beside it.
            logger.info("page_done_singly", extra={"error": repr(failure)[:300]})
            await self._answer_singly(originals)
        else:
            self._metrics.note_transitions(changed)
        return True

    async def _answer_singly(self, originals: Sequence[UUID]) -> None:
        for original in originals:
            try:
                changed = await self._store.write(repeats.answer_repeats, [original], now=utc_now())
            except Exception:  # As above.
                self._aside.add(original)
                self._metrics.rows_put_aside.labels(type(self).__name__).inc()
                logger.exception("row_put_aside", extra={"job_id": str(original)})
            else:
                self._metrics.note_transitions(changed)
