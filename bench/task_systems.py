"""Who hands out tasks: Retriever over HTTP, and Procrastinate in a database of its own beside it."""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa

from bench.contenders import PEERS_PYTHON
from bench.cost import family
from bench.system import System
from bench.task_agents import submit_tasks
from bench.works import Role
from deploy.local.errors import ControlFailed
from deploy.local.processes import run_control
from producer.store.database import Database
from producer.store.schema import events, jobs
from shared.states import JobState

ROOT = Path(__file__).resolve().parents[1]
FILL_SECONDS = 300.0
SETTLE_SECONDS = 120.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Filled:
    """Tasks that wait, what works on them, and how many of them have ended, by the store itself."""

    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str]
    count_ended: "Counting"


class Counting(Protocol):
    """Asks a store how many tasks have ended. Blocks."""

    def __call__(self) -> int:
        """Return how many."""


class TaskSystem(Protocol):
    """A system that can be given tasks, and agents that end them."""

    @property
    def name(self) -> str:
        """What it is called in tables and on the command line."""

    @property
    def role(self) -> Role:
        """What it is there for."""

    async def fill(self, system: System, *, tasks: int, agents: int, processes: int) -> Filled:
        """Store so many tasks, and return what is to be started to work on them."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Agents that pick and finish over HTTP; `at_once` is how many tasks a pick brings at most."""

    name: str
    at_once: int
    role: Role = Role.OURS

    async def fill(self, system: System, *, tasks: int, agents: int, processes: int) -> Filled:
        """Submit so many tasks to a queue of this run, and wait until the ledger has told of all before."""
        queue, port = uuid.uuid4().hex, port_of(system)
        await submit_tasks(port, queue, tasks)
        await asyncio.to_thread(_tidy, system.database_url)
        store = Database.open(system.database_url)
        await asyncio.to_thread(_wait_told, store)
        return Filled(
            [agents_command(port, queue, each, at_once=self.at_once) for each in shares(agents, processes)],
            os.environ,
            lambda: store.read(_count_succeeded, queue),
        )


@dataclass(frozen=True, slots=True)
class Procrastinate:
    """`way` is `worker`, its own worker with a no-op task, or `connector`, its functions and nothing else."""

    name: str
    way: str
    role: Role = Role.PEER

    async def fill(self, system: System, *, tasks: int, agents: int, processes: int) -> Filled:
        """Enqueue so many no-op jobs in a fresh database."""
        url = await asyncio.to_thread(_make_database, system.database_url)
        environment = {**os.environ, "BENCH_DATABASE_URL": url}
        program = [str(PEERS_PYTHON), "-m", "bench.peers.procrastinate_queue"]
        await asyncio.to_thread(
            run_control,
            [*program, "fill", str(tasks)],
            environment=environment,
            folder=ROOT,
            timeout_seconds=FILL_SECONDS,
        )
        await asyncio.to_thread(_tidy, url)
        return Filled(
            [[*program, "work", self.way, str(each)] for each in shares(agents, processes)],
            environment,
            lambda: _count_rows(url),
        )


OURS = (Ours("Retriever", at_once=1), Ours("Retriever, 10 tasks a pick", at_once=10))
PEERS = (
    Procrastinate("Procrastinate, its functions", "connector"),
    Procrastinate("Procrastinate, its worker", "worker"),
)


def agents_command(
    port: int, queue: str, agents: int, *, at_once: int = 1, wait_seconds: int = 5
) -> list[str]:
    """Return the command line of so many agents of one process."""
    options = {"port": port, "queue": queue, "agents": agents, "at-once": at_once}
    options |= {"wait-seconds": wait_seconds}
    told = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "bench.task_agents", *told]


def shares(agents: int, processes: int) -> list[int]:
    """Return how many agents each process has, none without any: as even as can be."""
    return [len(range(first, agents, processes)) for first in range(min(agents, processes))]


def port_of(system: System) -> int:
    """Return where the API listens.

    Raises:
        ValueError: its URL names no port.
    """
    port = urlsplit(system.api_url).port
    if port is None:
        raise ValueError(f"{system.api_url} names no port")
    return port


def postgres_pids(database_url: str) -> Sequence[int]:
    """Return the processes of a server of this machine; of SQLite, or of a server elsewhere, none. Blocks."""
    if not database_url.startswith("postgresql"):
        return []
    with psycopg.connect(_plain(database_url)) as connection:
        backend = Path(f"/proc/{connection.info.backend_pid}")
        if not backend.exists() or (backend / "comm").read_text().strip() != "postgres":
            return []
        status = dict(line.split(":", 1) for line in (backend / "status").read_text().splitlines())
        return family(int(status["PPid"]))


def _wait_told(store: Database) -> None:
    """Return when the ledger has told of every end, so that it does nothing for the last run in this one.

    Raises:
        ControlFailed: it has not in two minutes.
    """
    give_up_at = time.monotonic() + SETTLE_SECONDS
    while store.read(_has_events):
        if time.monotonic() > give_up_at:
            raise ControlFailed("the ledger does not tell of the tasks that have ended")
        time.sleep(LOOK_SECONDS)


def _has_events(connection: sa.Connection) -> bool:
    return bool(connection.scalar(sa.select(sa.exists().select_from(events))))


def _count_succeeded(connection: sa.Connection, queue: str) -> int:
    query = sa.select(sa.func.count()).where(jobs.c.queue == queue, jobs.c.state == JobState.SUCCEEDED)
    return connection.scalar(query) or 0


def _count_rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _make_database(server_url: str) -> str:
    """Make an empty database on the server of another, and return its URL as psycopg takes it."""
    name = f"bench_{uuid.uuid4().hex}"
    with psycopg.connect(_plain(server_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{_plain(server_url).rpartition('/')[0]}/{name}"


def _tidy(database_url: str) -> None:
    """Do what autovacuum does in a minute or so: the planner must know what was filled. Not on SQLite."""
    if database_url.startswith("postgresql"):
        with psycopg.connect(_plain(database_url), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")


def _plain(database_url: str) -> str:
    return database_url.replace("+psycopg", "", 1)
