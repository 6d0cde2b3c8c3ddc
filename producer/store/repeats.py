"""Repeats get the answer of their original, in pages, derived from what is stored: twice changes nothing.

An original's `same_as` is its own id until all its repeats have ended. So whatever ends it, in whatever
version, an index of few rows shows that there is something to do.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.callers import wire_project
from producer.records import LOOK_AFTER, JobRecord, Transition
from producer.repeats import answer_of, successor_args
from producer.store.batches import Move, count_moves
from producer.store.endings import end_jobs
from producer.store.page_bytes import fitting, row_bytes
from producer.store.rows import JOB_COLUMNS, LARGE_COLUMNS, Standing, job_records, lock_jobs
from producer.store.schema import IS_ENDED_ORIGINAL, IS_WAITING_REPEAT, batches, is_waiting_repeat, jobs
from producer.store.sql import is_one_of, stored
from producer.store.wakeup import announce_jobs
from producer.stored_json import json_text
from shared.events import JobEnded
from shared.states import JobState, position

PAGE_JOBS = 500
# The results of a page are written, and announced, in one transaction.
_PAGE_BYTES = 8 * 1_048_576


def ended_originals(connection: sa.Connection, *, limit: int, without: Collection[UUID] = ()) -> list[UUID]:
    """Return some jobs that have ended, and whose repeats may still wait. Locks nothing."""
    query = sa.select(jobs.c.id).where(IS_ENDED_ORIGINAL).limit(limit)
    if without:
        query = query.where(jobs.c.id.not_in(list(without)))
    return list(connection.scalars(query))


def answer_repeats(
    connection: sa.Connection, original_ids: Collection[UUID], *, now: datetime, limit: int = PAGE_JOBS
) -> list[Transition]:
    """End the next repeats of jobs that have ended, each as its original did; return what changed.

    Of a job that was cancelled alone, the first repeat asks in its place, and the others wait for that one.
    Of jobs with large results only the first are dealt with; the others are found again.
    """
    original_ids = _fitting(connection, original_ids)
    which = sa.and_(IS_WAITING_REPEAT, is_one_of(connection, jobs.c.same_as, original_ids))
    ids = connection.scalars(sa.select(jobs.c.id).where(which).limit(limit)).all()
    standing = lock_jobs(connection, [*original_ids, *ids])
    originals = _read_ended(connection, original_ids)
    waiting = _read_waiting(connection, ids, originals)
    changed: list[Transition] = []
    for original in [originals[id_] for id_ in sorted({each.original_id for each in waiting})]:
        if original.state is JobState.CANCELLED and not _is_batch_cancelled(connection, original):
            changed += _succeed(connection, original, now=now)
            waiting = [each for each in waiting if each.original_id != original.id]
    ends = [_end(originals[each.original_id], each, standing[each.id], now) for each in waiting]
    changed += end_jobs(connection, ends, standing, also=lambda end: {"result": end.result}, now=now)
    _release_originals(connection, originals)
    return changed


def look_after(
    connection: sa.Connection, due: Mapping[UUID, Standing], *, now: datetime
) -> dict[UUID, Standing]:
    """Let repeats that have waited long wait on; return the other jobs that are due, which are to run.

    Among those are repeats whose original is gone, or no longer answers for others.
    """
    repeats = {job_id: place.same_as for job_id, place in due.items() if place.same_as not in {None, job_id}}
    if not repeats:
        return dict(due)
    asking = sa.select(jobs.c.id).where(jobs.c.id.in_(set(repeats.values())), jobs.c.same_as == jobs.c.id)
    originals = set(connection.scalars(asking))
    waiting = [job_id for job_id, original in repeats.items() if original in originals]
    connection.execute(jobs.update().where(jobs.c.id.in_(waiting)).values(due_at=now + LOOK_AFTER))
    return {job_id: place for job_id, place in due.items() if job_id not in set(waiting)}


@dataclass(frozen=True, slots=True)
class _Repeat:
    """A repeat that waits."""

    id: UUID
    original_id: UUID
    args: Mapping[str, Any]
    due_at: datetime | None


def _fitting(connection: sa.Connection, ids: Collection[UUID]) -> list[UUID]:
    """Return the first of some jobs whose rows fit into one page."""
    size = row_bytes(connection.dialect.name, *LARGE_COLUMNS)
    query = sa.select(jobs.c.id, size).where(is_one_of(connection, jobs.c.id, ids)).order_by(jobs.c.id)
    return fitting((job_id, bytes_) for job_id, bytes_ in connection.execute(query))


def _read_ended(connection: sa.Connection, ids: Collection[UUID]) -> dict[UUID, JobRecord]:
    """Return the originals that have ended, but for those that were redriven or done with meanwhile."""
    query = sa.select(*JOB_COLUMNS).where(is_one_of(connection, jobs.c.id, ids), IS_ENDED_ORIGINAL)
    return {record.id: record for record in job_records(connection, query)}


def _read_waiting(
    connection: sa.Connection, ids: Collection[UUID], originals: Mapping[UUID, JobRecord]
) -> list[_Repeat]:
    """Return which of the locked repeats still wait for these, as many as one transaction can answer."""
    sizes = {id_: len(json_text(each.result)) for id_, each in originals.items()}
    columns = (jobs.c.id, jobs.c.same_as, stored(jobs.c.args), jobs.c.due_at)
    query = sa.select(*columns).where(is_one_of(connection, jobs.c.id, ids), IS_WAITING_REPEAT)
    found: list[_Repeat] = []
    total_bytes = 0
    for repeat in (_Repeat(*row) for row in connection.execute(query.order_by(jobs.c.id))):
        total_bytes += sizes.get(repeat.original_id, 0) + len(json_text(repeat.args))
        if repeat.original_id in originals and (total_bytes <= _PAGE_BYTES or not found):
            found.append(repeat)
    return found


def _release_originals(connection: sa.Connection, ids: Collection[UUID]) -> None:
    """Let the originals go that nothing waits for any more."""
    repeat = jobs.alias("repeat")
    waits = sa.exists().where(repeat.c.same_as == jobs.c.id, is_waiting_repeat(repeat))
    connection.execute(
        jobs.update()
        .where(is_one_of(connection, jobs.c.id, ids), IS_ENDED_ORIGINAL, ~waits)
        .values(same_as=None)
    )


def _is_batch_cancelled(connection: sa.Connection, job: JobRecord) -> bool:
    query = sa.select(batches.c.cancelled_at).where(batches.c.id == job.batch_id)
    return connection.scalar(query) is not None


def _end(original: JobRecord, repeat: _Repeat, place: Standing, now: datetime) -> JobEnded:
    result = said = None
    if original.result is not None:
        result = answer_of(original.result, original=original.args, repeat=repeat.args)
    if original.state is not JobState.SUCCEEDED:
        said = f"{original.explanation or original.reason} Job {original.id} asked for this one too."
    return JobEnded(
        job_id=repeat.id,
        kind=place.kind,
        run=place.run,
        state=original.state,
        attempt=place.attempt,
        reason=original.reason,
        explanation=said,
        result=result,
        batch_id=place.batch_id,
        ref=place.ref,
        project=wire_project(place.project),
        finished_at=now,
    )


def _succeed(connection: sa.Connection, original: JobRecord, *, now: datetime) -> list[Transition]:
    """Let the first repeat ask in the place of a job that was cancelled, and the next ones wait for it.

    In a group of more than a page, each page of repeats gets such a successor.
    """
    which = sa.and_(IS_WAITING_REPEAT, jobs.c.same_as == original.id)
    first = sa.select(jobs.c.id).where(which).order_by(jobs.c.id).limit(PAGE_JOBS)
    ids = connection.scalars(first).all()
    standing = lock_jobs(connection, ids)
    waiting = _read_waiting(connection, ids, {original.id: original})
    if not waiting:
        return []
    successor, place = waiting[0], standing[waiting[0].id]
    # When it would have been looked after says when its batch is to run.
    planned_at = successor.due_at - LOOK_AFTER if successor.due_at else now
    state = JobState.SCHEDULED if planned_at > now else JobState.ACCEPTED
    together = is_one_of(connection, jobs.c.id, [each.id for each in waiting])
    connection.execute(jobs.update().where(together).values(same_as=successor.id))
    values = {
        "state": state,
        "position": position(run=place.run, attempt=place.attempt, state=state),
        "due_at": planned_at if planned_at > now else None,
        "args": successor_args(original.args, successor.args),
        "updated_at": now,
    }
    connection.execute(jobs.update().where(jobs.c.id == successor.id).values(values))
    count_moves(connection, [Move(place.batch_id, place.state, state)], now=now)
    announce_jobs(connection)
    return [Transition(successor.id, place.kind, place.run, place.attempt, state, None)]
