"""Fill a store with many hours of work: one by the service's own functions, the others as copies in SQL.

Every column, count and index is as the service leaves it, for it wrote the hour that is copied; only ids and
times are of the copy, and one batch goes on through all of them. It takes a tenth of the time.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from bench.stock import HOUR, Hour, first_id, milliseconds, reports_of
from producer.records import NewJob
from producer.store import events as store_events
from producer.store import outbox, recording, submissions
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.store.schema import attempts, batches, jobs
from producer.store.sql import SQLITE
from shared.states import JobState

PAGE = 500
LEASE_SECONDS = 1.0
# Of a shift in time: the due time of scheduled jobs must stay ahead.
_KEPT = frozenset({"due_at", "deadline_at"})
_SHIFTED_ID = """CREATE FUNCTION pg_temp.shifted_id(id uuid, ms bigint)
    RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(('x' || substr(hex, 1, 12))::bit(48)::bigint - ms), 12, '0') || substr(hex, 13))::uuid
    FROM (SELECT replace(id::text, '-', '') AS hex) AS digits
$$"""


def write_hour(store: Database, hour: Hour) -> None:
    """Let a store take the submissions and the reports of an hour, as an API, a relay and a recorder do."""
    for each in hour.submitted:
        if each.batch is not None:
            store.write(submissions.insert_batch, each.batch, each.jobs)
    singles = [job for each in hour.submitted if each.batch is None for job in each.jobs]
    for page in _pages(singles):
        store.write(submissions.insert_jobs, page)
    every = sorted((job for each in hour.submitted for job in each.jobs), key=lambda job: job.id)
    for page in _pages(every):
        published = [
            job for job in page if hour.states[job.id] not in {JobState.SCHEDULED, JobState.ACCEPTED}
        ]
        now = page[-1].created_at + timedelta(seconds=30)
        store.write(outbox.mark_queued, [(job.id, 1) for job in published], now=now)
        store.write(
            recording.record_reports,
            [each for job in published for each in reports_of(job, hour.states[job.id])],
            now=now,
        )
    # The broker has confirmed what it was told of them.
    while events := store.write(
        store_events.claim_events, limit=PAGE, lease_seconds=LEASE_SECONDS, now=every[-1].created_at
    ):
        store.write(store_events.forget_events, [event.id for event in events])


def copy_hour(database_url: str, hour: Hour, *, copies: int) -> None:
    """Make as many hours before it, each a copy, oldest first; then let the database tidy up as it does."""
    engine = open_engine(database_url)
    try:
        with engine.connect() as connection:
            _define_shift(connection)
            connection.commit()
            for number in range(copies, 0, -1):
                for table, key in ((batches, batches.c.id), (jobs, jobs.c.id), (attempts, attempts.c.job_id)):
                    connection.execute(_copy(table, key, hour, HOUR * number, connection.dialect.name))
                connection.commit()
            _count_biggest(connection, hour, copies + 1)
            connection.commit()
        _tidy(engine)
    finally:
        engine.dispose()


def _define_shift(connection: sa.Connection) -> None:
    if connection.dialect.name == SQLITE:
        driver: Any = connection.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.create_function(
            "shifted_id", 2, lambda text, ms: text and f"{int(text[:12], 16) - ms:012x}{text[12:]}"
        )
        return
    # The copies are lost with the machine, and nobody waits for their commits.
    connection.exec_driver_sql("SET synchronous_commit = off")
    connection.exec_driver_sql(_SHIFTED_ID)


def _copy(table: sa.Table, key: sa.Column[Any], hour: Hour, by: timedelta, dialect: str) -> sa.Insert:
    """Return the statement that copies the rows of an hour to one before it."""
    # Rows of the hour itself, and no copy, have ids from its start on.
    first = sa.literal(first_id(hour.start), sa.Uuid())
    rows = sa.select(*(_shifted(column, hour, by, dialect) for column in table.c)).where(key >= first)
    if table is batches:
        rows = rows.where(batches.c.id != hour.biggest)
    return table.insert().from_select([column.name for column in table.c], rows)


def _shifted(column: sa.Column[Any], hour: Hour, by: timedelta, dialect: str) -> sa.ColumnElement[Any]:
    if column.name.endswith("_at") and column.name not in _KEPT:
        if dialect == SQLITE:
            return sa.type_coerce(column, sa.BigInteger()) - sa.literal(milliseconds(by) * 1_000)
        return sa.type_coerce(column, sa.TIMESTAMP(timezone=True)) - sa.literal(by, sa.Interval())
    if column.name in {"id", "job_id", "batch_id"}:
        function = sa.func.shifted_id if dialect == SQLITE else sa.func.pg_temp.shifted_id
        moved = function(column, sa.literal(milliseconds(by), sa.BigInteger()), type_=sa.Uuid())
        if column.name == "batch_id":
            return sa.case((column == hour.biggest, column), else_=moved)
        return moved
    return column


def _count_biggest(connection: sa.Connection, hour: Hour, hours: int) -> None:
    counts = {name: batches.c[name] * hours for name in ("total", *(state.value for state in JobState))}
    connection.execute(batches.update().where(batches.c.id == hour.biggest).values(counts))


def _tidy(engine: sa.Engine) -> None:
    """Do what autovacuum has done long since in a store of that age. SQLite has nothing of the kind."""
    if engine.dialect.name != SQLITE:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql("VACUUM (ANALYZE)")


def _pages(jobs_in_order: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    for first in range(0, len(jobs_in_order), PAGE):
        yield jobs_in_order[first : first + PAGE]
