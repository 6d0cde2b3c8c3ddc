"""Three RabbitMQ nodes that form one cluster on this machine, native or in Docker, for tests to break."""

import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from deploy.local.broker import READY_SECONDS, Broker, choose_kind, our_broker
from deploy.local.container import open_network
from deploy.local.epmd import open_port_mapper
from deploy.local.errors import LocalError
from deploy.local.ports import free_ports
from deploy.local.processes import POLL_SECONDS, sigterm_as_exit, wait_until_ready
from deploy.local.rabbitmq_api import ask_management
from deploy.local.rabbitmq_container import RabbitMQContainer
from deploy.local.rabbitmq_node import RabbitMQNode

NODES = 3
# A node that hangs is noticed within three to five quarters of this (Erlang's default is 60).
NET_TICK_SECONDS = 6
CONFIGURATION = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.target_cluster_size_hint = {count}
{peers}
# 3.10: the smaller side of a partition waits for the larger. 4.3 has no other way, and ignores the line.
cluster_partition_handling = pause_minority
{configuration}
"""
API_SECONDS = 5.0
# How long a node may take to find the others by itself.
REJOIN_SECONDS = 10.0


class Cluster:
    """Three nodes of ours; each can be stopped, killed, frozen and started again with its data."""

    def __init__(self, nodes: Sequence[Broker]) -> None:
        """Take the nodes, in the order of their numbers."""
        self.nodes = tuple(nodes)

    @property
    def amqp_url(self) -> str:
        """Return one address that names the hosts of all nodes."""
        hosts = ",".join(urlsplit(node.amqp_url).netloc.rpartition("@")[2] for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/"

    @property
    def management_url(self) -> str:
        """Return the management API of the first node that is ready.

        Raises:
            LocalError: None is.
        """
        for node in self.nodes:
            if node.is_ready():
                assert node.management_url is not None
                return node.management_url
        raise LocalError("No node of the cluster answers.")

    def launch(self) -> None:
        """Start every node that does not run; returns at once."""
        for node in self.nodes:
            node.thaw()
            if not node.is_alive():
                node.launch()

    def wait_until_whole(self, *, deadline_seconds: float = READY_SECONDS) -> None:
        """Block until each node answers and sees all others running.

        Raises:
            StartFailed: A node ended, or the deadline passed; the message ends with the nodes' logs.
        """
        wait_until_ready(
            self.is_whole,
            name="The RabbitMQ cluster",
            deadline_seconds=deadline_seconds,
            is_alive=lambda: all(node.is_alive() for node in self.nodes),
            read_log=lambda: "\n".join(node.read_log() for node in self.nodes),
        )

    def restore(self) -> None:
        """Bring every node back, whatever was done to it; blocks until the cluster is whole.

        Raises:
            StartFailed: It did not become whole; the message ends with the nodes' logs.
        """
        self.launch()
        for node in self.nodes:
            node.wait_until_ready()
        for node in self.nodes:
            self._rejoin(node)
        self.wait_until_whole()

    def is_whole(self) -> bool:
        """Tell whether each node answers now and sees all others running."""
        return all(node.is_ready() and _running(node) == len(self.nodes) for node in self.nodes)

    def leader_of(self, queue: str, *, vhost: str = "/") -> Broker:
        """Return the node that leads a quorum queue; about a second old.

        Raises:
            LocalError: No node answers, or there is no such queue, or it has no leader.
        """
        path = f"queues/{quote(vhost, safe='')}/{quote(queue, safe='')}"
        try:
            answer = ask_management(self.management_url, path, timeout_seconds=API_SECONDS) or {}
        except OSError as error:
            raise LocalError(f"The leader of {queue} is not known: {error}") from error
        for node in self.nodes:
            if node.node_name == answer.get("leader"):
                return node
        raise LocalError(f"The queue {queue} of virtual host {vhost} has no leader among our nodes.")

    def _rejoin(self, node: Broker) -> None:
        """Restart RabbitMQ within a node that stays alone, as its operator would.

        3.10 with pause_minority: a node that hung for longer than the tick and is thawed finds the others
        when it asks whether it is in the minority, so it does not pause; but they have left it out.
        """
        give_up_at = time.monotonic() + REJOIN_SECONDS
        while _running(node) < len(self.nodes):
            if time.monotonic() > give_up_at:
                node.control("stop_app")
                node.control("start_app")
                return
            time.sleep(POLL_SECONDS)


@contextmanager
def open_cluster(
    *, prefer: str | None = None, configuration: str = "", erlang_arguments: str = ""
) -> Iterator[Cluster]:
    """Yield a running cluster of three; afterwards its nodes, their data and their network are gone.

    Args:
        prefer: "docker" takes containers or fails, whatever else is there.
        configuration: More lines of rabbitmq.conf, for each node.
        erlang_arguments: More arguments of the Erlang machine, for each node.

    Raises:
        ProgramMissing: There is no way to a broker; the message says what to install.
        StartFailed: They did not become one cluster; the message ends with their logs.
    """
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_exit())
        kind = choose_kind(prefer)
        arguments = f"-kernel net_ticktime {NET_TICK_SECONDS} {erlang_arguments}"
        opened = _containers if kind == "docker" else _private_nodes
        cluster = Cluster(opened(stack, configuration, arguments))
        cluster.launch()
        cluster.wait_until_whole()
        yield cluster


def _private_nodes(stack: ExitStack, configuration: str, erlang_arguments: str) -> list[Broker]:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retriever-cluster-")))
    epmd_port, *ports = free_ports(1 + 3 * NODES)
    stack.enter_context(open_port_mapper(home, epmd_port))
    names = [f"retriever-{number}@localhost" for number in range(1, NODES + 1)]
    cookie = secrets.token_hex(20)
    nodes = []
    for index, name in enumerate(names):
        amqp_port, management_port, distribution_port = ports[3 * index : 3 * index + 3]
        node = RabbitMQNode(
            home / name,
            amqp_port=amqp_port,
            management_port=management_port,
            distribution_port=distribution_port,
            epmd_port=epmd_port,
            node_name=name,
            cookie=cookie,
            configuration=_cluster_configuration(names, configuration),
            erlang_arguments=erlang_arguments,
        )
        nodes.append(our_broker("private node", node, amqp_port=amqp_port, management_port=management_port))
        stack.callback(nodes[-1].discard)
    return nodes


def _containers(stack: ExitStack, configuration: str, erlang_arguments: str) -> list[Broker]:
    network = stack.enter_context(open_network())
    hosts = [f"retriever-{number}" for number in range(1, NODES + 1)]
    ports = free_ports(2 * NODES)
    cookie = secrets.token_hex(20)
    nodes = []
    for index, host in enumerate(hosts):
        amqp_port, management_port = ports[2 * index : 2 * index + 2]
        container = RabbitMQContainer(
            None,
            amqp_port=amqp_port,
            management_port=management_port,
            host_name=host,
            network=network,
            cookie=cookie,
            configuration=_cluster_configuration([f"rabbit@{each}" for each in hosts], configuration),
            erlang_arguments=erlang_arguments,
        )
        nodes.append(our_broker("docker", container, amqp_port=amqp_port, management_port=management_port))
        stack.callback(nodes[-1].discard)
    return nodes


def _cluster_configuration(names: Sequence[str], configuration: str) -> str:
    peers = "\n".join(
        f"cluster_formation.classic_config.nodes.{number} = {name}" for number, name in enumerate(names, 1)
    )
    return CONFIGURATION.format(count=len(names), peers=peers, configuration=configuration)


def _running(node: Broker) -> int:
    """Return how many nodes of the cluster a node sees running."""
    assert node.management_url is not None
    try:
        nodes = ask_management(node.management_url, "nodes", timeout_seconds=API_SECONDS) or []
    except OSError:
        return 0
    return sum(1 for each in nodes if each.get("running"))
