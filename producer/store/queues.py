"""What is paused, in rows; the work queues as a ledger last saw them; and whether agents ask for tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

import sqlalchemy as sa

from producer.callers import scoped
from producer.parking import AuditAction
from producer.pausing import (
    MOST_COUNTED,
    Circumstances,
    Pause,
    PauseList,
    QueueObservation,
    TaskQueueObservation,
    paused,
    resumed,
)
from producer.records import JobRecord
from producer.store.audit import queue_target, write_audit
from producer.store.hosts import hold_of
from producer.store.schema import IS_PICKABLE, jobs, pauses, queues, revisions, task_queues
from producer.store.sql import insert_absent, upsert
from shared.kinds.registry import Lane

_REVISION = "pauses"
# Task queues that nobody has asked for lately are forgotten; so are the first of them where somebody asks for
# ever new names.
_ASKED_LATELY = timedelta(days=7)
_MOST_TASK_QUEUES = 10_000


def circumstances(
    connection: sa.Connection, *, now: datetime, around: Iterable[JobRecord] = ()
) -> Circumstances:
    """Return what is paused, and what is known of all work queues and of the task queues of some jobs."""
    seen = {(queue.kind, queue.lane): queue for queue in list_queues(connection)}
    around = list(around)
    waiting = (job for job in around if job.queue is not None and not job.state.is_final)
    names = {scoped(job.queue or "", job.project): (job.project, job.queue or "") for job in waiting}
    # What is before a job is counted for one alone: a list says only which host it waits for.
    held = around if len(around) == 1 and around[0].held_for is not None else []
    holds = {job.id: hold for job in held if (hold := hold_of(connection, job.id)) is not None}
    pauses, tasks = _list_pauses(connection), _look_at(connection, names)
    return Circumstances(now, seen, pauses, tasks, holds=holds)


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
        connection.execute(upsert(connection.dialect.name, queues), [asdict(each) for each in seen])


def note_asked(connection: sa.Connection, name: str, *, agent: str, now: datetime) -> None:
    """Note that an agent asks for the tasks of a queue; those that nobody asks for any more are forgotten.

    Args:
        name: Of the queue in its project, as `producer.callers.scoped` makes it.
    """
    known = task_queues.update().where(task_queues.c.name == name).values(asked_at=now, agent=agent)
    if connection.execute(known).rowcount:
        return
    newest_first = sa.select(task_queues.c.name).order_by(task_queues.c.asked_at.desc())
    too_many = newest_first.offset(_MOST_TASK_QUEUES - 1).limit(1_000)
    forgotten = sa.or_(task_queues.c.asked_at < now - _ASKED_LATELY, task_queues.c.name.in_(too_many))
    connection.execute(task_queues.delete().where(forgotten))
    row = {"name": name, "asked_at": now, "agent": agent}
    connection.execute(insert_absent(connection, task_queues), row)


def list_asked(connection: sa.Connection, *, limit: int) -> list[tuple[str, datetime, str]]:
    """Return the task queues that agents have asked for, the latest first: name, when, and which agent.

    Names are as `producer.callers.scoped` makes them.
    """
    query = sa.select(task_queues.c.name, task_queues.c.asked_at, task_queues.c.agent)
    latest = query.order_by(task_queues.c.asked_at.desc()).limit(limit)
    return [tuple(row) for row in connection.execute(latest)]


def _look_at(
    connection: sa.Connection, names: Mapping[str, tuple[str, str]]
) -> dict[str, TaskQueueObservation]:
    """Return what is known of task queues, by their names, which are given with project and queue."""
    if not names:
        return {}
    query = sa.select(task_queues.c.name, task_queues.c.asked_at, task_queues.c.agent)
    asked = {name: said for name, *said in connection.execute(query.where(task_queues.c.name.in_([*names])))}
    return {
        name: TaskQueueObservation(_count_waiting(connection, *names[name]), *asked.get(name, ()))
        for name in sorted(names)
    }


def _count_waiting(connection: sa.Connection, project: str, queue: str) -> int:
    here = jobs.c.project == project, jobs.c.queue.between(queue, queue)
    some = sa.select(jobs.c.id).where(IS_PICKABLE, *here).limit(MOST_COUNTED)
    return connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0


def _list_pauses(connection: sa.Connection) -> list[Pause]:
    """Return all that is paused."""
    rows = connection.execute(sa.select(pauses).order_by(pauses.c.kind, pauses.c.lane)).mappings()
    return [Pause(**row) for row in rows]


def _lock_pauses(connection: sa.Connection, *, now: datetime) -> int:
    """Begin a change: return its revision, greater than all before it. Others wait until it is committed.

    It is the time in microseconds where that is greater, so that a database that was made anew, or restored,
    goes on above what workers have seen of the one before.
    """
    counting = upsert(connection.dialect.name, revisions, values={"value": revisions.c.value + 1})
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


def list_queues(connection: sa.Connection) -> list[QueueObservation]:
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
        project=None,
        by=order.by,
        details={"kind": order.kind, "lane": order.lane, "note": order.note},
        now=order.since,
    )
