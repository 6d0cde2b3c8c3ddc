"""Let jobs leave the parking lot, and remember which of their old messages still lie in `jobs.parked`."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.parking import DISCARDED, AuditAction, MovedJob, OperationAction
from producer.store.audit import job_target, write_audit
from producer.store.counters import Move, count_moves
from producer.store.events import announce_outcomes
from producer.store.locking import Standing, callback_urls, lock_jobs
from producer.store.rows import stored_host
from producer.store.schema import jobs, redrives
from producer.store.wakeup import announce_jobs
from shared.errors import JobNotFound, JobNotParked
from shared.events import JobEnded
from shared.states import JobState, position

_SETTLE = redrives.update().where(
    redrives.c.job_id == sa.bindparam("of_job"),
    redrives.c.run == sa.bindparam("of_run"),
    redrives.c.swept_at.is_(None),
)


def redrive(connection: sa.Connection, job_id: UUID, *, by: str, now: datetime) -> None:
    """Start the job's next run: accepted, with fresh attempts; those of earlier runs are kept.

    Raises:
        JobNotFound: no row has this id.
        JobNotParked: the job is in another state; of two redrives at once, the second finds it accepted.
    """
    standing = _lock_parked(connection, job_id)
    leave_parking(connection, OperationAction.REDRIVE, {job_id: standing}, by=by, now=now)
    _audit_one(connection, AuditAction.JOB_REDRIVEN, job_id, standing, by=by, now=now)


def redrive_edited(
    connection: sa.Connection,
    job_id: UUID,
    *,
    args: Mapping[str, Any],
    host: str,
    unique_key: bytes,
    by: str,
    now: datetime,
) -> None:
    """Start the job's next run with other arguments; the audit log keeps the old ones beside them.

    Raises:
        JobNotFound: no row has this id.
        JobNotParked: the job is in another state.
    """
    standing = _lock_parked(connection, job_id)
    old_args = connection.scalar(sa.select(jobs.c.args).where(jobs.c.id == job_id))
    edited = {"args": args, "host": stored_host(host), "unique_key": unique_key}
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(edited))
    leave_parking(connection, OperationAction.REDRIVE, {job_id: standing}, by=by, now=now)
    edit = {"old_args": old_args, "new_args": args}
    _audit_one(connection, AuditAction.JOB_REDRIVEN, job_id, standing, by=by, now=now, more=edit)


def discard(connection: sa.Connection, job_id: UUID, *, by: str, now: datetime) -> None:
    """End the parked job for good, as cancelled.

    Raises:
        JobNotFound: no row has this id.
        JobNotParked: the job is in another state.
    """
    standing = _lock_parked(connection, job_id)
    leave_parking(connection, OperationAction.DISCARD, {job_id: standing}, by=by, now=now)
    _audit_one(connection, AuditAction.JOB_DISCARDED, job_id, standing, by=by, now=now)


def leave_parking(
    connection: sa.Connection,
    action: OperationAction,
    parked: Mapping[UUID, Standing],
    *,
    by: str,
    now: datetime,
) -> list[MovedJob]:
    """Redrive or discard jobs that are locked and parked; return them in the run they are in now."""
    by_run = sorted(parked.items(), key=lambda item: (item[1].run, item[0]))
    for run, group in groupby(by_run, key=lambda item: item[1].run):
        next_run = _next_run(action, run + 1, by=by, now=now)
        connection.execute(
            jobs.update().where(jobs.c.id.in_([job_id for job_id, _ in group])).values(next_run)
        )
    end = JobState.ACCEPTED if action is OperationAction.REDRIVE else JobState.CANCELLED
    moves = [Move(standing.batch_id, standing.state, end) for _, standing in by_run]
    count_moves(connection, moves, now=now)
    if action is OperationAction.DISCARD:
        ended = [_discarded(i, s, by, now) for i, s in by_run]
        announce_outcomes(connection, ended, callback_urls(parked), now=now)
    if by_run:
        connection.execute(
            redrives.insert(), [{"job_id": i, "run": s.run, "requested_at": now} for i, s in by_run]
        )
        if action is OperationAction.REDRIVE:
            announce_jobs(connection)
    return [MovedJob(job_id, standing.kind, standing.run + 1) for job_id, standing in by_run]


def pending_redrives(connection: sa.Connection, limit: int) -> list[tuple[UUID, int]]:
    """Return the (job id, parked run) whose message is still to be taken from `jobs.parked`, oldest first."""
    query = (
        sa.select(redrives.c.job_id, redrives.c.run)
        .where(redrives.c.swept_at.is_(None))
        .order_by(redrives.c.requested_at, redrives.c.job_id)
        .limit(limit)
    )
    return [(job_id, run) for job_id, run in connection.execute(query)]


def settle_redrives(connection: sa.Connection, pairs: Iterable[tuple[UUID, int]], *, now: datetime) -> None:
    """Note that these messages have left `jobs.parked`; what was noted before keeps its time."""
    rows = [{"of_job": job_id, "of_run": run, "swept_at": now} for job_id, run in sorted(set(pairs))]
    if rows:
        connection.execute(_SETTLE, rows)


def _lock_parked(connection: sa.Connection, job_id: UUID) -> Standing:
    standing = lock_jobs(connection, [job_id]).get(job_id)
    if standing is None:
        raise JobNotFound(f"no job has the id {job_id}")
    if standing.state is not JobState.PARKED:
        raise JobNotParked(f"job {job_id} is {standing.state}; only a parked job can be redriven")
    return standing


def _next_run(action: OperationAction, run: int, *, by: str, now: datetime) -> dict[str, object]:
    match action:
        case OperationAction.REDRIVE:
            return {
                **_start_of(JobState.ACCEPTED, run, now),
                "reason": None,
                "explanation": None,
                "result": sa.null(),
                "finished_at": None,
            }
        case OperationAction.DISCARD:
            # The parked state is the last position of its run, so the end by a person is the next run's.
            return {
                **_start_of(JobState.CANCELLED, run, now),
                "reason": DISCARDED,
                "explanation": _discard_explanation(by),
                "finished_at": now,
            }


def _discarded(job_id: UUID, standing: Standing, by: str, now: datetime) -> JobEnded:
    return JobEnded(
        job_id=job_id,
        kind=standing.kind,
        run=standing.run + 1,
        state=JobState.CANCELLED,
        attempt=0,
        reason=DISCARDED,
        explanation=_discard_explanation(by),
        batch_id=standing.batch_id,
        finished_at=now,
    )


def _discard_explanation(by: str) -> str:
    return f"Discarded from the parking lot by {by}."


def _start_of(state: JobState, run: int, now: datetime) -> dict[str, object]:
    return {
        "state": state.value,
        "position": position(run=run, attempt=0, state=state),
        "run": run,
        "attempt": 0,
        "due_at": None,
        # A person has decided that it shall run; a deadline of before would end it at once.
        "deadline_at": None,
        "claimed_until": None,
        "cancel_requested_at": None,
        "updated_at": now,
    }


def _audit_one(
    connection: sa.Connection,
    action: AuditAction,
    job_id: UUID,
    standing: Standing,
    *,
    by: str,
    now: datetime,
    more: Mapping[str, object] | None = None,
) -> None:
    details = {"kind": standing.kind, "parked_run": standing.run, **(more or {})}
    write_audit(connection, action, target=job_target(job_id), by=by, details=details, now=now)
