"""`QueueStore`: what is asked of the database on work queues and pauses. Each method is one transaction."""

from collections.abc import Callable, Sequence
from datetime import datetime

from producer.parking import AuditAction
from producer.pausing import Circumstances, Pause, Pauses, QueueSeen, paused, resumed
from producer.store import pauses
from producer.store.audit import queue_target, write_audit
from producer.store.engine import Transaction


class QueueStore:
    """The queues and pauses of a `JobStore`, which opens the transactions; its rules on errors hold too."""

    def __init__(self, *, reading: Transaction, writing: Transaction) -> None:
        self._reading = reading
        self._writing = writing

    def circumstances(self, *, now: datetime) -> Circumstances:
        """Return what is known of all queues, and what is paused: some ten rows."""
        with self._reading() as connection:
            seen = {(queue.kind, queue.lane): queue for queue in pauses.list_queues(connection)}
            return Circumstances(now, seen, pauses.list_pauses(connection))

    def record(self, seen: Sequence[QueueSeen]) -> None:
        """Keep queues as they were seen now."""
        with self._writing() as connection:
            pauses.record_queues(connection, seen)

    def pauses(self) -> Pauses:
        """Return all that is paused."""
        with self._reading() as connection:
            return pauses.read_pauses(connection)

    def pause(self, kind: str, lane: str, *, by: str, note: str | None, now: datetime) -> None:
        """Pause a kind in a lane, either of them `*` for all. What is paused already stays as it is."""
        new = Pause(kind, lane, now, by, note)
        self._change(AuditAction.PAUSED, new, lambda before: paused(before, new))

    def resume(self, kind: str, lane: str, *, by: str, note: str | None, now: datetime) -> None:
        """Take a pause back. What is not paused stays as it is."""
        order = Pause(kind, lane, now, by, note)
        self._change(AuditAction.RESUMED, order, lambda before: resumed(before, kind, lane))

    def _change(
        self, action: AuditAction, order: Pause, change: Callable[[list[Pause]], list[Pause]]
    ) -> None:
        """Store what an order comes to. It has a revision of its own even when it changes nothing."""
        with self._writing() as connection:
            pauses.lock_pauses(connection, now=order.since)
            before = pauses.list_pauses(connection)
            after = change(before)
            if after == before:
                return
            pauses.replace_pauses(connection, after)
            write_audit(
                connection,
                action,
                target=queue_target(order.kind, order.lane),
                by=order.by,
                details={"kind": order.kind, "lane": order.lane, "note": order.note},
                now=order.since,
            )
