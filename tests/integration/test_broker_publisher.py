"""Publishing to a real broker: what is confirmed, what is refused, and what comes back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

from deploy.local.broker import Broker
from shared.broker import connection
from shared.broker import publisher as publisher_module
from shared.broker.fast.patches import patch_libraries
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher, open_confirming
from shared.broker.topology import JOBS, stored_key, work_queue
from shared.errors import BrokerUnavailable, MessageRefused, MessageTooLarge, MessageUnroutable
from shared.kinds.registry import Lane
from shared.settings import Settings
from tests.support.amqp import get_message, message_count, open_channel, running, running_publisher
from tests.support.broker_node import taking_at_most
from tests.support.management import Management
from tests.support.waiting import eventually

ROUTABLE = Outgoing(JOBS, stored_key("check", Lane.BULK), b"{}", "job", "job-1")
UNROUTABLE = Outgoing(JOBS, "nosuch.bulk", b"{}", "job", "job-1")


async def test_a_confirmed_message_is_persistent_and_carries_its_job_id(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        await publisher.publish(ROUTABLE)

        message = await get_message(channel, work_queue("check", Lane.BULK))
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        assert (message.correlation_id, message.type, message.body) == ("job-1", "job", b"{}")


@pytest.fixture(params=["fast", "plain"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every test on the fast way, and on the plain one."""
    is_plain = request.param == "plain"
    patch_libraries(plain=is_plain)

    def open_channel(of: AbstractConnection, *, timeout_seconds: float, plain: bool) -> Any:
        return open_confirming(of, timeout_seconds=timeout_seconds, plain=is_plain)

    monkeypatch.setattr(publisher_module, "open_confirming", open_channel)
    yield
    patch_libraries(plain=Settings().amqp_plain)


@pytest.mark.parametrize("opening", [connection.open_channel, connection.open_publishing_channel])
async def test_a_connection_that_has_just_closed_is_a_lost_one_and_no_bug(
    vhost_url: str, opening: Callable[[AbstractConnection], Awaitable[AbstractChannel]]
) -> None:
    closed = await aio_pika.connect(vhost_url)
    await closed.close()

    with pytest.raises(connection.CONNECTION_ERRORS):
        await opening(closed)


async def test_every_unroutable_message_is_reported_even_of_the_same_job(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher:
        # aiormq confirms one of two returned messages with equal message ids.
        results = await asyncio.gather(
            *(publisher.publish(UNROUTABLE) for _ in range(20)), return_exceptions=True
        )

    assert [type(result) for result in results] == [MessageUnroutable] * 20


async def test_each_publication_has_its_own_message_id(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        await publisher.publish(ROUTABLE)
        await publisher.publish(ROUTABLE)

        ids = {(await get_message(channel, work_queue("check", Lane.BULK))).message_id for _ in range(2)}
        assert len(ids) == 2 and None not in ids


async def test_a_full_queue_refuses_and_the_publisher_goes_on(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        arguments: dict[str, str | int] = {
            "x-queue-type": "quorum",
            "x-max-length": 1,
            "x-overflow": "reject-publish",
        }
        queue = await channel.declare_queue("full", durable=True, arguments=dict(arguments))
        await queue.bind(JOBS, "full.#")
        full = Outgoing(JOBS, "full.bulk", b"{}", "job")

        async def is_refused() -> bool:
            try:
                await publisher.publish(full)
            except MessageRefused:
                return True
            return False

        await eventually(is_refused)

        await publisher.publish(ROUTABLE)
        assert await message_count(channel, work_queue("check", Lane.BULK)) == 1


async def test_a_queue_that_has_room_again_takes_messages_again(
    own_broker: Broker, vhost: str, vhost_url: str
) -> None:
    policy = ("-p", vhost, "full", r"^jobs\.check\.bulk$", '{"max-length": 1}', "--apply-to", "queues")

    async def is_taken() -> bool:
        try:
            await publisher.publish(ROUTABLE)
        except MessageRefused:
            return False
        return True

    async def is_refused() -> bool:
        return not await is_taken()

    async with running_publisher(vhost_url) as publisher:
        await asyncio.to_thread(own_broker.control, "set_policy", *policy)
        await eventually(is_refused)

        await asyncio.to_thread(own_broker.control, "clear_policy", "-p", vhost, "full")

        # On 3.10 the channel that was refused is refused for ever: only a new one is not.
        await eventually(is_taken)


async def test_publishing_to_nobody_ends_in_time(unused_port: int) -> None:
    publisher = Publisher(f"amqp://guest:guest@127.0.0.1:{unused_port}/", name="test", timeout_seconds=0.3)

    async with running(publisher.run()):
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(ROUTABLE)


async def test_a_channel_closed_by_the_broker_is_opened_again(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher:
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(Outgoing("no such exchange", "key", b"{}", "job"))

        await publisher.publish(ROUTABLE)


async def test_a_closed_connection_is_opened_again(
    vhost_url: str, management: Management, vhost: str
) -> None:
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        await eventually(lambda: management.close_connections(vhost, name="test publisher"))

        async def is_published() -> bool:
            try:
                await publisher.publish(ROUTABLE)
            except BrokerUnavailable:
                return False
            return True

        await eventually(is_published)
        assert await message_count(channel, work_queue("check", Lane.BULK)) >= 1


async def test_a_reset_declares_a_deleted_queue_again(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        await channel.queue_delete(work_queue("check", Lane.BULK))
        with pytest.raises(MessageUnroutable):
            await publisher.publish(ROUTABLE)

        publisher.reset()

        async def is_routed() -> bool:
            try:
                await publisher.publish(ROUTABLE)
            except MessageUnroutable:
                return False
            return True

        await eventually(is_routed)


async def test_a_message_that_the_broker_does_not_take_fails_alone(vhost_url: str, broker: Broker) -> None:
    large = ROUTABLE._replace(body=b"x" * 200_000)
    with taking_at_most(broker, 100_000):
        async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:

            async def until_confirmed(message: Outgoing) -> None:
                # Those beside it may be sent again once: the broker has closed their channel.
                for _ in range(2):
                    try:
                        await publisher.publish(message)
                    except BrokerUnavailable:
                        continue
                    return
                raise AssertionError("not confirmed")

            others = [asyncio.create_task(until_confirmed(ROUTABLE)) for _ in range(20)]
            with pytest.raises(MessageTooLarge, match="200000 bytes, and the broker takes 100000"):
                await publisher.publish(large)
            await asyncio.gather(*others)
            # From now on it is not even sent, and closes no channel.
            await until_confirmed(ROUTABLE)
            sender = publisher._sender
            with pytest.raises(MessageTooLarge):
                await publisher.publish(large)
            await publisher.publish(ROUTABLE)

            assert publisher._sender is sender
            assert await message_count(channel, work_queue("check", Lane.BULK)) >= 21
