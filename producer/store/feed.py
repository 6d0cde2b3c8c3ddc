"""The feed of ends: jobs and batches in the order in which their ends were committed, for readers to resume.

A column of their rows has the number of the transaction that recorded the end. Numbers are given under a lock
that is held until the commit, so whoever has read up to one never misses what commits later. A job that is
redriven is told of again when it ends again; what it had come to before is no longer told.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from producer.feed import FeedFilter, FeedPage, Place
from producer.records import BatchRecord, JobRecord
from producer.store.page_bytes import fitting, row_bytes
from producer.store.projects import EVERY_PROJECT, visible
from producer.store.rows import FINAL_STATES, JOB_COLUMNS, LARGE_COLUMNS, batch_record, job_records
from producer.store.schema import batches, jobs, revisions
from producer.store.sql import is_one_of, upsert
from shared.states import JobState

WINDOW_ROWS = 1_000
ENDS: Final = "ends"
"""The name under which the last number is kept."""

MICROSECONDS: Final = 1_000_000
"""Numbers are times since 1970 in microseconds, or greater."""

# Clocks of the processes that count and of those that store batches may differ so much.
_SKEW_MICROSECONDS = 3_600 * MICROSECONDS


def number_at(at: datetime) -> int:
    """Return the number that ends of a time have at the least."""
    return int(at.timestamp() * MICROSECONDS)


def next_number(connection: sa.Connection, *, now: datetime) -> int:
    """Return the number of the ends that this transaction records, greater than all that were committed.

    Others that record ends wait until it commits. So it is taken last, when all rows are locked: who waited
    for a row while holding it could wait for somebody who waits for it. It is the time in microseconds where
    that is greater, so that a restored database goes on above what readers have seen of the one before.
    """
    micros = number_at(now)
    following = sa.case((revisions.c.value + 1 > micros, revisions.c.value + 1), else_=micros)
    counting = upsert(connection.dialect.name, revisions, values={"value": following})
    number: int | None = connection.scalar(
        counting.values(name=ENDS, value=micros).returning(revisions.c.value)
    )
    return number or micros


def number_batches(connection: sa.Connection, completed: Collection[UUID], number: int) -> None:
    """Give batches that are complete now their place in the feed."""
    if completed:
        here = is_one_of(connection, batches.c.id, completed)
        connection.execute(batches.update().where(here).values(feed_number=number))


def head(connection: sa.Connection) -> Place:
    """Return the place behind all ends that are committed."""
    return Place(connection.scalar(sa.select(revisions.c.value).where(revisions.c.name == ENDS)) or 0)


def first_place(connection: sa.Connection, asked: FeedFilter, *, project: str | None) -> Place:
    """Return a place before every end that could match."""
    if asked.batch_id is None:
        return Place(0)
    here = batches.c.id == asked.batch_id, *visible(batches, project)
    created_at: datetime | None = connection.scalar(sa.select(batches.c.created_at).where(*here))
    if created_at is None:
        return Place(0)
    return Place(max(0, number_at(created_at) - _SKEW_MICROSECONDS))


def read_feed(
    connection: sa.Connection,
    asked: FeedFilter,
    *,
    project: str | None,
    after: Place,
    limit: int,
    window_rows: int = WINDOW_ROWS,
) -> FeedPage:
    """Return the next ends behind a place that match, as many as fit; looks at a window of all ends.

    Attempts are not read.
    """
    # First: whatever has a number up to this one is there for the statements that follow.
    end = now_end = head(connection)
    if end <= after:
        return FeedPage((), after, is_last=True)
    windows = [_read_window(connection, table, after, end, window_rows) for table in (jobs, batches)]
    for window in windows:
        if len(window) == window_rows:
            # What lies behind the end of a full window is not known.
            end = min(end, window[-1].place)
    matching = sorted(
        row.place for row in chain(*windows) if row.place <= end and _matches(row, asked, project)
    )
    page = _fitting(connection, matching[:limit])
    if len(page) < len(matching):
        end = page[-1]
    return FeedPage(_read_ends(connection, page), end, is_last=end == now_end)


def ended_jobs(connection: sa.Connection, job_ids: Collection[UUID]) -> list[UUID]:
    """Return which of these jobs have ended."""
    here = is_one_of(connection, jobs.c.id, job_ids), jobs.c.state.in_(FINAL_STATES)
    return list(connection.scalars(sa.select(jobs.c.id).where(*here)))


def finished_batches(connection: sa.Connection, batch_ids: Collection[UUID]) -> list[UUID]:
    """Return of which of these batches all jobs have ended."""
    here = is_one_of(connection, batches.c.id, batch_ids), batches.c.finished_at.is_not(None)
    return list(connection.scalars(sa.select(batches.c.id).where(*here)))


@dataclass(frozen=True, slots=True)
class _Row:
    """What decides whether an end is told of."""

    place: Place
    kind: str
    project: str
    batch_id: UUID
    labels: Mapping[str, str]
    state: JobState | None
    is_ended: bool


def _read_window(
    connection: sa.Connection, table: sa.Table, after: Place, end: Place, limit: int
) -> list[_Row]:
    """Return the first rows of a table in the feed behind a place, up to another one."""
    number, key = table.c.feed_number, table.c.id
    is_batch = table is batches
    # Within the number of the place, those of the table that stand behind it.
    if after.is_batch == is_batch:
        behind = sa.or_(number > after.number, key > after.id)
    else:
        behind = sa.true() if is_batch else number > after.number
    batch_id, state = (key, sa.null()) if is_batch else (table.c.batch_id, table.c.state)
    query = (
        sa.select(number, key, table.c.kind, table.c.project, batch_id, table.c.labels, state)
        .where(number >= after.number, behind, number <= end.number)
        .order_by(number, key)
        .limit(limit)
    )
    return [
        _Row(
            Place(number_, is_batch, id_),
            kind,
            project,
            batch,
            labels,
            state_,
            # One that was redriven has not ended; that a batch was complete stays true.
            is_ended=is_batch or state_.is_final,
        )
        for number_, id_, kind, project, batch, labels, state_ in connection.execute(query)
    ]


def _matches(row: _Row, asked: FeedFilter, project: str | None) -> bool:
    return (
        row.is_ended
        and project in {EVERY_PROJECT, row.project}
        and asked.batch_id in {None, row.batch_id}
        and asked.kind in {None, row.kind}
        and (not asked.states or row.state is None or row.state in asked.states)
        and all(row.labels.get(name) == value for name, value in asked.labels)
    )


def _fitting(connection: sa.Connection, places: Sequence[Place]) -> list[Place]:
    """Return the first of some ends whose rows fit into a page."""
    here = is_one_of(connection, jobs.c.id, [each.id for each in places if not each.is_batch])
    sizes = sa.select(jobs.c.id, row_bytes(connection.dialect.name, *LARGE_COLUMNS)).where(here)
    bytes_of: dict[UUID, int] = dict(connection.execute(sizes).all())
    return fitting((each, bytes_of.get(each.id, 0)) for each in places)


def _read_ends(
    connection: sa.Connection, places: Sequence[Place]
) -> list[tuple[Place, JobRecord | BatchRecord]]:
    """Return the records of ends, but for those that were deleted or redriven meanwhile."""
    job_ids = [each.id for each in places if not each.is_batch]
    batch_ids = [each.id for each in places if each.is_batch]
    records: dict[UUID, JobRecord | BatchRecord] = {}
    if job_ids:
        query = sa.select(*JOB_COLUMNS).where(is_one_of(connection, jobs.c.id, job_ids))
        ended = (record for record in job_records(connection, query) if record.state.is_final)
        records |= {record.id: record for record in ended}
    if batch_ids:
        here = is_one_of(connection, batches.c.id, batch_ids), batches.c.expired_at.is_(None)
        rows = connection.execute(sa.select(batches).where(*here)).mappings()
        records |= {row["id"]: batch_record(row) for row in rows}
    return [(each, records[each.id]) for each in places if each.id in records]
