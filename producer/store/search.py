"""Search jobs and batches newest first, at a bounded cost however large the table.

One filter drives the search: an index holds its rows in the order of their ids. All others are asked row by
row, in a window of so many of the rows that the driving filter leaves; the hits of a window are a page.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.records import BatchRecord, Found, JobFilter, JobRecord
from producer.store.engine import SQLITE
from producer.store.rows import JOB_COLUMNS, batch_record, job_record, stored_host
from producer.store.schema import batches, jobs

WINDOW_ROWS = 5_000

Labels = Sequence[tuple[str, str]]
# What is asked of a row, given the columns of the window that it is in.
Scan = Callable[[Any], sa.ColumnElement[bool]]

# Columns that have an index with the id behind them, those first that leave the fewest rows.
_DRIVERS = (("batch_id", "state"), ("batch_id",), ("schedule_id",), ("host",), ("state",), ("kind",))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Search:
    """Which rows of a table an index finds, and what is asked of each; `scanned` names the columns for it."""

    table: sa.Table
    driving: Sequence[sa.ColumnElement[bool]]
    scanned: frozenset[str]
    scans: Sequence[Scan]


def search_jobs(
    connection: sa.Connection,
    job_filter: JobFilter,
    *,
    limit: int,
    after: UUID | None,
    window_rows: int = WINDOW_ROWS,
) -> Found[JobRecord]:
    """Return a page of the jobs that match, newest first, from below the id `after`."""
    ids, following = _find_ids(connection, _job_search(job_filter), limit, after, window_rows)
    query = sa.select(*JOB_COLUMNS).where(jobs.c.id.in_(ids)).order_by(jobs.c.id.desc())
    records = [job_record(row) for row in connection.execute(query).mappings()] if ids else []
    return Found([record for record in records if _is_meant(record, job_filter)], following)


def search_batches(
    connection: sa.Connection,
    labels: Labels,
    *,
    limit: int,
    after: UUID | None,
    window_rows: int = WINDOW_ROWS,
) -> Found[BatchRecord]:
    """Return a page of the batches that have these labels, newest first, from below the id `after`."""
    scans: list[Scan] = [lambda row: row["expired_at"].is_(None), *map(_has_label, labels)]
    search = _Search(batches, [], frozenset({"expired_at", "labels"}), scans)
    ids, following = _find_ids(connection, search, limit, after, window_rows)
    query = sa.select(batches).where(batches.c.id.in_(ids)).order_by(batches.c.id.desc())
    records = [batch_record(row) for row in connection.execute(query).mappings()] if ids else []
    return Found([record for record in records if _are_labels(record.labels, labels)], following)


def _job_search(asked: JobFilter) -> _Search:
    equal: dict[str, Any] = {
        "batch_id": asked.batch_id,
        "schedule_id": asked.schedule_id,
        "host": None if asked.host is None else stored_host(asked.host),
        "state": asked.state.value if asked.state else None,
        "kind": asked.kind,
        "reason": asked.reason,
    }
    equal = {name: value for name, value in equal.items() if value is not None}
    drivers: tuple[str, ...] = next((names for names in _DRIVERS if equal.keys() >= set(names)), ())
    driving = [jobs.c[name] == equal[name] for name in drivers]
    if asked.created_after is not None:
        driving.append(jobs.c.id >= _first_id(asked.created_after))
    if asked.created_before is not None:
        driving.append(jobs.c.id < _first_id(asked.created_before))
    rest = {name: value for name, value in equal.items() if name not in drivers}
    scans = [_equals(name, value) for name, value in rest.items()] + [*map(_has_label, asked.labels)]
    names = {*rest, *(["labels"] if asked.labels else []), *(["args"] if asked.url else [])}
    if asked.url:
        scans.append(_has_url(asked.url))
    return _Search(jobs, driving, frozenset(names), scans)


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


def _scan(search: _Search, rows: sa.Select[UUID], dialect: str) -> sa.Select[UUID]:
    # Behind a fence, so that the window is read by the index that finds it, and not by another one that a
    # scanned column would offer; and so that no more of it is read than fills a page.
    columns = [search.table.c[name] for name in sorted(search.scanned)]
    if dialect == SQLITE:
        # In a function a column has no index. A fence like that below would have all of the window sorted.
        hidden = {column.name: sa.func.coalesce(column, sa.null()) for column in columns}
        return rows.where(*(scan(hidden) for scan in search.scans))
    # An offset, if of 0.
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
    url = record.args.get("url")
    is_url = asked.url is None or (isinstance(url, str) and asked.url.lower() in url.lower())
    return is_url and _are_labels(record.labels, asked.labels)


def _are_labels(labels: Mapping[str, str], asked: Labels) -> bool:
    # SQLite's LIKE knows no case.
    return all(labels.get(name) == value for name, value in asked)


def _first_id(at: datetime) -> UUID:
    """Return the smallest id that can be made at a time: a UUIDv7 begins with its milliseconds."""
    milliseconds = max(-((_EPOCH - at) // timedelta(milliseconds=1)), 0)
    return UUID(int=milliseconds << 80)
