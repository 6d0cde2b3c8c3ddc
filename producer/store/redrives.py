"""Send parked jobs back, and remember which of their old messages still lie in `jobs.parked`."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.store.counters import Move, count_moves
from producer.store.locking import lock_jobs
from producer.store.schema import jobs, redrives
from producer.store.wakeup import announce_jobs
from shared.errors import JobNotFound, JobNotParked
from shared.states import JobState, position

_SETTLE = redrives.update().where(
    redrives.c.job_id == sa.bindparam("of_job"),
    redrives.c.run == sa.bindparam("of_run"),
    redrives.c.swept_at.is_(None),
)


def redrive(connection: sa.Connection, job_id: UUID, *, now: datetime) -> None:
    """Start the job's next run: accepted, with fresh attempts; those of earlier runs are kept.

    Raises:
        JobNotFound: no row has this id.
        JobNotParked: the job is in another state; of two redrives at once, the second finds it accepted.
    """
    standing = lock_jobs(connection, [job_id]).get(job_id)
    if standing is None:
        raise JobNotFound(f"no job has the id {job_id}")
    if standing.state is not JobState.PARKED:
        raise JobNotParked(f"job {job_id} is {standing.state}; only a parked job can be redriven")
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(_next_run(standing.run + 1, now)))
    connection.execute(redrives.insert().values(job_id=job_id, run=standing.run, requested_at=now))
    count_moves(connection, [Move(standing.batch_id, standing.state, JobState.ACCEPTED)], now=now)
    announce_jobs(connection)


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


def _next_run(run: int, now: datetime) -> dict[str, object]:
    return {
        "state": JobState.ACCEPTED.value,
        "position": position(run=run, attempt=0, state=JobState.ACCEPTED),
        "run": run,
        "attempt": 0,
        "reason": None,
        "explanation": None,
        "result": sa.null(),
        "due_at": None,
        # A person has decided that it shall run; a deadline of before would end it at once.
        "deadline_at": None,
        "claimed_until": None,
        "cancel_requested_at": None,
        "finished_at": None,
        "updated_at": now,
    }
