"""The scheduler: accepts jobs whose time has come, and parks those whose deadline has passed.

It looks at the store alone, so it works while the broker is away. Any number of schedulers share the work.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.patience import until_stored
from producer.records import Transition
from producer.store.store import JobStore
from shared.clock import utc_now

_PAGE_JOBS = 500
# A job may be stored at any moment with a time that comes before all others, and nobody tells.
_SAFETY_SECONDS = 1.0
# Another scheduler is at what is due; it is soon done.
_BUSY_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Scheduler:
    """Does what is due, and sleeps until something is due again."""

    def __init__(
        self, *, store: JobStore, metrics: LedgerMetrics, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """Make a scheduler that has done nothing yet."""
        self._store = store
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Schedule until cancelled. Stopping at any point is safe: each step is one transaction."""
        while True:
            next_due_at = await until_stored(self._store.next_due_at)
            now = self._clock()
            if next_due_at is None or next_due_at > now:
                await asyncio.sleep(_pause_seconds(next_due_at, now))
            elif not await self.tick(now):
                await asyncio.sleep(_BUSY_SECONDS)

    async def tick(self, now: datetime) -> int:
        """Do all that is due at `now`; return how much that was."""
        return await self._release(now) + await self._expire(now)

    async def _release(self, now: datetime) -> int:
        return await self._in_pages(partial(self._store.release_due, limit=_PAGE_JOBS, now=now))

    async def _expire(self, now: datetime) -> int:
        return await self._in_pages(partial(self._store.expire_jobs, limit=_PAGE_JOBS, now=now))

    async def _in_pages(self, change: Callable[[], list[Transition]]) -> int:
        changed = 0
        while page := await until_stored(change):
            self._note(page)
            changed += len(page)
            if len(page) < _PAGE_JOBS:
                break
        return changed

    def _note(self, changes: Sequence[Transition]) -> None:
        for change in changes:
            self._metrics.transitions.labels(change.kind, change.state).inc()
            facts = {"job_id": str(change.job_id), "run": change.run, "attempt": change.attempt}
            logger.info(
                "job_state_changed", extra={**facts, "state": change.state.value, "reason": change.reason}
            )


def _pause_seconds(next_due_at: datetime | None, now: datetime) -> float:
    if next_due_at is None:
        return _SAFETY_SECONDS
    return min((next_due_at - now).total_seconds(), _SAFETY_SECONDS)
