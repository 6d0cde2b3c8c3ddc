"""What is paused, in rows; and the work queues as a ledger last saw them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa

from producer.parking import AuditAction
from producer.pausing import Circumstances, Pause, PauseList, QueueObservation, paused, resumed
from producer.store.audit import queue_target, write_audit
from producer.store.schema import pauses, queues, revisions
from producer.store.sql import upsert
from shared.kinds.registry import Lane

_REVISION = "pauses"


def circumstances(connection: sa.Connection, *, now: datetime) -> Circumstances:
    """Return what is known of all queues, and what is paused: some ten rows."""
    seen = {(queue.kind, queue.lane): queue for queue in _list_queues(connection)}
    return Circumstances(now, seen, _list_pauses(connection))


def read_pauses(connection: sa.Connection) -> PauseList:
    """Return what is paused, and the revision.

    The revision first: when another is written between the two statements, ours is the smaller one, and the
    later snapshot wins.
    """
    revision = connection.scalar(sa.select(revisions.c.value).where(revisions.c.name == _REVISION))
    return PauseList(revision or 0, _list_pauses(connection))


def open_lanes(connection: sa.Connection, kind: str) -> list[Lane]:
    """Return the lanes in which a kind is not paused."""
    items = _list_pauses(connection)
    return [lane for lane in Lane if not any(pause.covers(kind, lane) for pause in items)]


def pause(
    connection: sa.Connection, kind: str, lane: str, *, by: str, note: str | None, now: datetime
) -> None:
    """Pause a kind in a lane, either of them `*` for all. What is paused already stays as it is."""
    new = Pause(kind, lane, now, by, note)
    _change(connection, AuditAction.PAUSED, new, lambda before: paused(before, new))


def resume(
    connection: sa.Connection, kind: str, lane: str, *, by: str, note: str | None, now: datetime
) -> None:
    """Take a pause back. What is not paused stays as it is."""
    order = Pause(kind, lane, now, by, note)
    _change(connection, AuditAction.RESUMED, order, lambda before: resumed(before, kind, lane))


def record_queues(connection: sa.Connection, seen: Sequence[QueueObservation]) -> None:
    """Keep these queues as they were seen now, in the place of what was seen of them before."""
    if seen:
        connection.execute(upsert(connection, queues), [asdict(each) for each in seen])


def _list_pauses(connection: sa.Connection) -> list[Pause]:
    """Return all that is paused."""
    rows = connection.execute(sa.select(pauses).order_by(pauses.c.kind, pauses.c.lane)).mappings()
    return [Pause(**row) for row in rows]


def _lock_pauses(connection: sa.Connection, *, now: datetime) -> int:
    """Begin a change: return its revision, greater than all before it. Others wait until it is committed.

    It is the time in microseconds where that is greater, so that a database that was made anew, or restored,
    goes on above what workers have seen of the one before.
    """
    counting = upsert(connection, revisions, values={"value": revisions.c.value + 1})
    first = counting.values(name=_REVISION, value=1)
    following = connection.scalar(first.returning(revisions.c.value)) or 1
    revision = max(following, int(now.timestamp() * 1_000_000))
    connection.execute(revisions.update().where(revisions.c.name == _REVISION).values(value=revision))
    return revision


def _replace_pauses(connection: sa.Connection, items: Sequence[Pause]) -> None:
    """Store what is paused now, in place of what was. Only after `_lock_pauses`."""
    connection.execute(pauses.delete())
    if items:
        connection.execute(pauses.insert(), [asdict(each) for each in items])


def _list_queues(connection: sa.Connection) -> list[QueueObservation]:
    """Return every work queue that was ever seen, as it was last seen."""
    rows = connection.execute(sa.select(queues).order_by(queues.c.name)).mappings()
    return [QueueObservation(**row) for row in rows]


def _change(
    connection: sa.Connection,
    action: AuditAction,
    order: Pause,
    change: Callable[[list[Pause]], list[Pause]],
) -> None:
    """Store what an order comes to. It has a revision of its own even when it changes nothing."""
    _lock_pauses(connection, now=order.since)
    before = _list_pauses(connection)
    after = change(before)
    if after == before:
        return
    _replace_pauses(connection, after)
    write_audit(
        connection,
        action,
        target=queue_target(order.kind, order.lane),
        by=order.by,
        details={"kind": order.kind, "lane": order.lane, "note": order.note},
        now=order.since,
    )
