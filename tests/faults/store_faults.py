"""Stores that restart, are locked, and are full; and clocks that are set back."""

import asyncio
import random
import resource
import sqlite3
from pathlib import Path

from deploy.local.packages import require_file
from tests.faults.fault import Fault
from tests.faults.services import Service
from tests.faults.world import World, blocking

_STEP_BACK_SECONDS = 3_600
_LOCKED_SECONDS = 12.0
_FULL_SECONDS = 6.0
_FAKETIME_PLACES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


async def restart_postgres(world: World, _rng: random.Random) -> None:
    """Stop PostgreSQL in order, wait, and start it again."""
    if world.database is not None:
        world.timeline.note("PostgreSQL stops")
        await blocking(world.database.stop)
        await asyncio.sleep(2.0)
        await blocking(world.database.start)
        world.timeline.note("PostgreSQL is back")
    await world.wait_ready()


async def kill_postgres(world: World, _rng: random.Random) -> None:
    """SIGKILL PostgreSQL, and start it again."""
    if world.database is not None:
        world.timeline.note("PostgreSQL SIGKILL")
        await blocking(world.database.kill)
        await blocking(world.database.start)
        world.timeline.note("PostgreSQL is back")
    await world.wait_ready()


async def lock_sqlite(world: World, _rng: random.Random) -> None:
    """Hold SQLite's write lock for a while, as a backup or a person at a prompt may."""
    world.timeline.note(f"SQLite locked, {_LOCKED_SECONDS:g} s")
    connection = sqlite3.connect(_sqlite_file(world), isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 20000")
        connection.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(_LOCKED_SECONDS)
        connection.execute("ROLLBACK")
    finally:
        connection.close()
    await world.wait_ready()


async def fill_disk_under_sqlite(world: World, _rng: random.Random) -> None:
    """Let no process of the store's write to its files, as on a full disk, for a while."""
    world.timeline.note(f"no room for SQLite, {_FULL_SECONDS:g} s")
    writers = [*world.apis, *world.ledgers]
    try:
        for writer in writers:
            _limit_files(writer, 4_096)
        await asyncio.sleep(_FULL_SECONDS)
    finally:
        for writer in writers:
            _limit_files(writer, resource.RLIM_INFINITY)
    await world.wait_ready()


async def step_clock_back(world: World, _rng: random.Random) -> None:
    """Set the clock of all processes back by an hour while they work, and kill those that hold leases."""
    offset = world.folder / "clock"
    offset.write_text("+0")
    await _restart_all(world, _faked_clock(offset))
    await asyncio.sleep(1.5)
    world.timeline.note(f"clocks go back by {_STEP_BACK_SECONDS} s")
    offset.write_text(f"-{_STEP_BACK_SECONDS}")
    for ledger in world.ledgers:
        ledger.kill()
    await asyncio.sleep(2.0)
    await world.wait_ready()


async def clock_is_right(world: World, _rng: random.Random) -> None:
    """Start all processes with the machine's own clock again."""
    await _restart_all(world, {})


async def _restart_all(world: World, extra: dict[str, str]) -> None:
    for service in world.services:
        service.extra = extra
    await asyncio.gather(*(service.terminate() for service in world.services))
    await world.wait_ready()


def _faked_clock(offset: Path) -> dict[str, str]:
    library = require_file(_FAKETIME_PLACES, "libfaketime")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        # A clock that is set is the wall's; nobody sets the one that measures.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def _limit_files(service: Service, size_bytes: int) -> None:
    if (pid := service.pid) is not None:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


def _sqlite_file(world: World) -> str:
    return world.database_url.removeprefix("sqlite:///")


def postgres_faults() -> list[Fault]:
    """Return the faults of PostgreSQL, and of clocks."""
    waits = "The API answers 503 with Retry-After; relay and recorder wait for the store."
    return [
        Fault(
            "store restarted (PostgreSQL)",
            "store",
            waits,
            restart_postgres,
            True,
            traces=("store_unavailable",),
        ),
        Fault(
            "store killed (PostgreSQL, SIGKILL)",
            "store",
            waits,
            kill_postgres,
            True,
            traces=("store_unavailable",),
        ),
        Fault(
            "clock stepped back by an hour",
            "clock",
            "Leases of before are not waited for; durations are measured on a clock that nobody sets.",
            step_clock_back,
            True,
            undo=clock_is_right,
            is_mixed=False,
        ),
    ]


def sqlite_faults() -> list[Fault]:
    """Return the faults of SQLite."""
    return [
        Fault(
            "store locked (SQLite)",
            "store",
            "Writers wait their turn; the API answers late, or 503.",
            lock_sqlite,
            True,
        ),
        Fault(
            "store full (SQLite)",
            "store",
            "The API answers 503; what was not stored was not acknowledged; it goes on when there is room.",
            fill_disk_under_sqlite,
            True,
            traces=("store_unavailable",),
        ),
    ]
