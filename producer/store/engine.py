"""Engines: SQLite with its pragmas, PostgreSQL with its pool and limits."""

import os
import sqlite3
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import Conninfo
from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry

from producer.store.failures import POOLER, READ_ONLY, READ_ONLY_FILE, is_read_only, store_failures
from producer.store.sql import SQLITE, encode_document
from shared.errors import SettingsInvalid, StoreUnavailable
from shared.tls import Exposure, warn_of_exposure

_VARIABLE = "RETRIEVER_DATABASE_URL"
SQLITE_BUSY_SECONDS = 30
_ASK_AGAIN_SECONDS = 0.001
_CONNECT_SECONDS = 5
_POOL_WAIT_SECONDS = 10
# Bounds a lost server or a stuck lock; our longest statement counts a batch's jobs.
_STATEMENT_MS = 30_000
_LOCK_MS = 10_000
# A batch is read from its spool while it is stored, so this is far above the time one read may take.
_IDLE_IN_TRANSACTION_MS = 120_000
# A setting that nobody else has: where it is missing, somebody between PostgreSQL and us dropped them all.
_MARK = "retriever.settings"


def open_engine(database_url: str, *, sqlite_busy_seconds: float = SQLITE_BUSY_SECONDS) -> sa.Engine:
    """Return an engine for the database; connects only when first used. Safe from many threads.

    A SQLite file and its folder are made for their owner alone. Errors hide the parameters of a statement:
    rows hold secrets.

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


def warn_of_open_store(database_url: str, *, unwarned: Collection[str]) -> None:
    """Log if PostgreSQL is on another machine, and the way there is open. Does not connect.

    Args:
        unwarned: Hosts that the operator has said are safe to reach all the same.

    Raises:
        SettingsInvalid: as `open_engine`.
    """
    url = read_url(database_url)
    if url.drivername == SQLITE:
        return
    # libpq's own variables, such as PGSSLMODE, say what the URL does not.
    used = {each.keyword.decode(): (each.val or b"").decode() for each in Conninfo.get_defaults()}
    used |= url.get_dialect()().create_connect_args(url)[1]
    # `prefer` encrypts if the other side likes to, and so does who has taken its place.
    found = {"verify-full": None, "disable": Exposure.READ_IT, "allow": Exposure.READ_IT}
    warn_of_exposure(
        found.get(used["sslmode"], Exposure.TAKE_ITS_PLACE),
        setting=_VARIABLE,
        hosts=str(used["host"] or used["hostaddr"]).split(","),
        unwarned=unwarned,
    )


def postgresql_arguments(url: sa.URL) -> dict[str, Any]:
    """Return the limits of every PostgreSQL connection; the URL's own options win."""
    own = url.query.get("options", "")
    limits = (
        f"-c timezone=UTC -c statement_timeout={_STATEMENT_MS} -c lock_timeout={_LOCK_MS}"
        f" -c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION_MS} -c {_MARK}=on"
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


def check_writable(engine: sa.Engine) -> None:
    """Do nothing if the database takes writes. Reads the database; on SQLite it looks at the file's rights.

    Raises:
        StoreUnavailable: it does not, or did not answer. New connections are made then: one that was opened
            before a failover may be one of a standby.
    """
    with store_failures(), engine.connect() as connection:
        if engine.dialect.name == SQLITE:
            path = Path(engine.url.database or "").absolute()
            is_writable, reason = (
                all(os.access(each, os.W_OK) for each in (path, path.parent)),
                READ_ONLY_FILE,
            )
        else:
            is_writable = (
                connection.scalar(sa.text("SELECT current_setting('transaction_read_only')")) == "off"
            )
            reason = READ_ONLY
    if not is_writable:
        engine.dispose()
        raise StoreUnavailable(reason)


def _open_sqlite(url: sa.URL, busy_seconds: float) -> sa.Engine:
    path = Path(url.database or "").absolute()
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
    event.listen(engine, "do_connect", lambda *_: _make_private(path))
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", partial(_begin_sqlite, busy_seconds=busy_seconds))
    event.listen(engine, "handle_error", _leave_read_only)
    return engine


def _open_postgresql(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        # Whatever the role's or the database's default is: our locks and `SKIP LOCKED` are made for it, and a
        # snapshot from before the lock would let two transactions take one key.
        isolation_level="READ COMMITTED",
        json_serializer=encode_document,
        hide_parameters=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=_POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        pool_recycle=1_800,
        connect_args=postgresql_arguments(url),
    )
    event.listen(engine, "connect", _check_settings)
    event.listen(engine, "handle_error", _leave_read_only)
    return engine


def _check_settings(connection: "psycopg.Connection[Any]", _entry: ConnectionPoolEntry) -> None:
    row = connection.execute("SELECT current_setting(%s, true)", [_MARK]).fetchone()
    connection.rollback()
    if row != ("on",):
        connection.close()
        raise StoreUnavailable(POOLER)


def _leave_read_only(context: sa.engine.ExceptionContext) -> None:
    # A connection stays read-only when the database is not any more: the pool makes new ones.
    if is_read_only(context.original_exception):
        context.is_disconnect = True


def _make_private(path: Path) -> None:
    # SQLite would let all users read it, and gives its log and index (`-wal`, `-shm`) the rights of it. One
    # that is there is not even opened: to close it would drop SQLite's locks (howtocorrupt.html, 2.2).
    with suppress(OSError):
        # If it cannot be made, SQLite says so.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _set_pragmas(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # journal_mode=WAL stays in the file, so `migrate` sets it once. FULL, because in WAL mode NORMAL
    # does not sync at commit: it survives a crash of any process, but a power cut takes the newest
    # commits, and with them jobs that we have answered 202.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection, *, busy_seconds: float) -> None:
    if connection.get_execution_options().get("sqlite_begin") != "IMMEDIATE":
        connection.exec_driver_sql("BEGIN DEFERRED")
        return
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        _begin_writing(driver, ends_at=time.monotonic() + busy_seconds)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {int(busy_seconds * 1_000)}")


def _begin_writing(driver: sqlite3.Connection, *, ends_at: float) -> None:
    """Begin a transaction when no other process writes.

    SQLite itself asks less and less often, down to ten times a second: beside a process that writes all the
    time another waits for seconds, for it asks at the wrong moments.
    """
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= ends_at:
                raise
            time.sleep(_ASK_AGAIN_SECONDS)
        else:
            return
