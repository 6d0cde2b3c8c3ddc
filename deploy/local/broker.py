"""A RabbitMQ for this machine: the one given, an installed one run privately, or one in Docker."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from deploy.local.container import docker_answers
from deploy.local.epmd import open_port_mapper
from deploy.local.errors import LocalError, ProgramMissing
from deploy.local.packages import can_install, find
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.processes import sigterm_as_exit, wait_until_ready
from deploy.local.rabbitmq_api import amqp_answers, management_answers
from deploy.local.rabbitmq_container import RabbitMQContainer
from deploy.local.rabbitmq_node import SERVER_PLACES, SERVER_PROGRAM, RabbitMQNode, install_server

READY_SECONDS = 90.0
CONTROL_SECONDS = 45.0


class Server(Protocol):
    """What starts, stops and outlives a broker: a node of this machine, or a container."""

    node_name: str

    def start(self) -> None:
        """Start it, for the first time or again; need not wait until it is ready."""

    def stop(self) -> None:
        """End it in order."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def freeze(self) -> None:
        """Let none of its processes run, while its connections stay open."""

    def thaw(self) -> None:
        """Let them run again."""

    def control(self, *arguments: str, timeout_seconds: float) -> str:
        """Run `rabbitmqctl` and return what it printed."""

    def remove(self) -> None:
        """End it for good and leave no process."""

    def is_alive(self) -> bool:
        """Tell whether it runs."""

    def read_log(self) -> str:
        """Return its log so far."""


class Broker:
    """A RabbitMQ to talk to; one of ours can be stopped, frozen and started on the same ports and data."""

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

    @property
    def node_name(self) -> str:
        """Return what Erlang calls it: `retriever@localhost`.

        Raises:
            LocalError: It was given.
        """
        return self._owned().node_name

    def start(self) -> None:
        """Start it on the same ports and data; returns when AMQP and the management API answer.

        Raises:
            StartFailed: It did not become ready; the message ends with its log.
        """
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it and return at once: a node of a cluster may need the others to become ready."""
        self._owned().start()

    def wait_until_ready(self, *, deadline_seconds: float = READY_SECONDS) -> None:
        """Block until AMQP and the management API answer.

        Raises:
            StartFailed: They did not in time; the message ends with its log.
        """
        server = self._owned()
        wait_until_ready(
            self.is_ready,
            name=f"RabbitMQ ({self.kind})",
            deadline_seconds=deadline_seconds,
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

    def freeze(self) -> None:
        """Let none of its processes run, while its connections stay open: a machine that hangs."""
        self._owned().freeze()

    def thaw(self) -> None:
        """Let a frozen one run again; returns at once."""
        self._owned().thaw()

    def control(self, *arguments: str, timeout_seconds: float = CONTROL_SECONDS) -> str:
        """Run `rabbitmqctl --silent` with these arguments and return what it printed; blocks some seconds.

        Raises:
            LocalError: It failed, or took too long; the message ends with what it said.
        """
        return self._owned().control(*arguments, timeout_seconds=timeout_seconds)

    def remove(self) -> None:
        """End it for good; data without a folder of their own go too."""
        self._owned().remove()

    def discard(self) -> None:
        """Kill it for good: in order takes six seconds, in a cluster until the others have voted."""
        try:
            self.kill()
        finally:
            self.remove()

    def is_alive(self) -> bool:
        """Tell whether it runs, ready or not, frozen or not."""
        return self._owned().is_alive()

    def read_log(self) -> str:
        """Return its log so far."""
        return self._owned().read_log()

    def is_ready(self) -> bool:
        """Tell whether the AMQP port and the management API (if known) both answer now."""
        return amqp_answers(self.amqp_url) and (
            self.management_url is None or management_answers(self.management_url)
        )

    def _owned(self) -> Server:
        if self._server is None:
            raise LocalError("This broker was given by RETRIEVER_AMQP_URL: only who started it may stop it.")
        return self._server


@contextmanager
def open_broker(
    data_dir: Path | None = None,
    *,
    prefer: str | None = None,
    environment: Mapping[str, str] = os.environ,
    configuration: str = "",
    erlang_arguments: str = "",
) -> Iterator[Broker]:
    """Yield a running broker, and end it afterwards if it is ours.

    In this order: the one that RETRIEVER_AMQP_URL names, a private node of an installed RabbitMQ, a
    container, a private node of a RabbitMQ that we install (as root on Debian).

    Args:
        data_dir: Keeps its data from run to run; None for data that are removed afterwards.
        prefer: "docker" takes the container or fails, whatever else is there.
        environment: Where RETRIEVER_AMQP_URL and RETRIEVER_MANAGEMENT_URL are looked up.
        configuration: More lines of rabbitmq.conf, for one of ours.
        erlang_arguments: More arguments of its Erlang machine.

    Raises:
        ProgramMissing: There is no way to a broker; the message says what to install.
        StartFailed: The broker did not become ready; the message ends with its log.
    """
    given_url = environment.get("RETRIEVER_AMQP_URL")
    if given_url and prefer != "docker":
        management_url = environment.get("RETRIEVER_MANAGEMENT_URL") or None
        yield Broker(kind="given", amqp_url=given_url, management_url=management_url)
        return
    with (
        sigterm_as_exit(),
        tempfile.TemporaryDirectory(prefix="retriever-broker-") as temporary,
        ExitStack() as stack,
    ):
        kind = choose_kind(prefer)
        amqp_port, management_port, distribution_port, epmd_port = free_ports(4)
        if kind == "docker":
            server: Server = RabbitMQContainer(
                data_dir,
                amqp_port=amqp_port,
                management_port=management_port,
                configuration=configuration,
                erlang_arguments=erlang_arguments,
            )
        else:
            home = data_dir or Path(temporary)
            stack.enter_context(open_port_mapper(home, epmd_port))
            server = RabbitMQNode(
                home,
                amqp_port=amqp_port,
                management_port=management_port,
                distribution_port=distribution_port,
                epmd_port=epmd_port,
                configuration=configuration,
                erlang_arguments=erlang_arguments,
            )
        broker = our_broker(kind, server, amqp_port=amqp_port, management_port=management_port)
        stack.callback(broker.remove if data_dir else broker.discard)
        broker.start()
        yield broker


def our_broker(kind: str, server: Server, *, amqp_port: int, management_port: int) -> Broker:
    """Return the broker that a server of ours will be."""
    return Broker(
        kind=kind,
        amqp_url=f"amqp://guest:guest@{LOOPBACK}:{amqp_port}/",
        management_url=f"http://guest:guest@{LOOPBACK}:{management_port}",
        server=server,
    )


def choose_kind(prefer: str | None) -> str:
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
