"""How jobs end: as a worker reports it, cancelled, expired, discarded, or with a message nobody can read.

`end_jobs` is the one place where a job ends. Reports come to it from `recording.py`, expired jobs from
`schedules.py` and discarded ones from `parking.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from producer.callers import wire_project
from producer.paged_fetch import page_of
from producer.parking import ANONYMOUS, CANCELLED, AuditAction, MovedJob
from producer.records import BatchRecord, JobRecord, Transition, UnreadableJob
from producer.store.audit import batch_target, job_target, write_audit
from producer.store.batches import Move, count_moves
from producer.store.database import Database
from producer.store.events import announce_cancellations, announce_outcomes
from producer.store.feed import next_number, number_batches
from producer.store.hosts import left, note_changes
from producer.store.projects import EVERY_PROJECT, visible
from producer.store.queries import get_batch, get_job
from producer.store.quotas import Stored, count_stored
from producer.store.rows import OPEN_STATES, Standing, lock_job, lock_jobs, write_jobs
from producer.store.schema import batches, jobs
from shared.errors import BatchNotFound, JobEndedAlready
from shared.events import Cancellation, JobEnded
from shared.states import UNDER_WAY, JobState, position

MESSAGE_UNDECODABLE: Final = "message_undecodable"

_CANCELLED_EXPLANATION = "Cancelled while no attempt was known to run."
_PAGE_JOBS = 1_000
# A fast worker may be ahead of the relay's mark.
_PUBLISHED = frozenset({JobState.ACCEPTED, *UNDER_WAY})


def end_jobs(
    connection: sa.Connection,
    ends: Sequence[JobEnded],
    standing: Mapping[UUID, Standing],
    *,
    now: datetime,
    also: Callable[[JobEnded], Mapping[str, Any]] = lambda _: {},
    moves: Iterable[Move] = (),
    began_at: Mapping[UUID, datetime | None] | None = None,
    are_hosts_noted: bool = False,
    stored: Stored | None = None,
) -> list[Transition]:
    """End jobs that are locked: write their rows, count them in their batches, and tell of each end.

    The broker gets an event of each, and who asked to be called back a webhook job, in this transaction.

    Args:
        standing: Where the jobs were when they were locked.
        also: Further columns of an end's row, the same ones for all.
        moves: What else this transaction has moved, counted in the same go.
        began_at: When the attempts that ended were started.
        are_hosts_noted: Whether what it changes in hosts is written; rows of hosts are locked before batches.
        stored: Jobs that this transaction has stored, which are counted in the same go.
    """
    if not are_hosts_noted:
        changes = (change for end in ends for change in left(standing[end.job_id], now=now))
        note_changes(connection, changes, now=now)
    begun = began_at or {}
    ended = (
        Move(
            standing[end.job_id].batch_id,
            standing[end.job_id].state,
            end.state,
            began_at=begun.get(end.job_id),
        )
        for end in ends
    )
    completed = count_moves(connection, [*moves, *ended], now=now)
    if ends:
        # Behind all other locks; see `next_number`.
        number = next_number(connection, now=now)
        write_jobs(connection, [{**_row(end, now), "feed_number": number, **also(end)} for end in ends])
        number_batches(connection, completed.batch_ids, number)
    urls = {end.job_id: url for end in ends if (url := standing[end.job_id].callback_of(end.state))}
    webhooks = announce_outcomes(connection, ends, urls, now=now)
    count_stored(connection, completed.stored + webhooks + (stored or Stored()))
    return [
        Transition(end.job_id, end.kind, end.run, end.attempt, end.state, _row_reason(end)) for end in ends
    ]


def end_of(
    job_id: UUID, place: Standing, state: JobState, *, reason: str, explanation: str, now: datetime
) -> JobEnded:
    """Return the end of a job in the run and after the attempt that it is in."""
    return JobEnded(
        job_id=job_id,
        kind=place.kind,
        run=place.run,
        state=state,
        attempt=place.attempt,
        reason=reason,
        explanation=explanation,
        batch_id=place.batch_id,
        ref=place.ref,
        project=wire_project(place.project),
        finished_at=now,
    )


def cancel_job(
    connection: sa.Connection, job_id: UUID, *, project: str | None, now: datetime, by: str = ANONYMOUS
) -> JobRecord:
    """Cancel a job and return it; a running one is ended by its worker. Cancelling again changes nothing.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        JobEndedAlready: the job has succeeded or is parked.
    """
    place = lock_job(connection, job_id, project=project)
    if place.state is not JobState.CANCELLED:
        if place.state.is_final:
            raise JobEndedAlready(f"job {job_id} has {place.state}")
        # The workers are told whatever the state says: a delivery may be on its way, or running unannounced.
        announce_cancellations(connection, [Cancellation(job_id=job_id, run=place.run)], now=now)
        _cancel(connection, {job_id: place}, now=now)
        write_audit(
            connection,
            AuditAction.JOB_CANCELLED,
            target=job_target(job_id),
            project=place.project,
            by=by,
            details={"kind": place.kind, "run": place.run, "state": place.state},
            now=now,
        )
    return get_job(connection, job_id, project=project)


def cancel_locked(
    connection: sa.Connection, standing: Mapping[UUID, Standing], *, now: datetime
) -> list[MovedJob]:
    """Cancel jobs that are locked and have not ended, as `cancel_job` does; return them as they are now."""
    told = [Cancellation(job_id=job_id, run=place.run) for job_id, place in sorted(standing.items())]
    announce_cancellations(connection, told, now=now)
    _cancel(connection, standing, now=now)
    running = JobState.RUNNING
    return [
        MovedJob(job_id, place.kind, place.run, running if place.state is running else JobState.CANCELLED)
        for job_id, place in sorted(standing.items())
    ]


def cancel_batch(
    database: Database, batch_id: UUID, *, project: str | None, now: datetime, by: str = ANONYMOUS
) -> BatchRecord:
    """Cancel a batch and return it: the workers are told first, then its jobs are cancelled in pages.

    It ends the runs that are under way; a job that is redriven later runs. Many transactions. If this process
    dies in between, the workers end the rest when it reaches them, and a second call goes on.

    Raises:
        BatchNotFound: no batch has this id, for a caller of this project.
    """
    database.write(_begin_batch_cancel, batch_id, project=project, by=by, now=now)
    while database.write(_cancel_page, batch_id, limit=_PAGE_JOBS, now=now):
        pass
    return database.read(get_batch, batch_id, project=project)


def park_unreadable(
    connection: sa.Connection, unreadable: Iterable[UnreadableJob], *, now: datetime
) -> list[Transition]:
    """Park jobs whose message a worker could not read, such as one that a newer version wrote. Idempotent.

    No job that has ended, was never published, or is in another run by now, is touched. No attempt was made.

    Args:
        unreadable: Those whose message had the token of the run.
    """
    by_id = {each.job_id: each for each in unreadable}
    locked = lock_jobs(connection, by_id)
    standing = {
        job_id: place
        for job_id, place in locked.items()
        if place.state in _PUBLISHED and place.run == by_id[job_id].run
    }
    ends = [
        end_of(
            job_id,
            place,
            JobState.PARKED,
            reason=MESSAGE_UNDECODABLE,
            explanation=by_id[job_id].explanation,
            now=now,
        )
        for job_id, place in standing.items()
    ]
    return end_jobs(connection, ends, standing, now=now)


def _begin_batch_cancel(
    connection: sa.Connection, batch_id: UUID, *, project: str | None, by: str, now: datetime
) -> None:
    here = [batches.c.id == batch_id, *visible(batches, project)]
    is_open = sa.exists().where(_is_open_of(batch_id))
    # A later cancel finds what was redriven since.
    mark = (
        batches.update()
        .where(*here, sa.or_(batches.c.cancelled_at.is_(None), is_open))
        .values(cancelled_at=now)
        .returning(batches.c.kind, batches.c.total, batches.c.project)
    )
    if row := connection.execute(mark).one_or_none():
        announce_cancellations(connection, [Cancellation(batch_id=batch_id)], now=now)
        write_audit(
            connection,
            AuditAction.BATCH_CANCELLED,
            target=batch_target(batch_id),
            project=row.project,
            by=by,
            details={"kind": row.kind, "total": row.total},
            now=now,
        )
    elif not connection.scalar(sa.select(sa.exists().where(*here))):
        raise BatchNotFound(f"no batch has the id {batch_id}")


def _cancel_page(connection: sa.Connection, batch_id: UUID, *, limit: int, now: datetime) -> int:
    """Cancel up to `limit` jobs of a batch; return how many were looked at, 0 when none are left."""
    query = sa.select(jobs.c.id).where(_is_open_of(batch_id)).order_by(jobs.c.id).limit(limit)
    standing = lock_jobs(connection, connection.scalars(query).all())
    # What tells of the batch covers only jobs that come with it, in their first run.
    are_pages = _has_pages(connection, standing)
    told = [
        Cancellation(job_id=job_id, run=place.run)
        for job_id, place in standing.items()
        if not place.state.is_final and (place.run > 1 or are_pages)
    ]
    announce_cancellations(connection, told, now=now)
    _cancel(connection, standing, now=now)
    return len(standing)


def _is_open_of(batch_id: UUID) -> sa.ColumnElement[bool]:
    return sa.and_(
        jobs.c.batch_id == batch_id, jobs.c.state.in_(OPEN_STATES), jobs.c.cancel_requested_at.is_(None)
    )


def _has_pages(connection: sa.Connection, standing: Mapping[UUID, Standing]) -> bool:
    """Return whether these jobs of a batch are the pages of a paged fetch; then all jobs of it are."""
    first = next(iter(standing), None)
    return first is not None and page_of(get_job(connection, first, project=EVERY_PROJECT)) is not None


def _cancel(connection: sa.Connection, standing: Mapping[UUID, Standing], *, now: datetime) -> None:
    running = [job_id for job_id, place in standing.items() if place.state is JobState.RUNNING]
    if running:
        connection.execute(
            jobs.update().where(jobs.c.id.in_(running)).values(cancel_requested_at=now, updated_at=now)
        )
    ends = [
        end_of(
            job_id, place, JobState.CANCELLED, reason=CANCELLED, explanation=_CANCELLED_EXPLANATION, now=now
        )
        for job_id, place in standing.items()
        if not place.state.is_final and place.state is not JobState.RUNNING
    ]
    end_jobs(connection, ends, standing, also=lambda _: {"cancel_requested_at": now}, now=now)


def _row(end: JobEnded, now: datetime) -> dict[str, Any]:
    return {
        "id": end.job_id,
        "position": position(run=end.run, attempt=end.attempt, state=end.state),
        "state": end.state,
        "run": end.run,
        "attempt": end.attempt,
        "reason": _row_reason(end),
        "explanation": None if end.state is JobState.SUCCEEDED else end.explanation,
        "due_at": None,
        "claimed_until": None,
        "finished_at": end.finished_at,
        "updated_at": now,
    }


def _row_reason(end: JobEnded) -> str | None:
    return None if end.state is JobState.SUCCEEDED else end.reason
