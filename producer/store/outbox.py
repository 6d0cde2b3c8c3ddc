"""The transactional outbox: the accepted jobs, leased to one relay at a time until they are published."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.records import ClaimedJob
from producer.store.batches import Move, count_moves
from producer.store.bodies import FETCH, copy_key, find_copies
from producer.store.page_bytes import PAGE_BYTES, lock_fitting
from producer.store.rows import CLAIM_COLUMNS, claimed_job, lock_jobs
from producer.store.schema import IS_ACCEPTED, IS_ACCEPTED_INTERACTIVE, jobs
from producer.store.secrets import note_use, with_secrets
from producer.store.sql import is_free, is_one_of, read_in_order
from producer.store.wakeup import announce_waiting
from shared.kinds.registry import BROKERED_KINDS, KINDS, Lane, is_bundled
from shared.states import JobState, position

_ACCEPTED = JobState.ACCEPTED
_MAY_BE_BUNDLED = sa.or_(
    *(
        sa.and_(jobs.c.kind == kind, jobs.c.lane == lane)
        for kind in KINDS
        for lane in Lane
        if is_bundled(kind, lane)
    )
)
_INTERACTIVE = sa.select(jobs.c.id).where(IS_ACCEPTED_INTERACTIVE).order_by(jobs.c.id)
# A range, though of one state. With `=` PostgreSQL knows that the ids alone are in order; when it believes
# that most jobs are accepted, it then reads all there ever were by their primary key.
_ANY_LANE = (
    sa.select(jobs.c.id).where(jobs.c.state.between(_ACCEPTED, _ACCEPTED)).order_by(jobs.c.state, jobs.c.id)
)


def claim_accepted(
    connection: sa.Connection, *, limit: int, lease_seconds: float, now: datetime
) -> list[ClaimedJob]:
    """Lease accepted jobs that nobody holds a lease on, and return them: interactive first, then by age.

    The interactive ones wait behind no batch. What they leave of the limit goes to the oldest of all, so the
    bulk lane waits only while they fill whole pages. No more are leased once they have `PAGE_BYTES` of
    arguments, and those before are returned once they have as much with their secrets.
    """
    read_in_order(connection)
    until = now + timedelta(seconds=lease_seconds)
    claimed: list[ClaimedJob] = []
    for accepted in (_INTERACTIVE, _ANY_LANE):
        room, most_bytes = limit - len(claimed), PAGE_BYTES - sum(job.claimed_bytes for job in claimed)
        if room > 0 and most_bytes > 0:
            free = accepted.where(is_free(jobs.c.claimed_until, seconds=lease_seconds, now=now)).limit(room)
            claimed += _lease(connection, free, until=until, most_bytes=most_bytes)
    if pulled := [job for job in claimed if job.kind not in BROKERED_KINDS and job.kind in KINDS]:
        # Code of version 0.1.0 has redriven them, or accepted them at their time.
        _hand_to_agents(connection, pulled, now=now)
        claimed = [job for job in claimed if job not in pulled]
    sent = _fitting(connection, as_sent(connection, claimed, now=now))
    note_use(connection, sent, now=now)
    return sent


def mark_queued(
    connection: sa.Connection,
    claims: Sequence[tuple[UUID, int]],
    *,
    now: datetime,
    alone: Collection[UUID] | None = None,
) -> None:
    """Move jobs that the broker has confirmed to `queued`; a job that has moved on stays where it is.

    A fast worker's report may come first, and a redrive may have started another run.

    Args:
        claims: The jobs, as (id, run).
        now: Later than the confirms.
        alone: Those that might have shared a message with others of these jobs, and went alone; None when
            nobody knows.
    """
    ids_by_run: defaultdict[int, list[UUID]] = defaultdict(list)
    for job_id, run in claims:
        ids_by_run[run].append(job_id)
    if len(ids_by_run) > 1:
        # In the order of their ids over all runs, or two transactions might wait for each other.
        lock_jobs(connection, (job_id for job_id, _ in claims))
    also = {} if alone is None else {"is_bundled": _was_bundled(connection, alone)}
    moves = [
        move for run, ids in ids_by_run.items() for move in _move_to_queued(connection, run, ids, now, also)
    ]
    count_moves(connection, moves, now=now)


def release_claims(connection: sa.Connection, job_ids: Iterable[UUID], *, retry_at: datetime) -> None:
    """Give up the lease of jobs that could not be published: they can be claimed after `retry_at`."""
    locked = lock_jobs(connection, job_ids)
    connection.execute(
        jobs.update()
        .where(is_one_of(connection, jobs.c.id, list(locked)), IS_ACCEPTED)
        .values(claimed_until=retry_at)
    )


def as_sent(connection: sa.Connection, claimed: list[ClaimedJob], *, now: datetime) -> list[ClaimedJob]:
    """Return the jobs with what goes along: the copy that one builds on, the secrets that it names."""
    return with_secrets(connection, _with_copies(connection, claimed), now=now)


def _fitting(connection: sa.Connection, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
    """Return the first jobs that have `PAGE_BYTES` with their secrets; let go of the others."""
    if not any(job.sealed for job in claimed):
        return claimed
    total = 0
    for place, job in enumerate(claimed, start=1):
        total += job.claimed_bytes
        # As full as a page that is full by its arguments, so that the next is claimed at once.
        if total >= PAGE_BYTES and (left := [each.id for each in claimed[place:]]):
            is_left = is_one_of(connection, jobs.c.id, left)
            connection.execute(jobs.update().where(is_left).values(claimed_until=None))
            return claimed[:place]
    return claimed


def _with_copies(connection: sa.Connection, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
    """Return the jobs; those that ask for changes alone get the copy that they build on."""
    asking = {job.id: key for job in claimed if job.kind == FETCH and (key := _copy_key(job))}
    if not asking:
        return claimed
    copies = find_copies(connection, asking)
    return [replace(job, known=copies[job.id]) if job.id in copies else job for job in claimed]


def _hand_to_agents(connection: sa.Connection, pulled: Sequence[ClaimedJob], *, now: datetime) -> None:
    """Let agents find jobs that no message asks for."""
    mark_queued(connection, [(job.id, job.run) for job in pulled], now=now)
    announce_waiting(connection, {job.id: job.kind for job in pulled})


def _copy_key(job: ClaimedJob) -> bytes | None:
    try:
        args = job.args
    except ValueError:
        # A lone surrogate, which JSON of a third party may hold: no worker takes such arguments.
        return None
    return copy_key(args, project=job.project) if args.get("if_changed") else None


def _lease(
    connection: sa.Connection, free: sa.Select[UUID], *, until: datetime, most_bytes: int
) -> list[ClaimedJob]:
    """Lease jobs until a time, without those that another relay is leasing; return them, oldest first."""
    ids = lock_fitting(connection, free, [jobs.c.args], most_bytes=most_bytes, key_share=True)
    if not ids:
        return []
    lease = (
        jobs.update()
        .where(is_one_of(connection, jobs.c.id, ids))
        .values(claimed_until=until)
        .returning(*CLAIM_COLUMNS)
    )
    leased = [claimed_job(row) for row in connection.execute(lease).all()]
    # RETURNING promises no order. By the numbers, because ids compare themselves in Python.
    return sorted(leased, key=lambda job: job.id.int)


def _was_bundled(connection: sa.Connection, alone: Collection[UUID]) -> sa.ColumnElement[bool]:
    if not alone:
        return _MAY_BE_BUNDLED
    return sa.and_(_MAY_BE_BUNDLED, sa.not_(is_one_of(connection, jobs.c.id, alone)))


def _move_to_queued(
    connection: sa.Connection, run: int, ids: Sequence[UUID], now: datetime, also: Mapping[str, Any]
) -> list[Move]:
    """Move those of a run's jobs that are not as far yet, and return the moves."""
    queued = position(run=run, attempt=0, state=JobState.QUEUED)
    is_behind = sa.and_(is_one_of(connection, jobs.c.id, ids), jobs.c.run == run, jobs.c.position < queued)
    behind = (
        sa.select(jobs.c.batch_id, jobs.c.state)
        .where(is_behind)
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
        .subquery()
    )
    # The database counts them: thousands of rows need not come here.
    count = sa.select(behind, sa.func.count()).group_by(behind.c.batch_id, behind.c.state)
    counted = connection.execute(count).all()
    connection.execute(
        jobs.update()
        .where(is_behind)
        .values(state=JobState.QUEUED, position=queued, claimed_until=None, updated_at=now, **also)
    )
    return [Move(batch_id, state, JobState.QUEUED, jobs=number) for batch_id, state, number in counted]
