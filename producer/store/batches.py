"""The counts of a batch's jobs by state, kept in its row: exact, because they change with the jobs.

Recounts prove it: the ledger holds the counts against the jobs from time to time, and mends them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.progress import moved_points
from producer.store.events import announce_batch
from producer.store.feed import next_number, number_batches
from producer.store.quotas import Stored, count_stored
from producer.store.rows import FINAL_STATES, point_columns, points_of
from producer.store.schema import batches, jobs
from shared.states import JobState

# By state, as it is kept in the row and as it is counted.
Counts = dict[JobState, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Move:
    """One job, or several of a batch, that this transaction has moved from one state to another.

    `began_at` is when the attempt that ended was started, if there was one.
    """

    batch_id: UUID | None
    before: JobState
    after: JobState
    jobs: int = 1
    began_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """What follows of batches that are complete now, behind all other locks of the transaction.

    Attributes:
        batch_ids: They have to be numbered as their jobs are.
        stored: Webhooks, which have to be counted.
    """

    batch_ids: Sequence[UUID]
    stored: Stored


def count_moves(connection: sa.Connection, moves: Iterable[Move], *, now: datetime) -> Completed:
    """Change the counts of the batches whose jobs moved, and announce those that are complete now.

    Call it after the jobs are locked: rows of batches are locked in the order of their ids, after rows of
    jobs, so that two transactions cannot wait for each other. Jobs that have not ended complete no batch.
    """
    changes: dict[UUID, Counter[JobState]] = {}
    began_at: dict[UUID, datetime] = {}
    for move in moves:
        if move.batch_id is not None and move.before is not move.after:
            change = changes.setdefault(move.batch_id, Counter())
            change[move.before] -= move.jobs
            change[move.after] += move.jobs
            if move.began_at is not None:
                began_at[move.batch_id] = min(move.began_at, began_at.get(move.batch_id, move.began_at))
    completed: dict[UUID, Stored] = {}
    for batch_id, change in sorted(changes.items()):
        webhooks = _change(connection, batch_id, change, began_at.get(batch_id), now)
        if webhooks is not None:
            completed[batch_id] = webhooks
    return Completed(list(completed), sum(completed.values(), Stored()))


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
    values = {
        **{state.value: number for state, number in counts.items()},
        "finished_at": sa.case((batches.c.total == ended, finished_at)),
    }
    _, webhooks = _update(connection, batch_id, values, now)
    if webhooks is not None:
        number_batches(connection, [batch_id], next_number(connection, now=now))
        count_stored(connection, webhooks)


def _change(
    connection: sa.Connection,
    batch_id: UUID,
    change: Counter[JobState],
    began_at: datetime | None,
    now: datetime,
) -> Stored | None:
    """Change the counts of a batch; if it is complete now, return the webhooks that tell of it."""
    counts = {state.value: batches.c[state.value] + number for state, number in change.items() if number}
    ended = sum((batches.c[state.value] + change[state] for state in FINAL_STATES), sa.literal(0))
    finished_at = sa.case((ended == batches.c.total, sa.literal(now, batches.c.finished_at.type)))
    ends = sum(change[state] for state in FINAL_STATES)
    times = {"ended_before_at": batches.c.last_ended_at, "last_ended_at": now} if ends else {}
    row, webhooks = _update(connection, batch_id, {**counts, "finished_at": finished_at, **times}, now)
    if ends:
        _move_points(connection, row, ends, began_at, now)
    return webhooks


def _update(
    connection: sa.Connection, batch_id: UUID, values: Mapping[str, object], now: datetime
) -> tuple[sa.RowMapping, Stored | None]:
    """Change the row of a batch; return it, and if it is complete now, once, the webhooks that tell of it."""
    update = batches.update().where(batches.c.id == batch_id).values(**values).returning(batches)
    row = connection.execute(update).mappings().one()
    if row["finished_at"] is None or row["completed_at"] is not None:
        return row, None
    # Once: a redrive may open the batch again, and its second end is no second completion.
    connection.execute(batches.update().where(batches.c.id == batch_id).values(completed_at=now))
    return row, announce_batch(connection, row, now=now)


def _move_points(
    connection: sa.Connection, row: sa.RowMapping, ends: int, began_at: datetime | None, now: datetime
) -> None:
    """Move the points by which a batch's pace is measured, if it is time: seldom."""
    ended = sum(row[state.value] for state in FINAL_STATES)
    points = points_of(row)
    moved = moved_points(
        points,
        ended=ended,
        change=ends,
        is_reopened=ends < 0 and ended - ends == row["total"],
        began_at=began_at,
        # A batch waits from its submission on; one of version 0.1.0 has moved its points meanwhile.
        last_at=row["ended_before_at"] or (points.current.at if points.current else row["created_at"]),
        now=now,
    )
    if moved != points:
        connection.execute(batches.update().where(batches.c.id == row["id"]).values(point_columns(moved)))


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
