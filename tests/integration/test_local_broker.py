"""Tests of `deploy.local.broker` against the broker that it opens."""

import asyncio

import aio_pika
import pytest

from deploy.local.broker import Broker, open_broker
from deploy.local.errors import LocalError
from shared.broker.topology import queues
from shared.kinds.registry import KINDS
from tests.support.management import Management

QUEUE = "kept"


async def test_a_stopped_and_a_killed_broker_come_back_on_their_ports_with_their_messages(
    own_broker: Broker,
) -> None:
    await publish(own_broker.amqp_url, b"before the stop")

    # In this order: RabbitMQ (3.10 and 4.3) loses a quorum queue whose node is killed within seconds of its
    # declaration (Ra's table of names is not on disk yet); an orderly stop writes it.
    await asyncio.to_thread(own_broker.stop)
    was_ready_while_stopped = own_broker.is_ready()
    await asyncio.to_thread(own_broker.start)
    await publish(own_broker.amqp_url, b"before the kill")
    await asyncio.to_thread(own_broker.kill)
    was_ready_while_dead = own_broker.is_ready()
    await asyncio.to_thread(own_broker.start)

    assert not was_ready_while_stopped
    assert not was_ready_while_dead
    assert await take(own_broker.amqp_url, count=2) == [b"before the stop", b"before the kill"]


async def test_a_frozen_broker_answers_again_once_it_is_thawed(own_broker: Broker) -> None:
    await asyncio.to_thread(own_broker.freeze)
    was_ready_while_frozen = await asyncio.to_thread(own_broker.is_ready)
    await asyncio.to_thread(own_broker.thaw)
    await asyncio.to_thread(own_broker.wait_until_ready, deadline_seconds=30.0)

    assert not was_ready_while_frozen


def test_rabbitmqctl_runs_against_our_own_broker(own_broker: Broker) -> None:
    answer = own_broker.control("eval", '{node(), <<"two words">>}.')

    assert answer == f'{{{own_broker.node_name},<<"two words">>}}'


def test_our_own_broker_tries_dead_letters_again_within_seconds(own_broker: Broker) -> None:
    answer = own_broker.control(
        "eval", "application:get_env(rabbit, dead_letter_worker_publisher_confirm_timeout)."
    )

    assert answer == "{ok,5000}"


def test_a_command_that_rabbitmqctl_refuses_says_why(own_broker: Broker) -> None:
    with pytest.raises(LocalError, match=r"(?s)with status .+Usage"):
        own_broker.control("close_all_connections", "--vhost", "/")


def test_a_command_that_takes_too_long_is_given_up(own_broker: Broker) -> None:
    with pytest.raises(LocalError, match=r"1 s\.|status 124"):
        own_broker.control("eval", "timer:sleep(5000).", timeout_seconds=1.0)


async def test_a_test_has_a_virtual_host_of_its_own(
    management: Management, vhost: str, vhost_url: str
) -> None:
    await publish(vhost_url, b"mine")

    ours = {spec.name for spec in queues(KINDS)}
    assert [name for queue in management.queues(vhost) if (name := queue["name"]) not in ours] == [QUEUE]
    assert [message["payload"] for message in management.messages(vhost, QUEUE)] == ["mine"]


def test_a_given_broker_is_taken_as_it_is_and_never_stopped() -> None:
    given = {
        "RETRIEVER_AMQP_URL": "amqp://u:p@broker.example/",
        "RETRIEVER_MANAGEMENT_URL": "http://u:p@broker.example",
    }

    with open_broker(environment=given) as broker:
        assert (broker.kind, broker.amqp_url) == ("given", given["RETRIEVER_AMQP_URL"])
        with pytest.raises(LocalError, match="given"):
            broker.stop()


async def publish(url: str, body: bytes) -> None:
    """Publish one persistent message to a durable quorum queue and wait for the confirm."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, QUEUE, timeout=10)


async def take(url: str, *, count: int) -> list[bytes]:
    """Take messages from the queue, and the queue with them."""
    taken: list[bytes] = []
    async with asyncio.timeout(20), await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(QUEUE)
        async with queue.iterator() as messages:
            async for message in messages:
                await message.ack()
                taken.append(message.body)
                if len(taken) == count:
                    break
        await queue.delete(if_unused=False, if_empty=False)
    return taken
