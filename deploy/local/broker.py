"""A RabbitMQ for this machine: the one given, an installed one run privately, or one in Docker."""

import http.client
import os
import socket
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from deploy.local.container import Container, docker_answers
from deploy.local.errors import LocalError, ProgramMissing
from deploy.local.packages import can_install, find
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.processes import sigterm_as_exit, wait_until_ready
from deploy.local.rabbitmq_node import (
    SERVER_PLACES,
    SERVER_PROGRAM,
    TICK_ARGUMENTS,
    RabbitMQNode,
    install_server,
)

IMAGE = "rabbitmq:4.3-management"
READY_SECONDS = 90.0


class Server(Protocol):
    """What starts, stops and outlives a broker: a node of this machine, or a container."""

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


class Broker:
    """A RabbitMQ to talk to; one of ours can be stopped, killed and started on the same ports and data."""

    def __init__(
        self, *, kind: str, amqp_url: str, management_url: str | None, server: Server | None = None
    ) -> None:
        """Describe a broker.

        Args:
            kind: "given", "private node" or "docker".
            amqp_url: With its virtual host, `/` for those that we start.
            management_url: With user and password; None if it was not given.
            server: What we started; None for a given broker.
        """
        self.kind = kind
        self.amqp_url = amqp_url
        self.management_url = management_url
        self._server = server

    @property
    def is_ours(self) -> bool:
        """Tell whether we started it, and so may stop it."""
        return self._server is not None

    def start(self) -> None:
        """Start it on the same ports and data; returns when AMQP and the management API answer.

        Raises:
            StartFailed: It did not become ready; the message ends with its log.
        """
        server = self._owned()
        server.start()
        wait_until_ready(
            self.is_ready,
            name=f"RabbitMQ ({self.kind})",
            deadline_seconds=READY_SECONDS,
            is_alive=server.is_alive,
            read_log=server.read_log,
        )

    def stop(self) -> None:
        """Stop it in order; messages and ports are kept."""
        self._owned().stop()

    def kill(self) -> None:
        """Kill it with SIGKILL; what it had confirmed is kept, and its ports.

        RabbitMQ (3.10 and 4.3) forgets a quorum queue that was declared a second or two before: its name is
        on disk later than its messages. Stop and start once after declaring, then kill.
        """
        self._owned().kill()

    def is_ready(self) -> bool:
        """Tell whether the AMQP port and the management API (if known) both answer now."""
        return _amqp_answers(self.amqp_url) and (
            self.management_url is None or _management_answers(self.management_url)
        )

    def _owned(self) -> Server:
        if self._server is None:
            raise LocalError("This broker was given by RETRIEVER_AMQP_URL: only who started it may stop it.")
        return self._server


@contextmanager
def open_broker(
    data_dir: Path | None = None, *, prefer: str | None = None, environment: Mapping[str, str] = os.environ
) -> Iterator[Broker]:
    """Yield a running broker, and end it afterwards if it is ours.

    In this order: the one that RETRIEVER_AMQP_URL names, a private node of an installed RabbitMQ, a
    container, a private node of a RabbitMQ that we install (as root on Debian).

    Args:
        data_dir: Keeps its data from run to run; None for data that are removed afterwards.
        prefer: "docker" takes the container or fails, whatever else is there.
        environment: Where RETRIEVER_AMQP_URL and RETRIEVER_MANAGEMENT_URL are looked up.

    Raises:
        ProgramMissing: There is no way to a broker; the message says what to install.
        StartFailed: The broker did not become ready; the message ends with its log.
    """
    given_url = environment.get("RETRIEVER_AMQP_URL")
    if given_url and prefer != "docker":
        management_url = environment.get("RETRIEVER_MANAGEMENT_URL") or None
        yield Broker(kind="given", amqp_url=given_url, management_url=management_url)
        return
    with sigterm_as_exit(), tempfile.TemporaryDirectory(prefix="retriever-broker-") as temporary:
        kind = _choose_kind(prefer)
        amqp_port, management_port, *node_ports = free_ports(4)
        if kind == "docker":
            server: Server = _container(data_dir, amqp_port, management_port)
        else:
            server = RabbitMQNode(
                data_dir or Path(temporary),
                amqp_port=amqp_port,
                management_port=management_port,
                distribution_port=node_ports[0],
                epmd_port=node_ports[1],
            )
        broker = Broker(
            kind=kind,
            amqp_url=f"amqp://guest:guest@{LOOPBACK}:{amqp_port}/",
            management_url=f"http://guest:guest@{LOOPBACK}:{management_port}",
            server=server,
        )
        try:
            broker.start()
            yield broker
        finally:
            server.remove()


def _choose_kind(prefer: str | None) -> str:
    """Return "private node" or "docker"; installs RabbitMQ if that is the last way left."""
    if prefer == "docker":
        if not docker_answers():
            raise ProgramMissing(
                "A broker in Docker was asked for, but no engine answers `docker info`; start one."
            )
        return "docker"
    if find(SERVER_PROGRAM, places=SERVER_PLACES):
        return "private node"
    if docker_answers():
        return "docker"
    if can_install():
        install_server()
        return "private node"
    raise ProgramMissing(
        "Retriever needs a RabbitMQ. Install one (Debian, Ubuntu: sudo apt-get install rabbitmq-server; "
        "macOS: brew install rabbitmq), or start Docker, or name a running one in "
        "RETRIEVER_AMQP_URL; then try again."
    )


def _container(data_dir: Path | None, amqp_port: int, management_port: int) -> Container:
    return Container(
        IMAGE,
        ports={5672: amqp_port, 15672: management_port},
        environment={"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": TICK_ARGUMENTS},
        data_path="/var/lib/rabbitmq",
        data_dir=data_dir,
    )


def _amqp_answers(amqp_url: str) -> bool:
    """Tell whether something speaks AMQP there: Docker's proxy accepts connections before the broker does."""
    parts = urlsplit(amqp_url)
    try:
        with socket.create_connection(
            (parts.hostname or LOOPBACK, parts.port or 5672), timeout=2
        ) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            # A method frame (type 1): connection.start.
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def _management_answers(management_url: str) -> bool:
    parts = urlsplit(management_url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port or 15672, timeout=2)
    password = b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    try:
        connection.request("GET", "/api/overview", headers={"Authorization": f"Basic {password}"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
