"""The transactional outbox: the accepted jobs, leased to one relay at a time until they are published."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from uuid import UUID

import sqlalchemy as sa

from producer.records import ClaimedJob
from producer.store.counters import Move, count_moves
from producer.store.leases import is_free
from producer.store.locking import Standing, lock_jobs
from producer.store.rows import CLAIM_COLUMNS, claimed_job
from producer.store.schema import IS_ACCEPTED, jobs
from producer.store.validators import FETCH, copy_key, find_copies
from shared.states import JobState, position


def claim_accepted(
    connection: sa.Connection, *, limit: int, lease_seconds: float, now: datetime
) -> list[ClaimedJob]:
    """Lease the oldest accepted jobs that nobody holds a lease on, and return them, oldest first."""
    # A common table expression, because PostgreSQL may run a subquery with LIMIT more than once and
    # then leases more than the limit; one that locks rows is run once.
    free = (
        sa.select(jobs.c.id)
        .where(IS_ACCEPTED, is_free(jobs.c.claimed_until, seconds=lease_seconds, now=now))
        .order_by(jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("free")
    )
    lease = (
        jobs.update()
        .where(jobs.c.id.in_(sa.select(free.c.id)))
        .values(claimed_until=now + timedelta(seconds=lease_seconds))
        .returning(*CLAIM_COLUMNS)
    )
    claimed = [claimed_job(row) for row in connection.execute(lease).mappings()]
    # RETURNING promises no order.
    return with_copies(connection, sorted(claimed, key=lambda job: job.id))


def mark_queued(connection: sa.Connection, claims: Sequence[tuple[UUID, int]], *, now: datetime) -> None:
    """Move jobs that the broker has confirmed to `queued`; a job that has moved on stays where it is.

    A fast worker's report may come first, and a redrive may have started another run.
    """
    standing = lock_jobs(connection, (job_id for job_id, _ in claims))
    moving = sorted({(run, job_id) for job_id, run in claims if _can_be_queued(standing.get(job_id), run)})
    for run, pairs in groupby(moving, key=itemgetter(0)):
        connection.execute(
            jobs.update()
            .where(jobs.c.id.in_([job_id for _, job_id in pairs]))
            .values(
                state=JobState.QUEUED.value,
                position=position(run=run, attempt=0, state=JobState.QUEUED),
                claimed_until=None,
                updated_at=now,
            )
        )
    places = [standing[job_id] for _, job_id in moving]
    moves = [Move(place.batch_id, place.state, JobState.QUEUED) for place in places]
    count_moves(connection, moves, now=now)


def release_claims(connection: sa.Connection, job_ids: Iterable[UUID], *, retry_at: datetime) -> None:
    """Give up the lease of jobs that could not be published: they can be claimed after `retry_at`."""
    locked = lock_jobs(connection, job_ids)
    connection.execute(
        jobs.update().where(jobs.c.id.in_(list(locked)), IS_ACCEPTED).values(claimed_until=retry_at)
    )


def with_copies(connection: sa.Connection, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
    """Return the jobs, those that ask for changes with the copy that they can build on."""
    asking = {
        job.id: key
        for job in claimed
        if job.kind == FETCH and job.args.get("if_changed") and (key := copy_key(job.args))
    }
    copies = find_copies(connection, asking)
    return [replace(job, known=copies[job.id]) if job.id in copies else job for job in claimed]


def _can_be_queued(standing: Standing | None, run: int) -> bool:
    if standing is None or standing.run != run:
        return False
    return standing.position < position(run=run, attempt=0, state=JobState.QUEUED)
