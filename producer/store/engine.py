"""Engines: SQLite with its pragmas, PostgreSQL with its pool and limits; and what their errors become."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.pool import ConnectionPoolEntry

from producer.store.sql import SQLITE, encode_document
from shared.errors import SettingsInvalid, StoreRefused, StoreUnavailable

_VARIABLE = "RETRIEVER_DATABASE_URL"
_SQLITE_BUSY_SECONDS = 30
_CONNECT_SECONDS = 5
_POOL_WAIT_SECONDS = 10
# Bounds a lost server or a stuck lock; our longest statement counts a batch's jobs.
_STATEMENT_MS = 30_000
_LOCK_MS = 10_000
# A batch is read from its spool while it is stored, so this is far above the time one read may take.
_IDLE_IN_TRANSACTION_MS = 120_000


def open_engine(database_url: str, *, sqlite_busy_seconds: float = _SQLITE_BUSY_SECONDS) -> sa.Engine:
    """Return an engine for the database; connects only when first used. Safe from many threads.

    Creates the folder of a SQLite file. Its errors hide the parameters of a statement: rows hold secrets.

    Args:
        database_url: `sqlite:///path/to/file.db` or `postgresql://user@host/name`.
        sqlite_busy_seconds: How long a writer waits for the one before it.

    Raises:
        SettingsInvalid: the URL cannot be read, names another database, or its folder cannot be made.
    """
    url = read_url(database_url)
    if url.drivername == SQLITE:
        return _open_sqlite(url, sqlite_busy_seconds)
    return _open_postgresql(url)


def writing(engine: sa.Engine) -> sa.Engine:
    """Return the engine for transactions that write.

    On SQLite these take the write lock at once (`BEGIN IMMEDIATE`): a transaction that reads first and
    upgrades later fails with "database is locked" without waiting when another has written in between.
    """
    return engine.execution_options(sqlite_begin="IMMEDIATE")


def read_url(database_url: str) -> sa.URL:
    """Return the parsed URL, its driver ours: `sqlite` or `postgresql+psycopg`.

    Raises:
        SettingsInvalid: it cannot be read, or names another database or no file.
    """
    try:
        url = sa.make_url(database_url)
    except (sa.exc.ArgumentError, ValueError):
        # The cause would show the URL, and with it the password.
        raise SettingsInvalid(f"{_VARIABLE}: not a database URL") from None
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if not url.database or url.database.startswith((":memory:", "file:")):
                raise SettingsInvalid(
                    f"{_VARIABLE}: sqlite needs a file, such as sqlite:////data/retriever.db"
                )
            return url.set(drivername=SQLITE)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise SettingsInvalid(f"{_VARIABLE}: {other} is neither sqlite nor postgresql")


def postgresql_arguments(url: sa.URL) -> dict[str, Any]:
    """Return the limits of every PostgreSQL connection; the URL's own options win."""
    own = url.query.get("options", "")
    limits = (
        f"-c timezone=UTC -c statement_timeout={_STATEMENT_MS} -c lock_timeout={_LOCK_MS}"
        f" -c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION_MS}"
    )
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "retriever",
        "options": f"{limits} {own if isinstance(own, str) else ' '.join(own)}".rstrip(),
        # Notices a server that vanished without a word after about a minute.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }


@contextmanager
def store_failures() -> Iterator[None]:
    """Turn what the database raises within the block into our errors; the transaction was rolled back.

    Raises:
        StoreRefused: a value does not fit its column, or breaks a constraint.
        StoreUnavailable: anything else; it may pass.
    """
    try:
        yield
    except (DataError, IntegrityError, OverflowError, psycopg.DataError, psycopg.IntegrityError) as error:
        raise StoreRefused(_describe(error)) from error
    except DBAPIError as error:
        raise StoreUnavailable(_describe(error)) from error
    except StatementError as error:
        # SQLAlchemy could not even bind the parameters.
        raise StoreRefused(_describe(error)) from error
    except (SQLAlchemyError, psycopg.Error, sqlite3.Error) as error:
        raise StoreUnavailable(_describe(error)) from error


def _open_sqlite(url: sa.URL, busy_seconds: float) -> sa.Engine:
    folder = Path(url.database or "").absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsInvalid(f"{_VARIABLE}: cannot create {folder}: {error.strerror}") from error
    engine = sa.create_engine(
        url,
        json_serializer=encode_document,
        hide_parameters=True,
        pool_size=20,
        pool_timeout=_POOL_WAIT_SECONDS,
        # The driver must not begin transactions by itself: `_begin_sqlite` says which kind.
        connect_args={"isolation_level": None, "timeout": busy_seconds},
    )
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _open_postgresql(url: sa.URL) -> sa.Engine:
    return sa.create_engine(
        url,
        json_serializer=encode_document,
        hide_parameters=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=_POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=1_800,
        connect_args=postgresql_arguments(url),
    )


def _set_pragmas(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # journal_mode=WAL stays in the file, so `migrate` sets it once. FULL, because in WAL mode NORMAL
    # does not sync at commit: it survives a crash of any process, but a power cut takes the newest
    # commits, and with them jobs that we have answered 202.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")


def _describe(error: Exception) -> str:
    # Only the driver's first line: the rest holds the statement, its parameters and row contents.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).splitlines() or [""]
    return f"the database failed ({type(cause).__name__}): {lines[0]}"
