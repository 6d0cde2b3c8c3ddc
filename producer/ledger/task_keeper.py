"""The task keeper: lets delayed tasks be picked when they are due, and ends leases that have run out."""

from collections.abc import Callable, Sequence
from datetime import datetime

from producer.ledger.due import PAGE_ROWS, DueService
from producer.ledger.metrics import LedgerMetrics
from producer.store import tasks
from producer.store.database import RetryingStore
from producer.tasks import LeaseEnd
from shared.bounded_names import BoundedNames
from shared.clock import utc_now


class TaskKeeper(DueService):
    """Keeps tasks moving that no agent holds."""

    def __init__(
        self, *, store: RetryingStore, metrics: LedgerMetrics, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """Make a keeper that has done nothing yet."""
        super().__init__(store=store, metrics=metrics, clock=clock)
        self._queues = BoundedNames()

    async def step(self, now: datetime) -> int:
        """Let a page of delayed tasks be picked, and end a page of leases; return how many that was."""
        ready = await self._store.write(tasks.make_ready, limit=PAGE_ROWS, now=now)
        return len(ready) + await self._page(
            tasks.expire_leases, tasks.expired_tasks, now, note=self._note_expired
        )

    async def _next_due_at(self, now: datetime) -> datetime | None:
        return await self._store.read(tasks.next_due_at, now=now, without=self._aside)

    def _note_expired(self, ends: Sequence[LeaseEnd]) -> None:
        for end in ends:
            self._metrics.leases_expired.labels(self._queues.label(end.queue)).inc()
        self._metrics.note_transitions(end.transition for end in ends)
