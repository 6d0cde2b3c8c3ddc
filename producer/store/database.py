"""One way to the store: a transaction a call, blocking for threads and awaitable for coroutines.

A function of an aggregate takes a connection first: `database.read(queries.get_job, job_id)` in a thread,
`await store.write(outbox.mark_queued, claims, now=now)` in a coroutine. Every call raises `StoreUnavailable`
when the database does not answer: nothing was changed, unless the connection broke at the very commit. It
raises `StoreRefused` when the database will not take a value: nothing was changed, and no retry will help.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from copy import copy
from enum import Enum
from functools import partial
from typing import Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa

from producer.store.engine import SQLITE_BUSY_SECONDS, check_writable, open_engine, writing
from producer.store.failures import BUSY_HERE, POOLER, store_failures
from producer.store.migrate import check_schema
from producer.store.quotas import KNOWN_LIMITS, KnownLimits
from producer.store.sql import SQLITE
from producer.store.sqlite_file import place_of
from producer.turns import FairTurns
from shared.errors import SettingsInvalid, StoreUnavailable
from shared.repeated_warning import RepeatedWarning

# What a query or a change takes first, named for callers outside the store that compose several.
Connection = sa.Connection

P = ParamSpec("P")
R = TypeVar("R")

_LONG_TURN_SECONDS, _STAND_BACK_SECONDS = 0.02, 0.002
_Turn = Callable[[], AbstractContextManager[None]]

# Below the connections that the engine may open.
_THREADS = 8
_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class LongCall(Enum):
    """Calls of seconds or minutes, by what they do; each sort has places of its own."""

    SUBMIT = "submit"
    CHANGE = "change"
    READ = "read"
    PAGE = "page"


class Database:
    """One SQLite file or PostgreSQL database, for any number of threads and processes. Its calls block."""

    def __init__(self, engine: sa.Engine) -> None:
        self.known_limits = KnownLimits()
        engine = engine.execution_options(**{KNOWN_LIMITS: self.known_limits})
        self._reader = engine
        self._writer = writing(engine)
        self._place = place_of(engine)
        self.has_one_writer = engine.dialect.name == SQLITE
        self._turns = _Turns() if self.has_one_writer else None
        self.turn: _Turn = self._turns.turn if self._turns else nullcontext
        """Opened around each transaction that writes."""

    @classmethod
    def open(cls, database_url: str) -> Self:
        """Return the database of a URL; connects only when first used.

        Raises:
            SettingsInvalid: the URL cannot be read or names another kind of database.
        """
        return cls(open_engine(database_url))

    @property
    def in_haste(self) -> Self:
        """The same database. Where threads of this process wait to write, whoever uses this goes first."""
        hasty = copy(self)
        if self._turns:
            hasty.turn = self._turns.hasty_turn
        return hasty

    def read(
        self, query: Callable[Concatenate[sa.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return what a query returns, in one transaction that only reads."""
        with self.reading() as connection:
            return query(connection, *args, **kwargs)

    def write(
        self, change: Callable[Concatenate[sa.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return what a change returns, once it is committed; all of it or nothing."""
        with self.writing() as connection:
            return change(connection, *args, **kwargs)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a transaction that only reads, for several queries of one moment."""
        with store_failures(), self._reader.connect() as connection:
            self._place.check()
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Open a transaction that is committed at the end of the block, or rolled back by an error in it."""
        with store_failures(), self.turn(), self._writer.begin() as connection:
            self._place.check()
            yield connection
        # What was committed to a file that is gone counts as not stored.
        self._place.check()

    def ping(self) -> None:
        """Do nothing if the database answers, takes writes, and this version may use its tables.

        Raises:
            StoreUnavailable: otherwise.
        """
        self._place.search()
        check_schema(self._reader)
        check_writable(self._reader)

    def check_settings(self) -> None:
        """Do nothing if the database can be used as it was named, or if it is away: it may come back.

        Raises:
            SettingsInvalid: a connection pooler drops the settings of our connections.
        """
        try:
            self.ping()
        except StoreUnavailable as error:
            if error.reason == POOLER:
                raise SettingsInvalid(f"RETRIEVER_DATABASE_URL: {error}") from error

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._reader.dispose()


class _Turns:
    """Lets the threads of a process write one after the other.

    SQLite has one writer, and whoever waits for it sleeps and asks again, up to a tenth of a second later. So
    where two threads write all the time, a third waits for seconds: it asks at the wrong moments.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_taken = False
        self._hasty = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the turn in the block, behind all who are in haste."""
        with self._condition:
            self._take(lambda: not self._is_taken and not self._hasty)
        with self._giving_back():
            began = time.monotonic()
            yield
            if time.monotonic() - began > _LONG_TURN_SECONDS:
                # Other processes ask each millisecond, and would never hit the moment between two turns.
                time.sleep(_STAND_BACK_SECONDS)

    @contextmanager
    def hasty_turn(self) -> Iterator[None]:
        """Have the next turn in the block."""
        with self._condition:
            self._hasty += 1
            try:
                self._take(lambda: not self._is_taken)
            finally:
                self._hasty -= 1
                self._condition.notify_all()
        with self._giving_back():
            yield

    def _take(self, is_free: Callable[[], bool]) -> None:
        if not self._condition.wait_for(is_free, timeout=SQLITE_BUSY_SECONDS):
            raise StoreUnavailable(BUSY_HERE)
        self._is_taken = True

    @contextmanager
    def _giving_back(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._condition:
                self._is_taken = False
                self._condition.notify_all()


class Store:
    """The database for coroutines: each call runs in a thread of one pool."""

    def __init__(self, database: Database, *, threads: int = _THREADS) -> None:
        """Make a store whose threads start when they are needed.

        Args:
            database: Stays open when the store is closed.
            threads: How many calls run at a time; the others wait.
        """
        self._database = database
        self.known_limits = database.known_limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        # A second batch would only wait for the one writer, in a thread, until its time is up.
        self._long_calls = {
            LongCall.SUBMIT: FairTurns(1 if database.has_one_writer else 2, share=1),
            LongCall.CHANGE: FairTurns(1),
            LongCall.READ: FairTurns(2, share=1),
            LongCall.PAGE: FairTurns(2),
        }

    def long_call(self, sort: LongCall, caller: str) -> AbstractAsyncContextManager[None]:
        """Wait for a fair turn to make a call of seconds or minutes: it never holds up the short ones."""
        return self._long_calls[sort].turn(caller)

    async def read(
        self, query: Callable[Concatenate[sa.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return what a query returns, in one transaction that only reads."""
        return await self._call(lambda: self._database.read(query, *args, **kwargs))

    async def read_page(
        self,
        caller: str,
        query: Callable[Concatenate[sa.Connection, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Return a page of a list or an export, as it is sent.

        While one is made it is in memory several times, so few are made at once, in fair turns.
        """
        async with self.long_call(LongCall.PAGE, caller):
            return await self.read(query, *args, **kwargs)

    async def write(
        self, change: Callable[Concatenate[sa.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return what a change returns, once it is committed; all of it or nothing."""
        return await self._call(lambda: self._database.write(change, *args, **kwargs))

    async def run(
        self, work: Callable[Concatenate[Database, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return what work of several transactions returns, such as `endings.cancel_batch`."""
        return await self._call(lambda: work(self._database, *args, **kwargs))

    def close(self) -> None:
        """Wait for the calls that run, then end the threads. Blocks."""
        self._pool.shutdown()

    async def _call(self, call: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


class RetryingStore(Store):
    """The database for services that outlive its absence. Only for calls that may run twice.

    No call raises `StoreUnavailable`. An argument that must not be stale when the database is back, such as
    the time, is made in a function that the caller passes and that each try calls.
    """

    async def _call(self, call: Callable[[], R]) -> R:
        return await retry_until_store_up(partial(super()._call, call))


async def retry_until_store_up(call: Callable[[], Awaitable[R]]) -> R:
    """Return what a call to the store returns, calling again for as long as the store is away."""
    pause_seconds, warning = _FIRST_PAUSE_SECONDS, RepeatedWarning(logger)
    while True:
        try:
            return await call()
        except StoreUnavailable as error:
            warning.tell("store_unavailable", {"error": str(error)[:300]})
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _MAX_PAUSE_SECONDS)
