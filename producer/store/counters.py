"""The counts of a batch's jobs by state, kept in its row, exact because they change with the jobs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.store.events import announce_batch
from producer.store.schema import batches, jobs
from shared.states import JobState

FINAL_STATES = tuple(state for state in JobState if state.is_final)


@dataclass(frozen=True, slots=True)
class Move:
    """A job that this transaction has moved from one state to another."""

    batch_id: UUID | None
    before: JobState
    after: JobState


def count_moves(connection: sa.Connection, moves: Iterable[Move], *, now: datetime) -> None:
    """Change the counts of the batches whose jobs moved, and announce those that are complete now.

    Call it after the jobs are locked and changed: rows of batches are locked in the order of their
    ids, after rows of jobs, so that two transactions cannot wait for each other.
    """
    changes: dict[UUID, Counter[JobState]] = {}
    for move in moves:
        if move.batch_id is not None and move.before is not move.after:
            change = changes.setdefault(move.batch_id, Counter())
            change[move.before] -= 1
            change[move.after] += 1
    for batch_id in sorted(changes):
        _change(connection, batch_id, changes[batch_id], now)


def wrong_counts(connection: sa.Connection, batch_id: UUID) -> dict[JobState, tuple[int, int]]:
    """Return the states whose count in the batch's row is not what its jobs say, as (kept, counted)."""
    row = connection.execute(sa.select(batches).where(batches.c.id == batch_id)).mappings().one()
    query = sa.select(jobs.c.state, sa.func.count()).where(jobs.c.batch_id == batch_id).group_by(jobs.c.state)
    counted = Counter({JobState(state): number for state, number in connection.execute(query)})
    kept = {state: row[state.value] for state in JobState}
    return {state: (kept[state], counted[state]) for state in JobState if kept[state] != counted[state]}


def _change(connection: sa.Connection, batch_id: UUID, change: Counter[JobState], now: datetime) -> None:
    counts = {state.value: batches.c[state.value] + number for state, number in change.items() if number}
    ended = sum((batches.c[state.value] + change[state] for state in FINAL_STATES), sa.literal(0))
    update = (
        batches.update()
        .where(batches.c.id == batch_id)
        .values(
            **counts,
            finished_at=sa.case((ended == batches.c.total, sa.literal(now, batches.c.finished_at.type))),
        )
        .returning(batches)
    )
    row = connection.execute(update).mappings().one()
    if row["finished_at"] is not None and row["completed_at"] is None:
        # Once: a redrive may open the batch again, and its second end is no second completion.
        connection.execute(batches.update().where(batches.c.id == batch_id).values(completed_at=now))
        announce_batch(connection, row, now=now)
