"""Figures of what a project has, for dashboards: each looks at a bounded number of rows of all."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from producer.store.feed import number_at
from producer.store.projects import visible
from producer.store.rows import FINAL_STATES
from producer.store.schema import IS_RUNNING_OPERATION, batches, jobs, operations
from shared.states import JobState

# Of each state, and of what ended lately.
MOST_ROWS = 100_000
# States that still need work, time or a person.
SHOWN_STATES = tuple(state for state in JobState if state not in {JobState.SUCCEEDED, JobState.CANCELLED})
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one moment; those that are `cut` are at least so large.

    Attributes:
        jobs: How many are in each state that is not the end of all work.
        ended_last_minute: How many ended in the last minute, by how.
        cut: The names of states, `ended_last_minute` or `ended_last_hour`, that may be larger.
    """

    at: datetime
    jobs: Mapping[JobState, int]
    ended_last_minute: Mapping[JobState, int]
    ended_last_hour: Mapping[JobState, int]
    unfinished_batches: int
    running_operations: int
    cut: frozenset[str]


def read_stats(
    connection: sa.Connection, *, project: str | None, now: datetime, most_rows: int = MOST_ROWS
) -> Stats:
    """Return the figures of a project, or of all."""
    cut: set[str] = set()
    counts: dict[JobState, int] = {}
    for state in SHOWN_STATES:
        newest = sa.select(jobs.c.project).where(jobs.c.state == state).order_by(jobs.c.id.desc())
        counts[state], looked_at = _count(connection, newest, project, most_rows)
        if looked_at == most_rows:
            cut.add(state.value)
    minute = _ended_since(connection, now - _MINUTE, project, most_rows)
    hour = _ended_since(connection, now - _HOUR, project, most_rows)
    cut |= {
        name for name, (_, is_cut) in (("ended_last_minute", minute), ("ended_last_hour", hour)) if is_cut
    }
    is_open = batches.c.finished_at.is_(None), batches.c.expired_at.is_(None), *visible(batches, project)
    runs = IS_RUNNING_OPERATION, *visible(operations, project)
    return Stats(
        at=now,
        jobs=counts,
        ended_last_minute=minute[0],
        ended_last_hour=hour[0],
        unfinished_batches=_bounded(connection, sa.select(batches.c.id).where(*is_open), most_rows),
        running_operations=_bounded(connection, sa.select(operations.c.id).where(*runs), most_rows),
        cut=frozenset(cut),
    )


def _count(
    connection: sa.Connection, newest: sa.Select[Any], project: str | None, most_rows: int
) -> tuple[int, int]:
    """Return how many of some rows are of the project, and how many were looked at."""
    looked_at = newest.limit(most_rows).subquery().c
    ours = (
        sa.func.count()
        if project is None
        else sa.func.sum(sa.case((looked_at.project == project, 1), else_=0))
    )
    found = connection.execute(sa.select(ours, sa.func.count()).select_from(looked_at.project.table)).one()
    return int(found[0] or 0), int(found[1])


def _ended_since(
    connection: sa.Connection, since: datetime, project: str | None, most_rows: int
) -> tuple[dict[JobState, int], bool]:
    """Return how many ended since a time by their state, and whether there may be more."""
    number = number_at(since)
    newest = (
        sa.select(jobs.c.project, jobs.c.state)
        .where(jobs.c.feed_number >= number)
        .order_by(jobs.c.feed_number.desc())
        .limit(most_rows)
        .subquery()
    )
    query = sa.select(newest.c.project, newest.c.state, sa.func.count()).group_by(
        newest.c.project, newest.c.state
    )
    counts: Counter[JobState] = Counter()
    looked_at = 0
    for of_project, state, number_of in connection.execute(query):
        looked_at += number_of
        if project in {None, of_project} and state in FINAL_STATES:
            counts[state] += number_of
    return {state: counts[state] for state in FINAL_STATES}, looked_at == most_rows


def _bounded(connection: sa.Connection, query: sa.Select[Any], most_rows: int) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(query.limit(most_rows).subquery())) or 0
