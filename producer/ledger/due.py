"""What is due at a time: a service that does it, in pages, and sleeps until something is due again.

It looks at the store alone, so it works while the broker is away. Any number of such services share the work.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from producer.ledger.metrics import LedgerMetrics
from producer.store.database import RetryingStore
from shared.clock import utc_now

T = TypeVar("T")

PAGE_ROWS = 500
# A row whose time comes before all others may be stored at any moment, and nothing announces it.
_SAFETY_SECONDS = 1.0
# Another ledger is at what is due, and soon done.
_BUSY_SECONDS = 0.05

# Changes a page of jobs, and finds the ids of those that it would change.
Change = Callable[..., list[T]]
Find = Callable[..., list[UUID]]

logger = logging.getLogger(__name__)


class DueService(ABC):
    """Does what is due, and sleeps until something is due again."""

    def __init__(
        self, *, store: RetryingStore, metrics: LedgerMetrics, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """Make a service that has done nothing yet."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        # Rows that this version cannot work on, until it is started again.
        self._aside: set[UUID] = set()

    async def run(self) -> None:
        """Do what is due until cancelled. Stopping at any point is safe: each step is one transaction."""
        while True:
            now = self._clock()
            next_due_at = await self._next_due_at(now)
            if next_due_at is None or next_due_at > now:
                left = _SAFETY_SECONDS if next_due_at is None else (next_due_at - now).total_seconds()
                await asyncio.sleep(min(left, _SAFETY_SECONDS))
            elif not await self.step(now):
                await asyncio.sleep(_BUSY_SECONDS)

    async def tick(self, now: datetime) -> int:
        """Do all that is due at `now`; return how much that was."""
        done = 0
        while more := await self.step(now):
            done += more
        return done

    @abstractmethod
    async def step(self, now: datetime) -> int:
        """Do a part of what is due at `now`, of each sort some; return how much that was.

        No sort waits for the end of another, of which there may always be more.
        """

    @abstractmethod
    async def _next_due_at(self, now: datetime) -> datetime | None:
        """Return when something is due next; None when nothing has a time."""

    async def _page(
        self, change: Change[T], find: Find, now: datetime, *, note: Callable[[Sequence[T]], None]
    ) -> int:
        """Make a change to a page of the jobs that are due for it, and note it; return how many changed."""
        page = await self._change_page(change, find, now)
        note(page)
        return len(page)

    async def _change_page(self, change: Change[T], find: Find, now: datetime) -> list[T]:
        try:
            return await self._store.write(change, limit=PAGE_ROWS, now=now, without=self._aside)
        except Exception as failure:  # One of the three edges: a row must not hold up those beside it.
            logger.info("page_done_singly", extra={"error": repr(failure)[:300]})
            return await self._change_singly(change, find, now)

    async def _change_singly(self, change: Change[T], find: Find, now: datetime) -> list[T]:
        """Change the jobs of a page one by one, and put those aside that cannot be changed."""
        changed: list[T] = []
        for job_id in await self._store.read(find, limit=PAGE_ROWS, now=now, without=self._aside):
            try:
                changed += await self._store.write(change, limit=1, now=now, only=job_id)
            except Exception as failure:  # As above.
                self._put_aside(job_id, "job_id", failure)
        return changed

    def _put_aside(self, row_id: UUID, name: str, failure: Exception) -> None:
        """Note that a row cannot be worked on."""
        self._aside.add(row_id)
        self._metrics.rows_put_aside.labels(type(self).__name__).inc()
        logger.error("row_put_aside", extra={name: str(row_id)}, exc_info=failure)
