"""Bring the database's tables up to date. Safe when several processes do it at once."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from producer.store.compatibility import Fit, check_usable, note_oldest_code, read_fit
from producer.store.engine import open_engine, writing
from producer.store.failures import store_failures
from producer.store.sql import SQLITE

_MIGRATIONS = Path(__file__).parent / "migrations"
# A number of our own, the same in every version: "RETR" in ASCII.
_ADVISORY_LOCK = 0x52455452
# What may use the tables as long as no migration says `oldest_code`: all code since the first release.
_FIRST_CODE = "0001"


def migrate(database_url: str) -> bool:
    """Upgrade the tables to this version, in one transaction; does nothing when they are current.

    Blocks while another process migrates the same database. Leaves newer tables that this version may use as
    they are: the code was rolled back.

    Returns:
        Whether the tables are now those of this version.

    Raises:
        SettingsInvalid: the URL is wrong.
        StoreUnavailable: the database did not answer, cannot be migrated, or has newer tables that this
            version cannot use; nothing was changed.
        StoreRefused: stored rows do not fit the new tables; nothing was changed.
    """
    engine = open_engine(database_url)
    try:
        with store_failures(), _alone(engine), writing(engine).begin() as connection:
            _wait_for_others(connection)
            fit = read_fit(connection, _revisions())
            if fit is Fit.OLDER or fit is Fit.CURRENT:
                _upgrade(connection)
                return True
            check_usable(fit)
            return False
    finally:
        engine.dispose()


def check_schema(engine: sa.Engine) -> None:
    """Do nothing if this version may use the tables. Reads the database.

    Raises:
        StoreUnavailable: it may not, or the database did not answer.
    """
    with store_failures(), engine.connect() as connection:
        check_usable(read_fit(connection, _revisions()))


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
        _close_to_others(Path(engine.url.database or ""))
        _use_wal(engine)
        yield
    finally:
        os.close(folder)


def _close_to_others(path: Path) -> None:
    # Earlier versions let all users read it. A group may have been let in on purpose.
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(FileNotFoundError, PermissionError):
            each.chmod(stat.S_IMODE(each.stat().st_mode) & ~stat.S_IRWXO)


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
    # Migrating a large table takes its time, and so does waiting for another process that does it.
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def _upgrade(connection: sa.Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    note_oldest_code(connection, _oldest_code())


def _config() -> Config:
    config = Config()
    # Alembic's options are interpolated, so a percent sign in the path must be doubled.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@cache
def _revisions() -> tuple[str, ...]:
    """Return all revisions, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return tuple(script.revision for script in scripts.walk_revisions())[::-1]


def _oldest_code() -> str:
    """Return the oldest code that may use these tables: the last `oldest_code` of a migration."""
    for script in ScriptDirectory.from_config(_config()).walk_revisions():
        said: str | None = getattr(script.module, "oldest_code", None)
        if said is not None:
            return said
    return _FIRST_CODE
