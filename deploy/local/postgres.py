"""A PostgreSQL for this machine, private and fast, for tests: never run as root, gone afterwards."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psycopg

from deploy.local.container import Container, docker_answers
from deploy.local.errors import ProgramMissing
from deploy.local.packages import can_install, find
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.postgres_server import FAST_SETTINGS, SERVER_PLACES, USER, PostgresServer, install_server
from deploy.local.processes import sigterm_as_exit, wait_until_ready

IMAGE = "postgres:17"
READY_SECONDS = 60.0


class Server(Protocol):
    """What starts, stops and outlives a database: a server of this machine, or a container."""

    def start(self) -> None:
        """Start it, for the first time or again; need not wait until it is ready."""

    def stop(self) -> None:
        """End it in order."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def remove(self) -> None:
        """End it for good and leave no process."""

    def is_alive(self) -> bool:
        """Tell whether it runs."""

    def read_log(self) -> str:
        """Return its log so far."""


class Postgres:
    """A PostgreSQL server; it can be stopped, killed and started on the same port and data."""

    def __init__(self, server: Server, *, kind: str, port: int) -> None:
        """Describe a server; `kind` is "private server" or "docker"."""
        self.kind = kind
        self.url = f"postgresql+psycopg://{USER}@{LOOPBACK}:{port}/postgres"
        self._server = server

    def start(self) -> None:
        """Start it; returns when it answers a query.

        Raises:
            StartFailed: It did not become ready; the message ends with its log.
        """
        self._server.start()
        wait_until_ready(
            self.is_ready,
            name=f"PostgreSQL ({self.kind})",
            deadline_seconds=READY_SECONDS,
            is_alive=self._server.is_alive,
            read_log=self._server.read_log,
        )

    def stop(self) -> None:
        """Stop it in order; it drops its connections, data and port are kept."""
        self._server.stop()

    def kill(self) -> None:
        """Kill it with SIGKILL; committed data are kept (the machine itself did not fail)."""
        self._server.kill()

    def is_ready(self) -> bool:
        """Tell whether it answers a query now."""
        try:
            with psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def open_postgres(
    data_dir: Path | None = None, *, settings: Sequence[str] = FAST_SETTINGS
) -> Iterator[Postgres]:
    """Yield a running PostgreSQL whose `url` names its admin database, and end it afterwards.

    In this order: an installed one, a container, one that we install (as root on Debian).

    Args:
        data_dir: Keeps its data; None for data that are removed afterwards. As root, a folder that the
            server's user cannot enter is left alone, and the data go to a temporary folder.
        settings: More arguments of the server: those of a fast one, unless it is to sync (DURABLE_SETTINGS).

    Raises:
        ProgramMissing: There is no way to a PostgreSQL; the message says what to install.
        StartFailed: It did not become ready; the message ends with its log.
    """
    with sigterm_as_exit(), tempfile.TemporaryDirectory(prefix="retriever-postgres-") as temporary:
        kind = _choose_kind()
        port = free_port()
        server: Server = (
            _container(data_dir, port, settings)
            if kind == "docker"
            else PostgresServer(data_dir, Path(temporary), port=port, settings=settings)
        )
        database = Postgres(server, kind=kind, port=port)
        try:
            database.start()
            yield database
        finally:
            server.remove()


def _choose_kind() -> str:
    """Return "private server" or "docker"; installs PostgreSQL if that is the last way left."""
    if find("initdb", places=SERVER_PLACES):
        return "private server"
    if docker_answers():
        return "docker"
    if can_install():
        install_server()
        return "private server"
    raise ProgramMissing(
        "The tests need a PostgreSQL. Install one (Debian, Ubuntu: sudo apt-get install postgresql; "
        "macOS: brew install postgresql), or start Docker; then try again."
    )


def _container(data_dir: Path | None, port: int, settings: Sequence[str]) -> Container:
    return Container(
        IMAGE,
        ports={5432: port},
        environment={"POSTGRES_USER": USER, "POSTGRES_DB": "postgres", "POSTGRES_HOST_AUTH_METHOD": "trust"},
        data_path="/var/lib/postgresql/data",
        data_dir=data_dir,
        command=" ".join(["postgres", *settings]),
    )
