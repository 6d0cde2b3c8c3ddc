"""The relay: publishes accepted jobs, then marks them queued. A transactional outbox.

The row of an accepted job is its own outbox entry. What is published of it says `relayed.py`.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.outbox import Outbox
from producer.ledger.relayed import relayed_messages
from producer.records import ClaimedJob
from producer.store import outbox
from producer.store.database import Database
from producer.store.wakeup import Wakeup
from shared.broker.publisher import Publisher
from shared.clock import utc_now
from shared.settings import Settings
from shared.states import JobState

logger = logging.getLogger(__name__)


class Relay:
    """Publishes what the store has accepted. Any number of relays share the work."""

    def __init__(
        self,
        *,
        store: Database,
        publisher: Publisher,
        wakeup: Wakeup,
        metrics: LedgerMetrics,
        settings: Settings,
    ) -> None:
        """Make a relay that publishes nothing yet."""
        self._store = store
        self._metrics = metrics
        self._outbox = Outbox(
            claim=self._claim,
            pack=partial(relayed_messages, bundle_jobs=settings.bundle_jobs),
            settle=self._mark_queued,
            release=self._release,
            publisher=publisher,
            wakeup=wakeup,
            settings=settings,
        )

    @property
    def is_moving(self) -> bool:
        """Whether it has looked for accepted jobs, or published some, not long ago."""
        return self._outbox.is_moving

    async def run(self) -> None:
        """Relay until cancelled."""
        await self._outbox.run()

    def _claim(self, *, limit: int, lease_seconds: float, now: datetime) -> list[ClaimedJob]:
        return self._store.write(outbox.claim_accepted, limit=limit, lease_seconds=lease_seconds, now=now)

    def _release(self, job_ids: Sequence[UUID], *, retry_at: datetime) -> None:
        self._store.write(outbox.release_claims, job_ids, retry_at=retry_at)

    async def _mark_queued(self, published: Sequence[ClaimedJob]) -> None:
        queued = [(job.id, job.run) for job in published]
        await self._outbox.stored(partial(self._store.write, outbox.mark_queued, queued, now=utc_now()))
        self._metrics.relayed.inc(len(queued))
        if not logger.isEnabledFor(logging.INFO):
            return
        for job_id, run in queued:
            facts = {"job_id": str(job_id), "run": run, "attempt": 0}
            logger.info("job_state_changed", extra={**facts, "state": JobState.QUEUED.value})
