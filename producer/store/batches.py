"""The counts of a batch's jobs by state, kept in its row: exact, because they change with the jobs.

Recounts prove it: the ledger holds the counts against the jobs from time to time, and mends them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.progress import POINT_EVERY, WINDOW
from producer.store.events import announce_batch
from producer.store.rows import FINAL_STATES
from producer.store.schema import batches, jobs
from shared.states import JobState

# By state, as it is kept in the row and as it is counted.
Counts = dict[JobState, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Move:
    """One job, or several of a batch, that this transaction has moved from one state to another."""

    batch_id: UUID | None
    before: JobState
    after: JobState
    jobs: int = 1


def count_moves(connection: sa.Connection, moves: Iterable[Move], *, now: datetime) -> None:
    """Change the counts of the batches whose jobs moved, and announce those that are complete now.

    Call it after the jobs are locked and changed: rows of batches are locked in the order of their
    ids, after rows of jobs, so that two transactions cannot wait for each other.
    """
    changes: dict[UUID, Counter[JobState]] = {}
    for move in moves:
        if move.batch_id is not None and move.before is not move.after:
            change = changes.setdefault(move.batch_id, Counter())
            change[move.before] -= move.jobs
            change[move.after] += move.jobs
    for batch_id in sorted(changes):
        _change(connection, batch_id, changes[batch_id], now)


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
        _set_counts(connection, batch_id, {state: counted for state, (_, counted) in both.items()}, now=now)
    return wrong


def _set_counts(
    connection: sa.Connection, batch_id: UUID, counts: Mapping[JobState, int], *, now: datetime
) -> None:
    """Write down what the jobs of a batch were counted to be, and announce it if it is complete now.

    Call it with the batch's row locked since before they were counted.
    """
    ended = sum(counts[state] for state in FINAL_STATES)
    finished_at = sa.func.coalesce(batches.c.finished_at, sa.literal(now, batches.c.finished_at.type))
    _update(
        connection,
        batch_id,
        {
            **{state.value: number for state, number in counts.items()},
            "finished_at": sa.case((batches.c.total == ended, finished_at)),
        },
        now,
    )


def _change(connection: sa.Connection, batch_id: UUID, change: Counter[JobState], now: datetime) -> None:
    counts = {state.value: batches.c[state.value] + number for state, number in change.items() if number}
    before = sum((batches.c[state.value] for state in FINAL_STATES), sa.literal(0))
    ended = sum((batches.c[state.value] + change[state] for state in FINAL_STATES), sa.literal(0))
    finished_at = sa.case((ended == batches.c.total, sa.literal(now, batches.c.finished_at.type)))
    values = {**counts, "finished_at": finished_at, **_points(before, ended, now)}
    _update(connection, batch_id, values, now)


def _update(connection: sa.Connection, batch_id: UUID, values: Mapping[str, object], now: datetime) -> None:
    update = batches.update().where(batches.c.id == batch_id).values(**values).returning(batches)
    row = connection.execute(update).mappings().one()
    if row["finished_at"] is not None and row["completed_at"] is None:
        # Once: a redrive may open the batch again, and its second end is no second completion.
        connection.execute(batches.update().where(batches.c.id == batch_id).values(completed_at=now))
        announce_batch(connection, row, now=now)


def _points(
    before: sa.ColumnElement[int], ended: sa.ColumnElement[int], now: datetime
) -> Mapping[str, sa.ColumnElement[object]]:
    """Return the two points of progress after a change: moved forward when the current one is old."""
    columns = batches.c
    moment = columns.current_mark_at.type
    has_none = columns.current_mark_at.is_(None)
    is_due = sa.or_(has_none, columns.current_mark_at <= sa.literal(now - POINT_EVERY, moment))
    # The next change moves a due point, so nothing has changed since it was due: the number of half a
    # minute ago is known, and a pause is not averaged into the rate that follows it.
    was_quiet = sa.or_(has_none, columns.current_mark_at <= sa.literal(now - WINDOW, moment))
    return {
        "previous_mark_at": sa.case(
            (was_quiet, sa.literal(now - POINT_EVERY, moment)),
            (is_due, columns.current_mark_at),
            else_=columns.previous_mark_at,
        ),
        "previous_mark_ended": sa.case(
            (was_quiet, before), (is_due, columns.current_mark_ended), else_=columns.previous_mark_ended
        ),
        "current_mark_at": sa.case((is_due, sa.literal(now, moment)), else_=columns.current_mark_at),
        "current_mark_ended": sa.case((is_due, ended), else_=columns.current_mark_ended),
    }


def _differing(both: Counts) -> Counts:
    return {state: (kept, counted) for state, (kept, counted) in both.items() if kept != counted}


def _kept_and_counted(connection: sa.Connection, batch_id: UUID) -> Counts:
    """Return both numbers of every state by one statement, which sees one moment."""
    kept = [batches.c[state.value].label(f"kept_{state}") for state in JobState]
    counted = [_count(state).label(f"counted_{state}") for state in JobState]
    # An expired batch is being deleted, its jobs first, so its counts are no longer right.
    query = sa.select(*kept, *counted).where(batches.c.id == batch_id, batches.c.expired_at.is_(None))
    row = connection.execute(query).mappings().one_or_none()
    return {state: (row[f"kept_{state}"], row[f"counted_{state}"]) for state in JobState} if row else {}


def _count(state: JobState) -> sa.ScalarSelect[int]:
    of_batch = sa.and_(jobs.c.batch_id == batches.c.id, jobs.c.state == state)
    return sa.select(sa.func.count()).select_from(jobs).where(of_batch).correlate(batches).scalar_subquery()
