"""Read jobs and batches. Nothing here changes a row.

A search costs the same however large the table is. One filter drives it: an index holds its rows in the order
of their ids. All other filters are asked row by row, in a window of the rows that the driving filter leaves;
the hits of a window are a page.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.callers import DEFAULT_PROJECT
from producer.records import (
    FIRST_REJECTED,
    LOOK_AFTER,
    AttemptRecord,
    BatchRecord,
    Found,
    JobFilter,
    JobRecord,
    Rejected,
    url_in,
)
from producer.store.page_bytes import fitting, row_bytes
from producer.store.projects import EVERY_PROJECT, visible, visible_of_batch
from producer.store.rows import (
    ATTEMPT_COLUMNS,
    JOB_COLUMNS,
    LARGE_COLUMNS,
    OPEN_STATES,
    REJECTED_COLUMNS,
    batch_record,
    first_id,
    job_record,
    job_records,
    stored_host,
)
from producer.store.schema import IS_WAITING_REPEAT, attempts, batches, jobs, rejected_lines
from producer.store.sql import SQLITE, is_one_of, stored
from shared.errors import BatchNotFound, JobNotFound
from shared.states import JobState

# States that still need work, time or a person.
_UNFINISHED = [state for state in JobState if state not in {JobState.SUCCEEDED, JobState.CANCELLED}]
WINDOW_ROWS = 5_000
_READ_ARGS = 200
# A retry policy spreads the times of so many as of all.
_WAITING_JOBS = 200
Labels = Sequence[tuple[str, str]]
# A condition on a row, given the columns of its window.
Scan = Callable[[Any], sa.ColumnElement[bool]]
_LARGE_OF_BATCH = (batches.c.labels, batches.c.callback_url)
# Columns that have an index with the id behind them; those that leave the fewest rows come first.
_DRIVERS = (
    ("ref",),
    ("batch_id", "state"),
    ("batch_id",),
    ("schedule_id",),
    ("host",),
    ("state",),
    ("kind",),
)
# Of any other project than the default one: of no other index is known how many jobs of others it has.
_DRIVERS_OF_PROJECT = (("batch_id", "state"), ("batch_id",), ("project", "ref"), ("project",))


@dataclass(frozen=True, slots=True)
class _Search:
    """The rows of a table that an index finds, the conditions on each, and the columns that those need.

    The `large` columns are those that decide how many rows fit into a page.
    """

    table: sa.Table
    large: Sequence[sa.Column[Any]]
    driving: Sequence[sa.ColumnElement[bool]]
    scanned: frozenset[str]
    scans: Sequence[Scan]


def get_job(connection: sa.Connection, job_id: UUID, *, project: str | None) -> JobRecord:
    """Return the job with every attempt, oldest first.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
    """
    found = get_jobs(connection, [job_id], project=project)
    if job_id not in found:
        raise JobNotFound(f"no job has the id {job_id}")
    return found[job_id]


def get_jobs(
    connection: sa.Connection, job_ids: Collection[UUID], *, project: str | None
) -> dict[UUID, JobRecord]:
    """Return those jobs that are there, each with every attempt, oldest first."""
    if not job_ids:
        return {}
    here = is_one_of(connection, jobs.c.id, job_ids)
    query = sa.select(*JOB_COLUMNS).where(here, *visible(jobs, project))
    rows = connection.execute(query).mappings().all()
    made: dict[UUID, list[AttemptRecord]] = {row["id"]: [] for row in rows}
    for job_id, attempt in _attempts_of(connection, [*made]):
        made[job_id].append(attempt)
    return {row["id"]: job_record(row, attempts=made[row["id"]]) for row in rows}


def get_batch(connection: sa.Connection, batch_id: UUID, *, project: str | None) -> BatchRecord:
    """Return the batch with the number of its jobs in each state.

    Raises:
        BatchNotFound: no row has this id, for a caller of this project.
    """
    query = sa.select(batches).where(*_is_batch(batch_id, project))
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise BatchNotFound(f"no batch has the id {batch_id}")
    first = _rejected_lines(connection, batch_id, after=0, limit=FIRST_REJECTED) if row["rejected"] else []
    return batch_record(row, first_rejected=first, latest_due_at=_latest_due(connection, row))


def list_rejected(
    connection: sa.Connection,
    batch_id: UUID,
    *,
    project: str | None,
    after: int,
    limit: int,
    ref: str | None = None,
) -> list[Rejected]:
    """Return a page of a batch's rejected lines in their order, from above the number `after`.

    Args:
        ref: Only those with exactly this ref.

    Raises:
        BatchNotFound: no row has this id, for a caller of this project.
    """
    check_batch(connection, batch_id, project=project)
    return _rejected_lines(connection, batch_id, after=after, limit=limit, ref=ref)


def check_batch(connection: sa.Connection, batch_id: UUID, *, project: str | None) -> None:
    """Do nothing if there is such a batch.

    Raises:
        BatchNotFound: no row has this id, for a caller of this project.
    """
    here = sa.exists().where(*_is_batch(batch_id, project))
    if not connection.scalar(sa.select(here)):
        raise BatchNotFound(f"no batch has the id {batch_id}")


def search_jobs(
    connection: sa.Connection,
    job_filter: JobFilter,
    *,
    project: str | None,
    limit: int,
    after: UUID | None,
    window_rows: int = WINDOW_ROWS,
) -> Found[JobRecord]:
    """Return a page of the jobs that match, newest first, from below the id `after`: as many as fit."""
    search = _job_search(job_filter, project)
    ids, following = _fit(connection, search, *_find_ids(connection, search, limit, after, window_rows))
    query = sa.select(*JOB_COLUMNS).where(jobs.c.id.in_(ids)).order_by(jobs.c.id.desc())
    records = job_records(connection, query) if ids else []
    return Found([record for record in records if _is_meant(record, job_filter)], following)


def matching_ids(
    connection: sa.Connection,
    job_filter: JobFilter,
    *,
    project: str | None,
    after: UUID | None,
    limit: int = WINDOW_ROWS,
    window_rows: int = WINDOW_ROWS,
) -> tuple[Sequence[UUID], UUID | None]:
    """Return the ids of a page of the jobs that match, newest first, and the id to go on below."""
    is_by_url = job_filter.url is not None
    search = _job_search(job_filter, project)
    # Arguments may be large.
    ids, following = _find_ids(
        connection, search, min(limit, _READ_ARGS) if is_by_url else limit, after, window_rows
    )
    if ids and (is_by_url or job_filter.labels):
        # What the search finds in texts may be more than was meant.
        args = stored(jobs.c.args) if is_by_url else sa.null()
        query = sa.select(jobs.c.id, jobs.c.labels, args).where(is_one_of(connection, jobs.c.id, ids))
        meant = {
            id_
            for id_, labels, asked in connection.execute(query)
            if _are_meant(url_in(asked) if is_by_url else None, labels, job_filter)
        }
        ids = [each for each in ids if each in meant]
    return ids, following


def search_batches(
    connection: sa.Connection,
    labels: Labels,
    *,
    project: str | None,
    limit: int,
    after: UUID | None,
    window_rows: int = WINDOW_ROWS,
) -> Found[BatchRecord]:
    """Return a page of the batches that have these labels, newest first, from below the id `after`."""
    scans: list[Scan] = [lambda row: row["expired_at"].is_(None), *map(_has_label, labels)]
    ours = visible(batches, project)
    search = _Search(batches, _LARGE_OF_BATCH, ours, frozenset({"expired_at", "labels"}), scans)
    ids, following = _fit(connection, search, *_find_ids(connection, search, limit, after, window_rows))
    query = sa.select(batches).where(batches.c.id.in_(ids)).order_by(batches.c.id.desc())
    rows = connection.execute(query).mappings().all() if ids else []
    records = [batch_record(row, latest_due_at=_latest_due(connection, row)) for row in rows]
    return Found([record for record in records if _are_labels(record.labels, labels)], following)


def count_unfinished(connection: sa.Connection) -> Mapping[JobState, int]:
    """Return how many jobs are in each state but succeeded and cancelled; empty states are missing."""
    query = sa.select(jobs.c.state, sa.func.count()).where(jobs.c.state.in_(_UNFINISHED))
    return dict(connection.execute(query.group_by(jobs.c.state)).all())


def _is_batch(batch_id: UUID, project: str | None) -> list[sa.ColumnElement[bool]]:
    return [batches.c.id == batch_id, batches.c.expired_at.is_(None), *visible(batches, project)]


def _latest_due(connection: sa.Connection, row: sa.RowMapping) -> datetime | None:
    """Return the last time that a job of a batch waits for, as some of those that wait tell it."""
    waiting = [state for state in (JobState.DELAYED, JobState.SCHEDULED) if row[state.value]]
    if not waiting:
        return None
    some = (
        sa.select(jobs.c.due_at, IS_WAITING_REPEAT.label("is_repeat"))
        .where(jobs.c.batch_id == row["id"], jobs.c.state.in_(waiting))
        .limit(_WAITING_JOBS)
        .subquery()
    )
    latest = sa.select(some.c.is_repeat, sa.func.max(some.c.due_at)).group_by(some.c.is_repeat)
    times = [(is_repeat, at) for is_repeat, at in connection.execute(latest) if at is not None]
    # A repeat is looked after later than its batch was to run.
    return max((at - LOOK_AFTER if is_repeat else at for is_repeat, at in times), default=None)


def _rejected_lines(
    connection: sa.Connection, batch_id: UUID, *, after: int, limit: int, ref: str | None = None
) -> list[Rejected]:
    query = (
        sa.select(*REJECTED_COLUMNS)
        .where(rejected_lines.c.batch_id == batch_id, rejected_lines.c.number > after)
        .order_by(rejected_lines.c.number)
        .limit(limit)
    )
    if ref is not None:
        query = query.where(rejected_lines.c.ref == ref)
    return [Rejected(*row) for row in connection.execute(query)]


def _attempts_of(
    connection: sa.Connection, job_ids: Collection[UUID]
) -> Iterator[tuple[UUID, AttemptRecord]]:
    query = sa.select(attempts.c.job_id, *ATTEMPT_COLUMNS).where(
        is_one_of(connection, attempts.c.job_id, job_ids)
    )
    in_order = query.order_by(attempts.c.job_id, attempts.c.run, attempts.c.number)
    for row in connection.execute(in_order).mappings():
        facts = dict(row)
        yield facts.pop("job_id"), AttemptRecord(**facts)


def _job_search(asked: JobFilter, project: str | None) -> _Search:
    equal: dict[str, Any] = {
        "ref": asked.ref,
        "batch_id": asked.batch_id,
        "schedule_id": asked.schedule_id,
        "host": None if asked.host is None else stored_host(asked.host),
        "state": asked.state,
        "kind": asked.kind,
        "queue": asked.queue,
        "reason": asked.reason,
        # All jobs of a batch are of its project, and the batch is asked.
        "project": project if asked.batch_id is None else None,
    }
    equal = {name: value for name, value in equal.items() if value is not None}
    order = _DRIVERS if project in {EVERY_PROJECT, DEFAULT_PROJECT} else _DRIVERS_OF_PROJECT
    drivers: tuple[str, ...] = next((names for names in order if equal.keys() >= set(names)), ())
    driving = [jobs.c[name] == equal[name] for name in drivers]
    if "project" in drivers:
        driving = [*visible(jobs, project), *(jobs.c[name] == equal[name] for name in drivers[1:])]
    if asked.batch_id is not None:
        driving += visible_of_batch(asked.batch_id, project)
    if asked.created_after is not None:
        driving.append(jobs.c.id >= first_id(asked.created_after))
    if asked.created_before is not None:
        driving.append(jobs.c.id < first_id(asked.created_before))
    rest = {name: value for name, value in equal.items() if name not in drivers}
    scans = [_equals(name, value) for name, value in rest.items()] + [*map(_has_label, asked.labels)]
    names = {*rest, *(["labels"] if asked.labels else []), *(["args"] if asked.url else [])}
    if asked.url:
        scans.append(_has_url(asked.url))
    if asked.is_unfinished:
        scans.append(lambda row: row["state"].in_(OPEN_STATES))
        names.add("state")
    return _Search(jobs, LARGE_COLUMNS, driving, frozenset(names), scans)


def _find_ids(
    connection: sa.Connection, search: _Search, limit: int, after: UUID | None, window_rows: int
) -> tuple[Sequence[UUID], UUID | None]:
    """Return the ids of a page, and the id to go on below."""
    key = search.table.c.id
    rows = sa.select(key).where(*search.driving).order_by(key.desc())
    if after is not None:
        rows = rows.where(key < after)
    end: UUID | None = None
    if search.scans:
        # Where the window ends is settled first: rows come and go while we look.
        end = connection.scalar(rows.limit(1).offset(window_rows - 1))
        rows = _scan(search, rows if end is None else rows.where(key >= end), connection.dialect.name)
    found = connection.scalars(rows.limit(limit + 1)).all()
    return (found[:limit], found[limit - 1]) if len(found) > limit else (found, end)


def _fit(
    connection: sa.Connection, search: _Search, ids: Sequence[UUID], following: UUID | None
) -> tuple[Sequence[UUID], UUID | None]:
    """Return those of the ids whose rows fit into a page, and the id to go on below."""
    if not ids:
        return ids, following
    key = search.table.c.id
    sizes = sa.select(key, row_bytes(connection.dialect.name, *search.large)).where(
        is_one_of(connection, key, ids)
    )
    sized = connection.execute(sizes.order_by(key.desc())).all()
    page = fitting((row_id, size) for row_id, size in sized)
    return (page, page[-1]) if len(page) < len(sized) else (page, following)


def _scan(search: _Search, rows: sa.Select[UUID], dialect: str) -> sa.Select[UUID]:
    # Behind a fence, so that the window is read by the index that finds it, and not by another one that a
    # scanned column would offer; and so that no more of it is read than fills a page.
    columns = [search.table.c[name] for name in sorted(search.scanned)]
    if dialect == SQLITE:
        # No index serves a column in a function. A fence like the one below would sort the whole window.
        hidden = {column.name: sa.func.coalesce(column, sa.null()) for column in columns}
        return rows.where(*(scan(hidden) for scan in search.scans))
    # OFFSET 0 is the fence.
    window = rows.add_columns(*columns).offset(0).subquery("rows_of_window").c
    return sa.select(window.id).where(*(scan(window) for scan in search.scans)).order_by(window.id.desc())


def _equals(name: str, value: object) -> Scan:
    return lambda row: row[name] == value


def _has_label(label: tuple[str, str]) -> Scan:
    # Labels are a flat object in compact ASCII JSON, in which this stands for nothing else.
    pair = json.dumps(dict([label]), separators=(",", ":"))[1:-1]
    return lambda row: sa.cast(row["labels"], sa.Text()).contains(pair, autoescape=True)


def _has_url(part: str) -> Scan:
    # In the text of the arguments and not in their field: PostgreSQL would fail on a document that has an
    # escaped NUL anywhere. That finds some more than was meant; see `_is_meant`.
    text = json.dumps(part)[1:-1].lower()
    return lambda row: sa.func.lower(sa.cast(row["args"], sa.Text())).contains(text, autoescape=True)


def _is_meant(record: JobRecord, asked: JobFilter) -> bool:
    return _are_meant(record.url if asked.url is not None else None, record.labels, asked)


def _are_meant(url: object, labels: Mapping[str, str], asked: JobFilter) -> bool:
    is_url = asked.url is None or (isinstance(url, str) and asked.url.lower() in url.lower())
    return is_url and _are_labels(labels, asked.labels)


def _are_labels(labels: Mapping[str, str], asked: Labels) -> bool:
    # SQLite's LIKE knows no case.
    return all(labels.get(name) == value for name, value in asked)
