"""How relays learn of jobs at once, the API of tasks and ends: `NOTIFY` on PostgreSQL, a poll on SQLite."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote
from uuid import UUID

import psycopg
import sqlalchemy as sa

from producer.callers import scoped
from producer.store.engine import postgresql_arguments, read_url
from producer.store.schema import IS_PICKABLE, jobs
from producer.store.sql import POSTGRESQL, SQLITE, is_one_of
from shared.kinds.registry import waiting_state
from shared.states import JobState

logger = logging.getLogger(__name__)

CHANNEL: Final = "retriever_jobs"
TASK_CHANNEL: Final = "retriever_tasks"
# What is said on the channel of the relays of ends, which they publish; of other news of theirs nothing is.
ENDED: Final = "ended"
# And of hosts that may have room for the jobs that they hold.
ROOM: Final = "room"
_MOST_QUEUES = 1_000


def announce_jobs(connection: sa.Connection) -> None:
    """Wake the relays when this transaction commits; does nothing on SQLite."""
    _announce(connection, "")


def announce_room(connection: sa.Connection) -> None:
    """Wake the relays when this transaction commits, for the jobs that hosts hold; not on SQLite."""
    _announce(connection, ROOM)


def announce_ends(connection: sa.Connection) -> None:
    """Wake the relays, and whoever waits for ends, when this transaction commits; does nothing on SQLite."""
    _announce(connection, ENDED)


def announce_tasks(connection: sa.Connection, queues: Iterable[str]) -> None:
    """Wake the agents that wait for tasks of these queues when this transaction commits; not on SQLite.

    The queues are named as `producer.callers.scoped` does. Once for each queue, however many of its tasks
    became pickable. What is announced while nobody listens is lost.
    """
    if connection.dialect.name == POSTGRESQL:
        for queue in sorted(set(queues)):
            connection.execute(sa.select(sa.func.pg_notify(TASK_CHANNEL, queue)))


def announce_tasks_where(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Wake the agents for those of some stored tasks that they may pick now, as `announce_tasks` does."""
    if connection.dialect.name == POSTGRESQL:
        # Of very many queues, those that are left out are looked at when an agent asks for them anew.
        query = sa.select(jobs.c.project, jobs.c.queue).where(IS_PICKABLE, which).distinct()
        found = connection.execute(query.limit(_MOST_QUEUES)).all()
        announce_tasks(connection, [scoped(queue, project) for project, queue in found if queue is not None])


def announce_waiting(connection: sa.Connection, kinds: Mapping[UUID, str]) -> None:
    """Wake relays, and agents, for stored jobs that wait for them from now on, by their ids."""
    tasks = [job_id for job_id, kind in kinds.items() if waiting_state(kind) is JobState.QUEUED]
    if tasks:
        announce_tasks_where(connection, is_one_of(connection, jobs.c.id, tasks))
    if len(tasks) < len(kinds):
        announce_jobs(connection)


class Wakeup(Protocol):
    """Tells one listener when it is worth looking for jobs."""

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        """Return when there may be new jobs, at the latest after the timeout. Raises no database error.

        Returns:
            What was said of them: of tasks the names of their queues. Nothing when nobody told.
        """

    async def aclose(self) -> None:
        """Close what is open."""


def open_wakeup(database_url: str, poll_seconds: float) -> Wakeup:
    """Return the wakeup of the database for a relay; connects only when first waited on.

    Args:
        database_url: As for `open_engine`.
        poll_seconds: How often to look where nobody tells: on SQLite.

    Raises:
        SettingsInvalid: the URL cannot be read or names another database.
    """
    url = read_url(database_url)
    return PollWakeup(poll_seconds) if url.drivername == SQLITE else NotifyWakeup(url, CHANNEL)


def open_end_wakeup(database_url: str, poll_seconds: float) -> Wakeup:
    """Return the wakeup of the database for those who wait for ends, as `open_wakeup` does for a relay."""
    url = read_url(database_url)
    return ChangeWakeup(url, poll_seconds) if url.drivername == SQLITE else NotifyWakeup(url, CHANNEL)


def open_task_wakeup(database_url: str, poll_seconds: float) -> Wakeup:
    """Return the wakeup of the database for agents that wait for tasks, as `open_wakeup` does for a relay."""
    url = read_url(database_url)
    return ChangeWakeup(url, poll_seconds) if url.drivername == SQLITE else NotifyWakeup(url, TASK_CHANNEL)


def _announce(connection: sa.Connection, said: str) -> None:
    if connection.dialect.name == POSTGRESQL:
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, said)))


class PollWakeup:
    """Returns after every poll interval: SQLite cannot tell one process what another has written."""

    def __init__(self, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        """Return after the poll interval, or after the timeout if that is shorter."""
        await asyncio.sleep(min(self._poll_seconds, timeout_seconds))
        return frozenset()

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""


class ChangeWakeup:
    """Returns when anything was committed to a SQLite file since the last wait.

    Agents may wait for hours, and a query costs a hundred times what SQLite's own counter of changes does.
    """

    def __init__(self, url: sa.URL, poll_seconds: float) -> None:
        # Not to be made here: it may be gone.
        self._file = f"file:{quote(url.database or '')}?mode=rw"
        self._poll_seconds = poll_seconds
        self._connection: sqlite3.Connection | None = None
        self._seen: object = None

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        """Return when something has changed, or nobody knows, at the latest after the timeout."""
        ends_at = time.monotonic() + timeout_seconds
        while (left_seconds := ends_at - time.monotonic()) > 0:
            await asyncio.sleep(min(self._poll_seconds, left_seconds))
            if await asyncio.to_thread(self._has_changed):
                break
        return frozenset()

    async def aclose(self) -> None:
        """Close the file."""
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)
            self._connection = None

    def _has_changed(self) -> bool:
        seen = self._seen
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._file, uri=True, check_same_thread=False)
            self._seen = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            # Whoever looks will hear why.
            self._seen = None
        return self._seen is None or self._seen != seen


class NotifyWakeup:
    """Returns at once when a transaction with new jobs has committed since the last wait.

    One connection of its own, outside the pool, for one listener. It comes back by itself; while the
    database is down, `wait` takes its whole time.
    """

    def __init__(self, url: sa.URL, channel: str) -> None:
        self._channel = channel
        _, self._conninfo = url.get_dialect()().create_connect_args(url)
        self._conninfo.update(postgresql_arguments(url))
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        """Return when jobs were announced, or after the timeout; at once after each new connection.

        What was announced while nobody listened is lost, so the listener has to look then.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            if self._connection is not None:
                return await _next_announcements(self._connection, timeout_seconds)
            self._connection = await self._listen(timeout_seconds)
        except (psycopg.Error, OSError, TimeoutError) as error:
            logger.warning("wakeup_lost", extra={"error": type(error).__name__})
            await self.aclose()
            await asyncio.sleep(max(0.0, deadline - time.monotonic()))
        return frozenset()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _listen(self, timeout_seconds: float) -> psycopg.AsyncConnection[Any]:
        async with asyncio.timeout(timeout_seconds):
            connection = await psycopg.AsyncConnection.connect(**self._conninfo, autocommit=True)
            try:
                await connection.execute(f"LISTEN {self._channel}")
            except BaseException:
                await connection.close()
                raise
        return connection


async def _next_announcements(
    connection: psycopg.AsyncConnection[Any], timeout_seconds: float
) -> frozenset[str]:
    said = {each.payload async for each in connection.notifies(timeout=timeout_seconds, stop_after=1)}
    # Take what else has arrived: a hundred announcements are one reason to look, not a hundred.
    said |= {each.payload async for each in connection.notifies(timeout=0)}
    return frozenset(said)
