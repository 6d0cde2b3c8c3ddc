"""Bring the database's tables up to date. Safe when several processes do it at once."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from producer.store.engine import SQLITE, open_engine, writing
from producer.store.failures import store_failures

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number of ours, the same in every version: "RETR" in ASCII.
_ADVISORY_LOCK = 0x52455452
# Alembic's table.
_VERSION = sa.table("alembic_version", sa.column("version_num", sa.String()))


def migrate(database_url: str) -> None:
    """Upgrade the tables to this version, in one transaction; does nothing when they are current.

    Blocks while another process migrates the same database.

    Raises:
        SettingsInvalid: the URL is wrong.
        StoreUnavailable: the database did not answer or cannot be migrated; nothing was changed.
        StoreRefused: stored rows do not fit the new tables; nothing was changed.
    """
    engine = open_engine(database_url)
    try:
        with store_failures(), _alone(engine), writing(engine).begin() as connection:
            _wait_for_others(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def schema_is_current(engine: sa.Engine) -> bool:
    """Return whether the tables are those of this version. Reads the database.

    Raises:
        StoreUnavailable: the database did not answer.
    """
    with store_failures(), engine.connect() as connection:
        # Asked directly: Alembic's own check logs two lines at INFO, and probes come every few seconds.
        if not sa.inspect(connection).has_table(_VERSION.name):
            return False
        return connection.scalars(sa.select(_VERSION.c.version_num)).all() == [_head()]


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[None]:
    if engine.dialect.name != SQLITE:
        yield
        return
    # The switch to WAL runs outside a transaction and does not wait for others as a statement does,
    # so processes take turns. The folder is locked and not the file: closing a second descriptor of
    # the file would drop SQLite's own locks on it (sqlite.org/howtocorrupt.html, section 2.2).
    folder = os.open(Path(engine.url.database or "").absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _use_wal(engine)
        yield
    finally:
        os.close(folder)


def _use_wal(engine: sa.Engine) -> None:
    # The bare connection: SQLAlchemy would begin a transaction, in which the mode cannot change.
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            cursor.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _wait_for_others(connection: sa.Connection) -> None:
    if connection.dialect.name == SQLITE:
        return
    # A migration of a large table takes what it takes, and so does the wait for one.
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def _config() -> Config:
    config = Config()
    # Alembic's options are interpolated, so a percent sign in the path must be doubled.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@cache
def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()
