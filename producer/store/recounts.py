"""Hold the counts of batches against their jobs, and mend them. They change together, so this is proof."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.store.counters import set_counts
from producer.store.schema import batches, jobs
from shared.states import JobState

# By state, as it is kept in the row and as it is counted.
Counts = dict[JobState, tuple[int, int]]


def batches_to_check(
    connection: sa.Connection, *, since: datetime, after: UUID | None, limit: int
) -> list[UUID]:
    """Return a page of the batches that are unfinished or finished `since`, from above the id `after`."""
    is_open = batches.c.finished_at.is_(None)
    query = (
        sa.select(batches.c.id)
        .where(sa.or_(is_open, batches.c.finished_at > since), batches.c.expired_at.is_(None))
        .order_by(batches.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(batches.c.id > after)
    return list(connection.scalars(query))


def wrong_counts(connection: sa.Connection, batch_id: UUID) -> Counts:
    """Return the states whose count in the batch's row is not what its jobs say, as (kept, counted)."""
    return _differing(_kept_and_counted(connection, batch_id))


def correct_counts(connection: sa.Connection, batch_id: UUID, *, now: datetime) -> Counts:
    """Count the jobs of a batch again under the lock of its row, and return what had to be corrected."""
    lock = sa.select(batches.c.id).where(batches.c.id == batch_id).with_for_update()
    connection.execute(lock).all()
    # Whoever moves a job changes this row in the same transaction: all that are committed were here before.
    both = _kept_and_counted(connection, batch_id)
    if wrong := _differing(both):
        set_counts(connection, batch_id, {state: counted for state, (_, counted) in both.items()}, now=now)
    return wrong


def _differing(both: Counts) -> Counts:
    return {state: (kept, counted) for state, (kept, counted) in both.items() if kept != counted}


def _kept_and_counted(connection: sa.Connection, batch_id: UUID) -> Counts:
    """Return both numbers of every state in one statement, for one statement sees one moment."""
    kept = [batches.c[state.value].label(f"kept_{state}") for state in JobState]
    counted = [_count(state).label(f"counted_{state}") for state in JobState]
    # Of a batch that is being deleted the jobs go first.
    query = sa.select(*kept, *counted).where(batches.c.id == batch_id, batches.c.expired_at.is_(None))
    row = connection.execute(query).mappings().one_or_none()
    return {state: (row[f"kept_{state}"], row[f"counted_{state}"]) for state in JobState} if row else {}


def _count(state: JobState) -> sa.ScalarSelect[int]:
    of_batch = sa.and_(jobs.c.batch_id == batches.c.id, jobs.c.state == state.value)
    return sa.select(sa.func.count()).select_from(jobs).where(of_batch).correlate(batches).scalar_subquery()
