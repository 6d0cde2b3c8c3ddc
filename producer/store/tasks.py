"""Tasks in the store: agents lease them, extend and end the lease; leases run out. One transaction each.

The store is the queue of tasks. A task is pickable while it is `queued`, or `delayed` and ready; picking it
makes it `running` until `leased_until`, in its next attempt, with a new token. All ends go the way of every
report, through `recording.record_reports`.

Rows are locked in any order only by those who skip what others have locked, so nobody waits for anybody who
waits. The order of picks is that of the ids. A UUIDv7 begins with the time at which an API process took the
task in, to the millisecond, and the ids of one process always grow; so do those of a batch, line by line.
Tasks of two API processes, within one millisecond or by clocks that differ, have no order.
"""

import random
import secrets
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.callers import scoped
from producer.records import JobRecord
from producer.store.batches import Move, count_moves
from producer.store.outputs import keep_output
from producer.store.page_bytes import lock_fitting
from producer.store.projects import EVERY_PROJECT, visible
from producer.store.queries import get_jobs
from producer.store.queues import open_lanes
from producer.store.recording import record_reports
from producer.store.rows import JOB_COLUMNS, job_record, write_jobs
from producer.store.schema import IS_LEASED_TASK, IS_PICKABLE, IS_UNREADY_TASK, attempts, jobs
from producer.store.sql import is_one_of, json_rowset, read_in_order, rows_parameter, upsert
from producer.store.wakeup import announce_tasks, announce_tasks_where
from producer.stored_json import json_text
from producer.tasks import (
    MAX_LEASE_SECONDS,
    FinishRequest,
    Lease,
    LeaseEnd,
    PickedTask,
    PickRequest,
    QueueLength,
    TaskEnd,
    TaskQueue,
    TaskStanding,
    ended_report,
    expired_report,
)
from shared.errors import JobNotFound, LeaseLost, NotATask, RetrieverError
from shared.kinds.command import OutputSnapshot
from shared.kinds.registry import Lane
from shared.kinds.task import TASK, PickOrder
from shared.messages import Report
from shared.states import JobState, position

# A row of `_TASK_COLUMNS`.
_Row = Any

_TOKEN_BYTES = 16
PICK_BYTES = 1_048_576
"""How much one pick gives, unless a single task has more: many agents pick at the same time."""
# A lease that ends later than any taken now is from before the clock was set back, and its agent may be long
# dead. Twice, because the clocks of two machines differ.
_LONGEST_LEASE = timedelta(seconds=2 * MAX_LEASE_SECONDS)
_TASK_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.state,
    jobs.c.run,
    jobs.c.attempt,
    jobs.c.retry,
    jobs.c.queue,
    jobs.c.lease,
    jobs.c.leased_until,
    jobs.c.cancel_requested_at,
)
_LAST_ATTEMPTS = sa.select(
    attempts.c.job_id, attempts.c.worker, attempts.c.started_at, attempts.c.outcome, attempts.c.reason
).join_from(
    attempts,
    jobs,
    sa.and_(
        attempts.c.job_id == jobs.c.id, attempts.c.run == jobs.c.run, attempts.c.number == jobs.c.attempt
    ),
)
# The result of an attempt before is forgotten with the pick.
_WITHOUT_RESULT = [sa.null().label("result") if column.key == "result" else column for column in JOB_COLUMNS]
# After a hand in the database.
_NO_ATTEMPT = ("unknown", None, None, None)


def pick(connection: sa.Connection, asked: PickRequest, *, now: datetime) -> list[PickedTask]:
    """Lease tasks of a queue to an agent, in the order asked for; none while all their lanes are paused.

    A task that another agent is picking at this moment is passed over, and one whose deadline has passed.
    """
    return pick_all(connection, [asked], now=now)[0]


def pick_all(
    connection: sa.Connection, asked: Sequence[PickRequest], *, now: datetime
) -> list[list[PickedTask]]:
    """Lease tasks to agents, and return what each got: what it would have got alone, one after the other.

    Those that want the same queue in the same order come one after the other, and cost little more than one.
    Who wants many large tasks gets fewer: none further once they have `PICK_BYTES`.
    """
    picked: list[list[PickedTask]] = [[] for _ in asked]
    moves: list[Move] = []
    if lanes := open_lanes(connection, TASK):
        for places in _alike(asked):
            waiting = deque(places)
            while waiting:
                limit = sum(asked[place].limit for place in waiting)
                most_bytes = PICK_BYTES * len(waiting)
                first = asked[waiting[0]]
                found = deque(
                    _lock_pickable(connection, first, lanes, limit=limit, most_bytes=most_bytes, now=now)
                )
                is_cut = sum(map(_task_bytes, found)) >= most_bytes
                served: list[tuple[PickedTask, str]] = []
                while waiting and (found or not is_cut):
                    place = waiting.popleft()
                    taken = _share(found, asked[place].limit)
                    picked[place] = _lease_out(taken, asked[place], now)
                    served += ((each, asked[place].agent) for each in picked[place])
                    moves += (Move(before.batch_id, before.state, JobState.RUNNING) for before in taken)
                # Before the next look, which does not pass over what this transaction has locked itself.
                _write_picked(connection, served, now)
    # At the end, so that rows of batches are locked in their order.
    count_moves(connection, moves, now=now)
    return picked


def extend(
    connection: sa.Connection,
    job_id: UUID,
    token: str,
    *,
    project: str | None,
    lease_seconds: float,
    output: OutputSnapshot | None = None,
    now: datetime,
) -> Lease:
    """Let a lease run for so long from now, and return it; keep what the task has written so far.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        NotATask: the job is of another kind.
        LeaseLost: the token is not that of a lease that is held now.
    """
    task = _lock_task(connection, job_id, project=project)
    if not task.is_held_by(token, now):
        raise LeaseLost(task.refusal(token, now))
    leased_until = now + timedelta(seconds=lease_seconds)
    connection.execute(
        jobs.update().where(jobs.c.id == job_id).values(leased_until=leased_until, updated_at=now)
    )
    if output is not None:
        keep_output(connection, job_id, task.run, task.attempt, output, now=now)
    return Lease(leased_until, cancel_requested=task.cancel_requested_at is not None)


def finish(
    connection: sa.Connection,
    job_id: UUID,
    token: str,
    end: TaskEnd,
    *,
    project: str | None,
    now: datetime,
) -> JobRecord:
    """End an attempt as its agent says, and return the task; the same once more changes nothing.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        NotATask: the job is of another kind.
        LeaseLost: the token is not that of a lease that is held now, and has not ended the attempt so before.
    """
    (ended,) = finish_all(connection, [FinishRequest(job_id, token, end, project=project)], now=now)
    if isinstance(ended, RetrieverError):
        raise ended
    return ended


def finish_all(
    connection: sa.Connection, asked: Sequence[FinishRequest], *, now: datetime
) -> list[JobRecord | RetrieverError]:
    """End attempts as their agents say, each as if it had come alone, in this order.

    Returns:
        For each its task, or the error that `finish` raises; that changes nothing.
    """
    weighed, reports = _weigh(connection, dict(enumerate(asked)), now=now)
    if reports:
        record_reports(connection, reports, now=now)
    # What came behind the word that ended a task is weighed when that is written. Nobody holds the task any
    # more, so it writes nothing: locks are taken once, in their order.
    behind = {place: each for place, each in enumerate(asked) if place not in weighed}
    if behind:
        weighed |= _weigh(connection, behind, now=now)[0]
    refused = {place: error for place, error in weighed.items() if error is not None}
    done = {each.job_id for place, each in enumerate(asked) if place not in refused}
    ended = get_jobs(connection, done, project=EVERY_PROJECT)
    return [refused.get(place) or ended[each.job_id] for place, each in enumerate(asked)]


def expire_leases(
    connection: sa.Connection,
    *,
    limit: int,
    now: datetime,
    only: UUID | None = None,
    without: Collection[UUID] = (),
) -> list[LeaseEnd]:
    """End up to `limit` leases that have run out, the longest first; return what became of their tasks."""
    ended = _lock_expired(connection, limit=limit, now=now, only=only, without=without)
    if not ended:
        return []
    recorded = record_reports(connection, [expired_report(task, now=now) for task in ended], now=now)
    ids = [task.id for task in ended]
    connection.execute(jobs.update().where(is_one_of(connection, jobs.c.id, ids)).values(lease=None))
    again = [each.job_id for each in recorded.transitions if each.state is JobState.DELAYED]
    connection.execute(jobs.update().where(is_one_of(connection, jobs.c.id, again)).values(ready_at=now))
    if again:
        announce_tasks_where(connection, is_one_of(connection, jobs.c.id, again))
    queues = {task.id: task.queue or "" for task in ended}
    return [LeaseEnd(each, queues[each.job_id]) for each in recorded.transitions]


def expired_tasks(
    connection: sa.Connection, *, limit: int, now: datetime, without: Collection[UUID] = ()
) -> list[UUID]:
    """Return the ids of up to `limit` tasks whose lease has run out. Locks nothing."""
    found: list[UUID] = []
    for which in _has_expired(now):
        query = sa.select(jobs.c.id).where(which, *_are_not(without))
        query = query.order_by(jobs.c.leased_until, jobs.c.id).limit(limit - len(found))
        found += connection.scalars(query)
    return found


def make_ready(connection: sa.Connection, *, limit: int, now: datetime) -> list[str]:
    """Let up to `limit` delayed tasks that are due be picked; return the queue of each."""
    read_in_order(connection)
    due = (
        sa.select(jobs.c.id)
        .where(IS_UNREADY_TASK, jobs.c.due_at <= now)
        .order_by(jobs.c.due_at, jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("due")
    )
    ready = jobs.update().where(jobs.c.id.in_(sa.select(due.c.id))).values(ready_at=now)
    found = connection.execute(ready.returning(jobs.c.project, jobs.c.queue)).all()
    announce_tasks(connection, (scoped(queue or "", project) for project, queue in found))
    return [queue or "" for _, queue in found]


def next_due_at(
    connection: sa.Connection, *, now: datetime, without: Collection[UUID] = ()
) -> datetime | None:
    """Return when a delayed task is due next, or a lease runs out; None when there is neither.

    Args:
        without: Tasks that do not count.
    """
    if expired_tasks(connection, limit=1, now=now, without=without):
        return now
    others = _are_not(without)
    times: list[datetime | None] = [
        connection.scalar(sa.select(sa.func.min(jobs.c.due_at)).where(IS_UNREADY_TASK, *others)),
        connection.scalar(sa.select(sa.func.min(jobs.c.leased_until)).where(IS_LEASED_TASK, *others)),
    ]
    return min((at for at in times if at is not None), default=None)


def waiting_queues(
    connection: sa.Connection, queues: Iterable[TaskQueue], *, now: datetime
) -> frozenset[TaskQueue]:
    """Return which of these queues have a task that a pick would give: one look into an index for each."""
    found = _have_tasks(connection, frozenset(queues), list(Lane), now)
    # Mostly there is nothing, and then nobody need know what is paused.
    if not found or len(lanes := open_lanes(connection, TASK)) == len(Lane):
        return found
    return _have_tasks(connection, found, lanes, now) if lanes else frozenset()


def queue_lengths(connection: sa.Connection, *, limit: int) -> list[QueueLength]:
    """Return how long the queues are that have unfinished tasks, by name; counts all of those.

    Args:
        limit: How many queues at most, those with the most tasks.
    """
    counts: dict[str, Counter[str]] = {}
    projects: dict[str, set[str]] = {}
    for name, which in (("ready", IS_PICKABLE), ("delayed", IS_UNREADY_TASK), ("running", IS_LEASED_TASK)):
        columns = jobs.c.project, jobs.c.queue
        query = sa.select(*columns, sa.func.count()).where(which).group_by(*columns)
        for project, queue, number in connection.execute(query):
            projects.setdefault(queue or "", set()).add(project)
            counts.setdefault(queue or "", Counter())[name] += number
    longest = sorted(counts, key=lambda queue: (-counts[queue].total(), queue))[:limit]
    return [
        QueueLength(
            queue,
            **counts[queue],
            oldest_ready_at=_oldest_ready_at(connection, queue, projects.get(queue, ())),
        )
        for queue in sorted(longest)
    ]


def _alike(asked: Sequence[PickRequest]) -> list[list[int]]:
    """Return the places of the requests, together those for the same queue in the same order."""
    alike: dict[tuple[str, str, PickOrder], list[int]] = {}
    for place, each in enumerate(asked):
        alike.setdefault((each.project, each.queue, each.order), []).append(place)
    return list(alike.values())


def _task_bytes(task: JobRecord) -> int:
    return len(json_text(task.args))


def _share(found: deque[JobRecord], limit: int) -> list[JobRecord]:
    """Take the tasks of one request from those that were found."""
    taken: list[JobRecord] = []
    taken_bytes = 0
    while found and len(taken) < limit and taken_bytes < PICK_BYTES:
        taken.append(found.popleft())
        taken_bytes += _task_bytes(taken[-1])
    return taken


def _lock_pickable(
    connection: sa.Connection,
    asked: PickRequest,
    lanes: Collection[Lane],
    *,
    limit: int,
    most_bytes: int,
    now: datetime,
) -> list[JobRecord]:
    """Lock tasks in the order asked for, no further ones once they have so many bytes; return them."""
    read_in_order(connection)
    newest_first = asked.order is PickOrder.NEWEST
    # The queue too, though it is one: no other index then promises the order.
    order = [column.desc() if newest_first else column.asc() for column in (jobs.c.queue, jobs.c.id)]
    given = _is_given(asked.project, asked.queue, lanes, now)
    which = sa.select(jobs.c.id).where(*given).order_by(*order).limit(limit)
    ids = lock_fitting(connection, which, [jobs.c.args], most_bytes=most_bytes, key_share=True)
    query = sa.select(*_WITHOUT_RESULT).where(is_one_of(connection, jobs.c.id, ids))
    found = [job_record(row) for row in connection.execute(query).mappings()] if ids else []
    # By the numbers, because ids compare themselves in Python.
    return sorted(found, key=lambda task: task.id.int, reverse=newest_first)


def _have_tasks(
    connection: sa.Connection, queues: Collection[TaskQueue], lanes: Collection[Lane], now: datetime
) -> frozenset[TaskQueue]:
    query = _queues_with_tasks(connection.dialect.name, frozenset(lanes))
    asked = [{"project": project, "queue": queue} for project, queue in queues]
    found = connection.execute(query, {**rows_parameter(connection, asked), "now": now})
    return frozenset(TaskQueue(row.project, row.queue) for row in found)


@cache
def _queues_with_tasks(dialect: str, lanes: frozenset[Lane]) -> sa.Select[tuple[str, str]]:
    """Return the query for those of the queues asked for that have a task. Made once: it is put often."""
    asked = json_rowset(dialect, jobs, ("project", "queue")).c
    now = sa.bindparam("now", type_=jobs.c.deadline_at.type)
    given = _is_given(asked.project, asked.queue, lanes, now)
    return sa.select(asked.project, asked.queue).where(sa.exists().where(*given))


def _is_given(
    project: str | sa.ColumnElement[str],
    queue: str | sa.ColumnElement[str],
    lanes: Collection[Lane],
    now: datetime | sa.ColumnElement[datetime],
) -> list[sa.ColumnElement[bool]]:
    given = [
        IS_PICKABLE,
        jobs.c.project == project,
        jobs.c.queue.between(queue, queue),
        sa.or_(jobs.c.deadline_at.is_(None), jobs.c.deadline_at > now),
    ]
    return given if len(lanes) == len(Lane) else [*given, jobs.c.lane.in_(lanes)]


def _lease_out(found: Iterable[JobRecord], asked: PickRequest, now: datetime) -> list[PickedTask]:
    """Return tasks as they are once an agent holds them, with the token of this pick."""
    token, leased_until = secrets.token_urlsafe(_TOKEN_BYTES), now + timedelta(seconds=asked.lease_seconds)
    return [PickedTask(_leased(before, leased_until), token, leased_until) for before in found]


def _write_picked(connection: sa.Connection, picked: Sequence[tuple[PickedTask, str]], now: datetime) -> None:
    """Write tasks that were picked, each with the name of its agent, and the start of their attempts."""
    if not picked:
        return
    write_jobs(connection, [_picked_row(each, now) for each, _ in picked])
    rows = [_attempt_row(each.job, agent, now) for each, agent in picked]
    connection.execute(_starts(connection.dialect.name, tuple(rows[0])), rows_parameter(connection, rows))


@cache
def _starts(dialect: str, names: tuple[str, ...]) -> sa.Insert:
    # With a condition, or SQLite takes the ON of the conflict for that of a join.
    every = sa.select(json_rowset(dialect, attempts, names)).where(sa.true())
    # Replaced, not inserted: an agent must not be refused because a row is there that nobody knows of.
    return upsert(dialect, attempts).from_select(names, every)


def _leased(before: JobRecord, leased_until: datetime) -> JobRecord:
    return replace(
        before,
        state=JobState.RUNNING,
        attempt=before.attempt + 1,
        reason=None,
        explanation=None,
        result=None,
        due_at=None,
        leased_until=leased_until,
    )


def _picked_row(picked: PickedTask, now: datetime) -> dict[str, Any]:
    job = picked.job
    return {
        "id": job.id,
        "position": position(run=job.run, attempt=job.attempt, state=job.state),
        "state": job.state,
        "attempt": job.attempt,
        "reason": None,
        "explanation": None,
        "result": None,
        "due_at": None,
        "ready_at": None,
        "lease": picked.token,
        "leased_until": picked.leased_until,
        "updated_at": now,
    }


def _attempt_row(picked: JobRecord, agent: str, now: datetime) -> dict[str, Any]:
    return {
        "job_id": picked.id,
        "run": picked.run,
        "number": picked.attempt,
        "started_at": now,
        "ended_at": None,
        "outcome": None,
        "reason": None,
        "explanation": None,
        "wait_seconds": None,
        "worker": agent,
    }


def _weigh(
    connection: sa.Connection, asked: Mapping[int, FinishRequest], *, now: datetime
) -> tuple[dict[int, RetrieverError | None], list[Report]]:
    """Lock tasks; return which words hold, by their places, and the reports that end attempts.

    Words that come behind one that ends the same task are left out.
    """
    tasks = _lock_tasks(connection, {(each.job_id, each.project) for each in asked.values()})
    weighed: dict[int, RetrieverError | None] = {}
    reports: dict[UUID, Report] = {}
    for place, each in asked.items():
        if each.job_id in reports:
            continue
        task = tasks[each.job_id, each.project]
        weighed[place] = None
        if isinstance(task, RetrieverError):
            weighed[place] = task
        elif task.is_held_by(each.token, now):
            reports[each.job_id] = ended_report(task, each.end, now=now, random=random.random)
        elif not task.is_ended_by(each.token, each.end):
            weighed[place] = LeaseLost(task.refusal(each.token, now))
    return weighed, list(reports.values())


def _lock_task(connection: sa.Connection, job_id: UUID, *, project: str | None) -> TaskStanding:
    task = _lock_tasks(connection, {(job_id, project)})[job_id, project]
    if isinstance(task, RetrieverError):
        raise task
    return task


def _lock_tasks(
    connection: sa.Connection, asked: Collection[tuple[UUID, str | None]]
) -> dict[tuple[UUID, str | None], TaskStanding | RetrieverError]:
    """Lock tasks in the order of their ids; return where each is, or why it is none.

    Args:
        asked: The ids, each with the project of whoever names it.
    """
    ids_by_project: dict[str | None, list[UUID]] = {}
    for job_id, project in asked:
        ids_by_project.setdefault(project, []).append(job_id)
    named = [
        sa.and_(is_one_of(connection, jobs.c.id, ids), *visible(jobs, project))
        for project, ids in ids_by_project.items()
    ]
    query = (
        sa.select(*_TASK_COLUMNS, jobs.c.project)
        .where(sa.or_(sa.false(), *named))
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    )
    locked = connection.execute(query).all()
    there = {
        task.id: task
        if task.kind == TASK
        else NotATask(f"job {task.id} is of the kind {task.kind}, which no agent picks")
        for task in _standing(connection, locked)
    }
    projects = {row.id: row.project for row in locked}
    return {
        (job_id, project): there[job_id]
        if job_id in there and project in {EVERY_PROJECT, projects[job_id]}
        else JobNotFound(f"no job has the id {job_id}")
        for job_id, project in asked
    }


def _lock_expired(
    connection: sa.Connection, *, limit: int, now: datetime, only: UUID | None, without: Collection[UUID]
) -> list[TaskStanding]:
    read_in_order(connection)
    chosen = [*([] if only is None else [jobs.c.id == only]), *_are_not(without)]
    rows: list[_Row] = []
    for which in _has_expired(now):
        query = (
            sa.select(*_TASK_COLUMNS)
            .where(which, *chosen)
            .order_by(jobs.c.leased_until, jobs.c.id)
            .limit(limit - len(rows))
            .with_for_update(skip_locked=True, key_share=True)
        )
        rows += connection.execute(query)
    return _standing(connection, rows)


def _has_expired(now: datetime) -> Iterator[sa.ColumnElement[bool]]:
    yield sa.and_(IS_LEASED_TASK, jobs.c.leased_until <= now)
    yield sa.and_(IS_LEASED_TASK, jobs.c.leased_until > now + _LONGEST_LEASE)
    # Nothing of ours leaves a running task without a lease.
    yield sa.and_(IS_LEASED_TASK, jobs.c.leased_until.is_(None))


def _standing(connection: sa.Connection, locked: Sequence[_Row]) -> list[TaskStanding]:
    """Return where locked tasks are, with their last attempts.

    By a statement of its own: one that waits for a lock joins what it read before it waited.
    """
    if not locked:
        return []
    ids = [row.id for row in locked]
    query = _LAST_ATTEMPTS.where(is_one_of(connection, jobs.c.id, ids))
    last = {job_id: attempt for job_id, *attempt in connection.execute(query)}
    return [TaskStanding(*row[: len(_TASK_COLUMNS)], *last.get(row.id, _NO_ATTEMPT)) for row in locked]


def _oldest_ready_at(connection: sa.Connection, queue: str, projects: Iterable[str]) -> datetime | None:
    found: list[datetime | None] = []
    for project in projects:
        here = IS_PICKABLE, jobs.c.project == project, jobs.c.queue.between(queue, queue)
        query = sa.select(jobs.c.created_at).where(*here).order_by(jobs.c.queue, jobs.c.id).limit(1)
        found.append(connection.scalar(query))
    return min((at for at in found if at is not None), default=None)


def _are_not(without: Collection[UUID]) -> list[sa.ColumnElement[bool]]:
    return [jobs.c.id.not_in(list(without))] if without else []
