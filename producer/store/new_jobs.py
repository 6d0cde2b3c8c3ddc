"""Write the rows of all jobs of a batch, the way that each database takes many fastest.

SQLAlchemy looks at every value of every row; of a million jobs of one batch almost all values are the same.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import chain, islice
from operator import attrgetter
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
import sqlalchemy as sa

from producer.records import NewJob
from producer.store.column_types import bound_value, encode_document
from producer.store.engine import POSTGRESQL
from producer.store.rows import new_job_row, stored_host

T = TypeVar("T")
# What a job has in common with others of its batch, by column, and what is its own; as the driver takes it.
_Row = tuple[Mapping[str, Any], tuple[str, str, str]]

_OWN = ("id", "args", "host")
_common_fields = attrgetter(*(each.name for each in fields(NewJob) if each.name not in _OWN))
# One COPY is one statement, and a statement has a time limit.
_COPY_JOBS = 20_000
# One write to the socket: PostgreSQL stores these while the next are put together.
_WRITE_JOBS = 250


def insert_new_jobs(connection: sa.Connection, new_jobs: Iterable[NewJob], *, batch_id: UUID) -> Counter[str]:
    """Store the jobs of a batch, and return how many are in each state. Reads them while it writes."""
    counts: Counter[str] = Counter()
    insert = _copy if connection.dialect.name == POSTGRESQL else _insert
    for part in _parts(_rows(connection, new_jobs, batch_id, counts), _COPY_JOBS):
        insert(connection, part)
    return counts


def _rows(
    connection: sa.Connection, new_jobs: Iterable[NewJob], batch_id: UUID, counts: Counter[str]
) -> Iterator[_Row]:
    common: Mapping[str, Any] = {}
    common_to = None
    for job in new_jobs:
        if (these := _common_fields(job)) != common_to:
            row = new_job_row(job, batch_id=batch_id)
            common_to = these
            common = {name: bound_value(row[name], connection.dialect) for name in row if name not in _OWN}
        counts[job.state.value] += 1
        yield (
            common,
            (job.id.hex, encode_document(job.args), bound_value(stored_host(job.host), connection.dialect)),
        )


def _copy(connection: sa.Connection, rows: Iterator[_Row]) -> None:
    first = next(rows)
    columns = ", ".join((*first[0], *_OWN))
    lines = _copy_lines(chain([first], rows))
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    with driver.cursor() as cursor, cursor.copy(f"COPY jobs ({columns}) FROM STDIN") as copy:
        for part in _parts(lines, _WRITE_JOBS):
            copy.write("".join(part))


def _copy_lines(rows: Iterable[_Row]) -> Iterator[str]:
    text, text_of = "", None
    for common, own in rows:
        if common is not text_of:
            text, text_of = "\t".join(map(_copy_text, common.values())), common
        yield f"{text}\t{own[0]}\t{_copy_text(own[1])}\t{_copy_text(own[2])}\n"


def _copy_text(value: object) -> str:
    """Return a value in COPY's text format (https://www.postgresql.org/docs/17/sql-copy.html)."""
    if value is None:
        return r"\N"
    text = rf"\x{value.hex()}" if isinstance(value, bytes) else str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _insert(connection: sa.Connection, rows: Iterator[_Row]) -> None:
    first = next(rows)
    columns = (*first[0], *_OWN)
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of ours
    for part in _parts(chain([first], rows), _WRITE_JOBS):
        connection.exec_driver_sql(statement, [(*common.values(), *own) for common, own in part])


def _parts(items: Iterable[T], size: int) -> Iterator[Iterator[T]]:
    """Cut items into parts, each to be read to its end before the next is asked for."""
    remaining = iter(items)
    for first in remaining:
        yield chain([first], islice(remaining, size - 1))
