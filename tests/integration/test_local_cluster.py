"""Tests of `deploy.local.cluster`: three nodes are one broker, whichever of them is broken."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator

import aio_pika
import pytest

from deploy.local.broker import Broker
from deploy.local.cluster import NET_TICK_SECONDS, Cluster, open_cluster
from deploy.local.errors import LocalError
from tests.support.management import Management

CHANGE_SECONDS = 60.0
POLL_SECONDS = 0.2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster for this file: starting one takes half a minute."""
    with open_cluster(
        prefer=os.environ.get("TEST_BROKER") or None,
        configuration="heartbeat = 7",
    ) as running:
        yield running


async def test_a_quorum_queue_of_a_cluster_survives_the_kill_of_its_leader(cluster: Cluster) -> None:
    await publish(cluster.nodes[1], "killed", b"before")
    leader = cluster.leader_of("killed")
    others = [node for node in cluster.nodes if node is not leader]

    leader.kill()
    await until(lambda: leader_or_none(cluster, "killed") in others)
    await publish(others[0], "killed", b"after")
    await asyncio.to_thread(leader.start)
    await asyncio.to_thread(cluster.wait_until_whole)

    assert members(cluster, "killed") == {node.node_name for node in cluster.nodes}
    assert await take(leader, "killed", count=2) == [b"before", b"after"]


async def test_a_node_that_hung_comes_back_once_it_is_thawed(cluster: Cluster) -> None:
    await publish(cluster.nodes[1], "frozen", b"before")
    leader = cluster.leader_of("frozen")
    others = [node for node in cluster.nodes if node is not leader]

    leader.freeze()
    await until(lambda: leader_or_none(cluster, "frozen") in others)
    await publish(others[0], "frozen", b"after")
    was_whole = await asyncio.to_thread(cluster.is_whole)
    await asyncio.to_thread(cluster.restore)

    assert not was_whole
    assert await take(leader, "frozen", count=2) == [b"before", b"after"]


def test_every_node_takes_the_settings_of_a_test_and_notices_a_hanging_one_soon(cluster: Cluster) -> None:
    settings = "{net_kernel:get_net_ticktime(), application:get_env(rabbit, heartbeat)}."

    answers = {node.control("eval", settings) for node in cluster.nodes}

    assert answers == {f"{{{NET_TICK_SECONDS},{{ok,7}}}}"}


def test_the_address_of_a_cluster_names_every_node(cluster: Cluster) -> None:
    ports = [node.amqp_url.rstrip("/").rpartition(":")[2] for node in cluster.nodes]

    assert cluster.amqp_url == "amqp://guest:guest@" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/"


async def publish(node: Broker, queue: str, body: bytes) -> None:
    """Declare a quorum queue through a node, publish one persistent message to it, wait for the confirm."""
    async with asyncio.timeout(30), await aio_pika.connect(node.amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue)


async def take(node: Broker, queue: str, *, count: int) -> list[bytes]:
    """Take messages from a queue through a node, oldest first."""
    taken: list[bytes] = []
    async with asyncio.timeout(30), await aio_pika.connect(node.amqp_url) as connection:
        channel = await connection.channel()
        declared = await channel.get_queue(queue)
        while len(taken) < count:
            message = await declared.get(fail=False)
            if message is not None:
                await message.ack()
                taken.append(message.body)
    return taken


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something that only polling tells has happened."""
    give_up_at = time.monotonic() + CHANGE_SECONDS
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < give_up_at
        await asyncio.sleep(POLL_SECONDS)


def leader_or_none(cluster: Cluster, queue: str) -> Broker | None:
    """Return a queue's leader, None while it has none."""
    try:
        return cluster.leader_of(queue)
    except LocalError:
        return None


def members(cluster: Cluster, queue: str) -> set[str]:
    """Return the names of the nodes that hold a queue."""
    management = Management(cluster.management_url)
    try:
        return set(management.queue("/", queue)["members"])
    finally:
        management.close()
