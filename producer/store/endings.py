"""Cancel jobs and batches: at once what is not running, and by its worker what is."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from producer.records import BatchRecord, JobRecord, Transition, UnreadableJob
from producer.store.batches import Move, count_moves
from producer.store.database import Database
from producer.store.events import announce_cancellation, announce_outcomes
from producer.store.queries import get_batch, get_job
from producer.store.rows import Standing, callback_urls, lock_jobs
from producer.store.schema import batches, jobs
from shared.errors import BatchNotFound, JobEndedAlready, JobNotFound
from shared.events import Cancellation, JobEnded
from shared.states import UNDER_WAY, JobState, position

REASON = "cancelled"

EXPLANATION = "Cancelled before it was run."

_PAGE_JOBS = 1_000
_OPEN = [state.value for state in JobState if not state.is_final]

MESSAGE_UNDECODABLE: Final = "message_undecodable"

# A fast worker may be ahead of the relay's mark.
_PUBLISHED = frozenset({JobState.ACCEPTED, *UNDER_WAY})


def cancel_job(connection: sa.Connection, job_id: UUID, *, now: datetime) -> JobRecord:
    """Cancel a job and return it; a running one is ended by its worker. Cancelling again changes nothing.

    Raises:
        JobNotFound: no row has this id.
        JobEndedAlready: the job has succeeded or is parked.
    """
    standing = lock_jobs(connection, [job_id])
    if job_id not in standing:
        raise JobNotFound(f"no job has the id {job_id}")
    place = standing[job_id]
    if place.state is not JobState.CANCELLED:
        if place.state.is_final:
            raise JobEndedAlready(f"job {job_id} has {place.state}")
        # The workers are told whatever the state says: a delivery may be on its way, or running unannounced.
        announce_cancellation(connection, Cancellation(job_id=job_id, run=place.run), now=now)
        _cancel(connection, standing, now=now)
    return get_job(connection, job_id)


def cancel_batch(database: Database, batch_id: UUID, *, now: datetime) -> BatchRecord:
    """Cancel a batch and return it: the workers are told first, then its jobs are cancelled in pages.

    Many transactions. If this process dies in between, the workers end the rest when it reaches them, and a
    second call goes on.

    Raises:
        BatchNotFound: no batch has this id.
    """
    database.write(begin_batch_cancel, batch_id, now=now)
    while database.write(cancel_page, batch_id, limit=_PAGE_JOBS, now=now):
        pass
    return database.read(get_batch, batch_id)


def begin_batch_cancel(connection: sa.Connection, batch_id: UUID, *, now: datetime) -> None:
    """Tell the workers that the batch is cancelled; its jobs follow, a page at a time.

    Raises:
        BatchNotFound: no row has this id.
    """
    mark = (
        batches.update()
        .where(batches.c.id == batch_id, batches.c.cancelled_at.is_(None))
        .values(cancelled_at=now)
    )
    if connection.execute(mark).rowcount:
        announce_cancellation(connection, Cancellation(batch_id=batch_id), now=now)
    elif not connection.scalar(sa.select(sa.exists().where(batches.c.id == batch_id))):
        raise BatchNotFound(f"no batch has the id {batch_id}")


def cancel_page(connection: sa.Connection, batch_id: UUID, *, limit: int, now: datetime) -> int:
    """Cancel up to `limit` jobs of a batch; return how many were looked at, 0 when none are left."""
    query = (
        sa.select(jobs.c.id)
        .where(jobs.c.batch_id == batch_id, jobs.c.state.in_(_OPEN), jobs.c.cancel_requested_at.is_(None))
        .order_by(jobs.c.id)
        .limit(limit)
    )
    standing = lock_jobs(connection, connection.scalars(query).all())
    _cancel(connection, standing, now=now)
    return len(standing)


def park_unreadable(
    connection: sa.Connection, unreadable: Iterable[UnreadableJob], *, now: datetime
) -> list[Transition]:
    """Park those of the jobs that are on their way, in the run that they are in; return what changed."""
    told = {each.job_id: each for each in unreadable}
    standing = {
        job_id: place for job_id, place in lock_jobs(connection, told).items() if place.state in _PUBLISHED
    }
    for job_id in sorted(standing):
        row = _parked(standing[job_id], told[job_id], now)
        connection.execute(jobs.update().where(jobs.c.id == job_id).values(row))
    moves = [Move(place.batch_id, place.state, JobState.PARKED) for place in standing.values()]
    count_moves(connection, moves, now=now)
    ended = [_unreadable_ended(place, told[job_id], now) for job_id, place in standing.items()]
    announce_outcomes(connection, ended, callback_urls(standing), now=now)
    return [
        Transition(job_id, place.kind, place.run, place.attempt, JobState.PARKED, MESSAGE_UNDECODABLE)
        for job_id, place in standing.items()
    ]


def _cancel(connection: sa.Connection, standing: Mapping[UUID, Standing], *, now: datetime) -> None:
    running = [job_id for job_id, place in standing.items() if place.state is JobState.RUNNING]
    waiting = {
        job_id: place
        for job_id, place in standing.items()
        if not place.state.is_final and place.state is not JobState.RUNNING
    }
    if running:
        connection.execute(
            jobs.update().where(jobs.c.id.in_(running)).values(cancel_requested_at=now, updated_at=now)
        )
    for run in sorted({place.run for place in waiting.values()}):
        ids = [job_id for job_id, place in waiting.items() if place.run == run]
        connection.execute(jobs.update().where(jobs.c.id.in_(ids)).values(_cancelled(run, now)))
    count_moves(
        connection,
        [Move(place.batch_id, place.state, JobState.CANCELLED) for place in waiting.values()],
        now=now,
    )
    ended = [_ended(job_id, place, now) for job_id, place in waiting.items()]
    announce_outcomes(connection, ended, callback_urls(waiting), now=now)


def _cancelled(run: int, now: datetime) -> dict[str, object]:
    return {
        "state": JobState.CANCELLED.value,
        "position": position(run=run, attempt=0, state=JobState.CANCELLED),
        "reason": REASON,
        "explanation": EXPLANATION,
        "due_at": None,
        "claimed_until": None,
        "cancel_requested_at": now,
        "finished_at": now,
        "updated_at": now,
    }


def _ended(job_id: UUID, place: Standing, now: datetime) -> JobEnded:
    return JobEnded(
        job_id=job_id,
        kind=place.kind,
        run=place.run,
        state=JobState.CANCELLED,
        attempt=place.attempt,
        reason=REASON,
        explanation=EXPLANATION,
        batch_id=place.batch_id,
        finished_at=now,
    )


def _parked(place: Standing, told: UnreadableJob, now: datetime) -> dict[str, object]:
    return {
        "state": JobState.PARKED.value,
        "position": position(run=place.run, attempt=0, state=JobState.PARKED),
        "reason": MESSAGE_UNDECODABLE,
        "explanation": told.explanation,
        "due_at": None,
        "claimed_until": None,
        "finished_at": now,
        "updated_at": now,
    }


def _unreadable_ended(place: Standing, told: UnreadableJob, now: datetime) -> JobEnded:
    return JobEnded(
        job_id=told.job_id,
        kind=place.kind,
        run=place.run,
        state=JobState.PARKED,
        attempt=place.attempt,
        reason=MESSAGE_UNDECODABLE,
        explanation=told.explanation,
        batch_id=place.batch_id,
        finished_at=now,
    )
