"""The task keeper: lets delayed tasks be picked when they are due, and ends leases that have run out.

It looks at the store alone, so it works while the broker is away. Any number of keepers share the work.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.store import tasks
from producer.store.database import RetryingStore
from producer.tasks import LeaseEnd
from shared.bounded_names import BoundedNames
from shared.clock import utc_now

_PAGE_TASKS = 500
# Agents come, and attempts fail, at any moment, and nothing announces when that is due.
_SAFETY_SECONDS = 1.0
# Another keeper is at what is due, and soon done.
_BUSY_SECONDS = 0.05

logger = logging.getLogger(__name__)


class TaskKeeper:
    """Does what is due, and sleeps until something is due again."""

    def __init__(
        self, *, store: RetryingStore, metrics: LedgerMetrics, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """Make a keeper that has done nothing yet."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._queues = BoundedNames()
        # Tasks that this version cannot work on, until it is started again.
        self._aside: set[UUID] = set()

    async def run(self) -> None:
        """Keep until cancelled. Stopping at any point is safe: each page is one transaction."""
        while True:
            now = self._clock()
            next_due_at = await self._store.read(tasks.next_due_at, now=now, without=self._aside)
            if next_due_at is None or next_due_at > now:
                left = _SAFETY_SECONDS if next_due_at is None else (next_due_at - now).total_seconds()
                await asyncio.sleep(min(left, _SAFETY_SECONDS))
            elif not await self.tick(now):
                await asyncio.sleep(_BUSY_SECONDS)

    async def tick(self, now: datetime) -> int:
        """Do all that is due at `now`; return how much that was."""
        return await self._make_ready(now) + await self._expire(now)

    async def _make_ready(self, now: datetime) -> int:
        ready = 0
        while page := await self._store.write(tasks.make_ready, limit=_PAGE_TASKS, now=now):
            ready += len(page)
            if len(page) < _PAGE_TASKS:
                break
        return ready

    async def _expire(self, now: datetime) -> int:
        expired = 0
        while page := await self._expire_page(now):
            for end in page:
                self._metrics.leases_expired.labels(self._queues.label(end.queue)).inc()
            self._metrics.note_transitions(end.transition for end in page)
            expired += len(page)
            if len(page) < _PAGE_TASKS:
                break
        return expired

    async def _expire_page(self, now: datetime) -> list[LeaseEnd]:
        try:
            return await self._store.write(
                tasks.expire_leases, limit=_PAGE_TASKS, now=now, without=self._aside
            )
        except Exception as failure:  # One of the three edges: a task must not hold up those beside it.
            logger.info("page_done_singly", extra={"error": repr(failure)[:300]})
            return await self._expire_singly(now)

    async def _expire_singly(self, now: datetime) -> list[LeaseEnd]:
        """End leases one by one, and put those aside that cannot be ended."""
        ended: list[LeaseEnd] = []
        due = self._store.read(tasks.expired_tasks, limit=_PAGE_TASKS, now=now, without=self._aside)
        for task_id in await due:
            try:
                ended += await self._store.write(tasks.expire_leases, limit=1, now=now, only=task_id)
            except Exception:  # As above.
                self._aside.add(task_id)
                self._metrics.rows_put_aside.labels(type(self).__name__).inc()
                logger.exception("row_put_aside", extra={"job_id": str(task_id)})
        return ended
