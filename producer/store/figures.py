"""Figures for the dashboard: counted by the leading ledger, so that no page counts; and what they are of.

What is there is counted anew, and rows that have changed are written. What has ended is added to minutes and
hours, once each: ends are numbered in the order of their commits, and a row says up to which they are in.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from producer.figures import (
    BUCKET_SECONDS,
    MOST_COUNTED,
    DelayDepth,
    HeldHost,
    JobCount,
    Overview,
    ParkedCount,
    RunningBatch,
    Span,
)
from producer.parking import GroupKey
from producer.store.feed import ENDS, MICROSECONDS, number_at
from producer.store.leader import LEADER
from producer.store.projects import visible
from producer.store.queues import list_queues, read_pauses
from producer.store.rows import FINAL_STATES
from producer.store.schema import (
    IS_RUNNING_OPERATION,
    batches,
    delay_depths,
    ended_hours,
    ended_minutes,
    figures,
    hosts,
    job_counts,
    jobs,
    leases,
    operations,
    parked_counts,
    revisions,
)
from producer.store.sql import microseconds, upsert
from shared.states import JobState

KEPT_MINUTES: Final = timedelta(hours=73)
KEPT_HOURS: Final = timedelta(days=90)
FOLD_ROWS: Final = 5_000
"""Of so many ends at a time, so that no transaction is long."""

_JOBS = "jobs"
# Parked jobs are counted by their groups; those that have ended for good by the minute of their end.
_COUNTED_STATES = [state for state in JobState if state not in FINAL_STATES]
_SHOWN_ROWS = 20
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_SPANS = ((ended_minutes, 60), (ended_hours, 3_600))


def count_jobs(connection: sa.Connection, *, most: int = MOST_COUNTED) -> list[JobCount]:
    """Return how many jobs there are in each state that is no end: reads each of them, from the oldest."""
    found = []
    for state in _COUNTED_STATES:
        is_held = jobs.c.held_for.is_not(None).label("is_held")
        some = (
            sa.select(jobs.c.project, jobs.c.kind, jobs.c.lane, is_held, jobs.c.updated_at)
            .where(jobs.c.state == state)
            .order_by(jobs.c.id)
            .limit(most)
            .subquery()
            .c
        )
        by = (some.project, some.kind, some.lane, some.is_held)
        query = sa.select(*by, sa.func.count(), sa.func.min(some.updated_at)).group_by(*by)
        found += [
            JobCount(project, state, kind, lane, bool(held), number, oldest)
            for project, kind, lane, held, number, oldest in connection.execute(query)
        ]
    return found


def write_counts(
    connection: sa.Connection,
    found: Iterable[JobCount],
    groups: Iterable[ParkedCount],
    *,
    parked: Mapping[str, int],
    delays: Iterable[DelayDepth],
    seconds: float,
    now: datetime,
) -> None:
    """Keep what was counted in the place of what was counted before; rows that are the same stay untouched.

    Args:
        parked: How many jobs of each project are parked, in all groups.
        delays: How many messages wait in each step of the delay ladder.
        seconds: How long the counting took.
    """
    counted = {
        (each.project, each.state, each.kind, each.lane, each.is_held): (each.jobs, each.oldest_at)
        for each in found
    }
    counted |= {
        (project, JobState.PARKED, "*", "*", False): (number, _NO_TIME) for project, number in parked.items()
    }
    _replace(connection, job_counts, counted)
    grouped = {
        (each.project, each.key.kind, each.key.reason, each.key.host): (
            each.jobs,
            each.first_parked_at,
            each.last_parked_at,
            each.newest,
        )
        for each in groups
    }
    _replace(connection, parked_counts, grouped)
    waiting = {(each.step_seconds,): (each.jobs,) for each in delays if each.jobs}
    _replace(connection, delay_depths, waiting)
    note = {"name": _JOBS, "at": now, "seconds": seconds, "number": 0}
    connection.execute(upsert(connection.dialect.name, figures), note)


def has_new_ends(connection: sa.Connection) -> bool:
    """Return whether something has ended that is in no minute yet."""
    known = connection.scalar(sa.select(figures.c.number).where(figures.c.name == ENDS))
    return known is None or known < _last_number(connection)


def fold_ends(connection: sa.Connection, *, now: datetime, rows: int = FOLD_ROWS) -> bool:
    """Add the next ends to their minutes and hours; return whether there are more. Each is added once."""
    known = connection.execute(
        sa.select(figures.c.number).where(figures.c.name == ENDS).with_for_update()
    ).one_or_none()
    last = _last_number(connection)
    after = known.number if known else number_at(now - KEPT_MINUTES)
    # All ends of one transaction have one number, and stay together.
    beyond = sa.select(jobs.c.feed_number).where(jobs.c.feed_number > after, jobs.c.feed_number <= last)
    end = connection.scalar(beyond.order_by(jobs.c.feed_number).offset(rows).limit(1))
    has_more = end is not None
    until = last if end is None else end
    if until > after:
        _add_ends(connection, after=after, until=until)
    note = {"name": ENDS, "at": now, "seconds": 0.0, "number": max(until, after)}
    connection.execute(upsert(connection.dialect.name, figures), note)
    return has_more


def forget_old(connection: sa.Connection, *, now: datetime) -> None:
    """Delete minutes and hours that nobody is shown any more."""
    for (table, seconds), kept in zip(_SPANS, (KEPT_MINUTES, KEPT_HOURS), strict=True):
        before = int((now - kept).timestamp()) // seconds
        connection.execute(table.delete().where(table.c.span < before))


def read_overview(connection: sa.Connection, *, project: str | None, now: datetime) -> Overview:
    """Return what there is, as it was counted; counts nothing."""
    counts = sa.select(job_counts).where(*visible(job_counts, project))
    found = [
        JobCount(row.project, JobState(row.state), row.kind, row.lane, row.is_held, row.jobs, row.oldest_at)
        for row in connection.execute(counts)
    ]
    note = connection.execute(sa.select(figures).where(figures.c.name == _JOBS)).one_or_none()
    running = sa.select(operations.c.id).where(IS_RUNNING_OPERATION, *visible(operations, project))
    is_operator = project is None
    return Overview(
        jobs=found,
        counted_at=note.at if note else None,
        count_seconds=note.seconds if note else 0.0,
        groups=read_groups(connection, project=project, limit=_SHOWN_ROWS),
        delays=_delays(connection) if is_operator else (),
        queues=list_queues(connection) if is_operator else (),
        pauses=read_pauses(connection).items,
        hosts=_held_hosts(connection, now) if is_operator else (),
        batches=_running_batches(connection, project),
        operations=len(connection.execute(running.limit(100)).all()),
        leads_until=connection.scalar(sa.select(leases.c.held_until).where(leases.c.name == LEADER)),
    )


def read_groups(
    connection: sa.Connection,
    *,
    project: str | None,
    limit: int,
    kind: str | None = None,
    reason: str | None = None,
    host: str | None = None,
) -> list[ParkedCount]:
    """Return the largest groups of parked jobs, as they were counted; for all projects one for each."""
    asked = {"kind": kind, "reason": reason, "host": host}
    where = [parked_counts.c[name] == value for name, value in asked.items() if value is not None]
    query = sa.select(parked_counts).where(*visible(parked_counts, project), *where)
    order = (parked_counts.c.jobs.desc(), parked_counts.c.kind, parked_counts.c.reason, parked_counts.c.host)
    return [
        ParkedCount(
            row.project,
            GroupKey(row.kind, row.reason, row.host),
            row.jobs,
            row.first_parked_at,
            row.last_parked_at,
            row.newest,
        )
        for row in connection.execute(query.order_by(*order).limit(limit))
    ]


def read_history(
    connection: sa.Connection, *, project: str | None, since: datetime, step_seconds: int, now: datetime
) -> list[Span]:
    """Return what ended in each step from a time until now, the oldest first; steps are whole minutes."""
    table, unit = _SPANS[1] if step_seconds % 3_600 == 0 else _SPANS[0]
    per_step = step_seconds // unit
    first, last = (int(at.timestamp()) // step_seconds for at in (since, now))
    step = (table.c.span // sa.literal_column(str(per_step))).label("step")
    query = (
        sa.select(step, table.c.state, table.c.bucket, sa.cast(sa.func.sum(table.c.jobs), sa.BigInteger()))
        .where(table.c.span >= first * per_step, *visible(table, project))
        .group_by(step, table.c.state, table.c.bucket)
    )
    ended: dict[int, dict[JobState, int]] = defaultdict(lambda: defaultdict(int))
    buckets: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for place, state, bucket, number in connection.execute(query):
        ended[place][JobState(state)] += number
        buckets[place][bucket] += number
    return [
        Span(
            datetime.fromtimestamp(place * step_seconds, UTC),
            dict(ended.get(place, {})),
            dict(buckets.get(place, {})),
        )
        for place in range(first, last + 1)
    ]


def _last_number(connection: sa.Connection) -> int:
    return connection.scalar(sa.select(revisions.c.value).where(revisions.c.name == ENDS)) or 0


def _add_ends(connection: sa.Connection, *, after: int, until: int) -> None:
    minute = (jobs.c.feed_number // sa.literal_column(str(60 * MICROSECONDS))).label("span")
    took = jobs.c.feed_number - microseconds(connection.dialect.name, jobs.c.created_at)
    bucket = sa.case(
        *(
            (took <= sa.literal_column(str(int(bound * MICROSECONDS))), sa.literal_column(str(place)))
            for place, bound in enumerate(BUCKET_SECONDS)
        ),
        else_=sa.literal_column(str(len(BUCKET_SECONDS))),
    ).label("bucket")
    by = (minute, jobs.c.project, jobs.c.kind, jobs.c.lane, jobs.c.state, bucket)
    ended = (
        sa.select(*by, sa.func.count())
        .where(jobs.c.feed_number > after, jobs.c.feed_number <= until, jobs.c.state.in_(FINAL_STATES))
        .group_by(*by)
    )
    minutes = {tuple(row[:-1]): row[-1] for row in connection.execute(ended)}
    hours: Counter[tuple[Any, ...]] = Counter()
    for (span, *more), number in minutes.items():
        hours[span // 60, *more] += number
    for table, found in ((ended_minutes, minutes), (ended_hours, hours)):
        names = [*_names(table.primary_key), "jobs"]
        rows = [dict(zip(names, (*key, number), strict=True)) for key, number in sorted(found.items())]
        if rows:
            more_of_it = {"jobs": table.c.jobs + sa.text("excluded.jobs")}
            connection.execute(upsert(connection.dialect.name, table, values=more_of_it), rows)


def _replace(
    connection: sa.Connection,
    table: sa.Table,
    wanted: Mapping[tuple[Any, ...], tuple[Any, ...]],
) -> None:
    """Make the rows of a table what is wanted, by their keys; most of them are so already."""
    keys = [*table.primary_key]
    others = [column for column in table.c if not column.primary_key]
    there = {
        tuple(row[: len(keys)]): tuple(row[len(keys) :])
        for row in connection.execute(sa.select(*keys, *others))
    }
    names = [column.name for column in (*keys, *others)]
    changed = [
        dict(zip(names, (*key, *values), strict=True))
        for key, values in wanted.items()
        if there.get(key) != values
    ]
    if changed:
        connection.execute(upsert(connection.dialect.name, table), changed)
    if gone := there.keys() - wanted.keys():
        is_gone = sa.and_(*(column == sa.bindparam(f"gone_{column.name}") for column in keys))
        parameters = [
            {f"gone_{column.name}": value for column, value in zip(keys, key, strict=True)} for key in gone
        ]
        connection.execute(table.delete().where(is_gone), parameters)


def _names(columns: Iterable[sa.Column[Any]]) -> list[str]:
    return [column.name for column in columns]


def _delays(connection: sa.Connection) -> list[DelayDepth]:
    query = sa.select(delay_depths).order_by(delay_depths.c.step_seconds)
    return [DelayDepth(row.step_seconds, row.jobs) for row in connection.execute(query)]


def _held_hosts(connection: sa.Connection, now: datetime) -> list[HeldHost]:
    query = sa.select(hosts).where(hosts.c.waiting > 0).order_by(hosts.c.waiting.desc(), hosts.c.name)
    return [
        HeldHost(
            row.name,
            row.waiting,
            row.in_flight,
            row.paused_until if row.paused_until is not None and row.paused_until > now else None,
            row.rests_until is not None and row.rests_until > now,
        )
        for row in connection.execute(query.limit(_SHOWN_ROWS))
    ]


def _running_batches(connection: sa.Connection, project: str | None) -> list[RunningBatch]:
    is_open = batches.c.finished_at.is_(None), batches.c.expired_at.is_(None)
    query = sa.select(batches).where(*is_open, *visible(batches, project)).order_by(batches.c.id.desc())
    return [
        RunningBatch(
            row.id,
            row.kind,
            row.total,
            sum(getattr(row, state.value) for state in FINAL_STATES),
            row.parked,
            row.created_at,
        )
        for row in connection.execute(query.limit(10))
    ]
