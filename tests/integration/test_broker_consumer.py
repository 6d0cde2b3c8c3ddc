"""Consuming from a real broker: every kind of loss is survived, and unsettled messages come again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from deploy.local.broker import Broker
from shared.broker import subscriber as subscriber_module
from shared.broker.connection import CONNECTION_ERRORS
from shared.broker.connection import open_channel as new_channel
from shared.broker.delivery import Delivery
from shared.broker.fast.patches import patch_libraries
from shared.broker.outgoing import Outgoing
from shared.broker.subscriber import Subscriber, Subscription, open_consuming
from shared.broker.topology import JOBS, declare_topology, work_queue
from shared.errors import DeliveryLost
from shared.kinds.registry import KINDS, Lane
from shared.settings import Settings
from tests.support.amqp import message_count, open_channel, running, running_publisher
from tests.support.broker_node import end_consuming_channels
from tests.support.management import Management
from tests.support.waiting import eventually

QUEUE = work_queue("check", Lane.BULK)


@pytest.fixture(params=["fast", "plain"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every test on the fast way, and on the plain one."""
    is_plain = request.param == "plain"
    patch_libraries(plain=is_plain)

    def open_channel(connection: AbstractConnection, *arguments: Any, **options: Any) -> Any:
        return open_consuming(connection, *arguments, **{**options, "plain": is_plain})

    monkeypatch.setattr(subscriber_module, "open_consuming", open_channel)
    yield
    patch_libraries(plain=Settings().amqp_plain)


@asynccontextmanager
async def consuming(
    url: str, *, prefetch: int = 10
) -> AsyncIterator[tuple[Subscriber, asyncio.Queue[Delivery]]]:
    """Consume the check queue while inside."""
    deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
    subscription = Subscription(QUEUE, prefetch, deliveries.put_nowait)
    consumer = Subscriber(url, name="test consumer", subscriptions=[subscription], renew_seconds=1.0)
    async with running(consumer.run()):
        yield consumer, deliveries


async def take(deliveries: asyncio.Queue[Delivery]) -> Delivery:
    """Return the next delivery, with a deadline."""
    async with asyncio.timeout(20):
        return await deliveries.get()


def job(number: int) -> Outgoing:
    return Outgoing(JOBS, "check.bulk", str(number).encode(), "job", f"job-{number}")


async def test_the_prefetch_limit_holds_back_what_is_not_settled(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, consuming(vhost_url, prefetch=2) as (_, deliveries):
        for number in range(3):
            await publisher.publish(job(number))
        first, second = await take(deliveries), await take(deliveries)
        assert deliveries.empty()

        first.ack()

        assert (await take(deliveries)).body == b"2"
        assert second.body == b"1"


async def test_a_closed_connection_brings_unsettled_messages_again(
    vhost_url: str, management: Management, vhost: str
) -> None:
    async with running_publisher(vhost_url) as publisher, consuming(vhost_url) as (_, deliveries):
        await publisher.publish(job(1))
        lost = await take(deliveries)
        await eventually(lambda: management.close_connections(vhost, name="test consumer"))

        again = await take(deliveries)

        assert again.body == lost.body
        with pytest.raises(DeliveryLost):
            await lost.requeue()
        again.ack()


async def test_a_channel_closed_by_the_broker_is_opened_again(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, consuming(vhost_url) as (_, deliveries):
        await publisher.publish(job(1))
        delivery = await take(deliveries)
        delivery.ack()
        await delivery._channel.acks.wait_sent()
        # The broker closes a channel on which an unknown delivery tag is acked.
        await delivery._channel.aiormq.basic_ack(4_711)

        await publisher.publish(job(2))

        assert (await take(deliveries)).body == b"2"


async def test_a_consumer_whose_queue_was_deleted_and_declared_at_once_consumes_again(vhost_url: str) -> None:
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url) as (consumer, deliveries),
        open_channel(vhost_url) as channel,
    ):
        await publisher.publish(job(1))
        (await take(deliveries)).ack()

        # On RabbitMQ 3.10 the consumer of such a queue is never told, and would stay deaf.
        await channel.queue_delete(QUEUE)
        await declare_topology(channel, KINDS)
        await publisher.publish(job(2))

        assert (await take(deliveries)).body == b"2"

        async def is_consuming() -> bool:
            return consumer.is_consuming

        await eventually(is_consuming)


async def test_a_consumer_cancelled_by_the_broker_consumes_again(vhost_url: str) -> None:
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url) as (consumer, deliveries),
        open_channel(vhost_url) as channel,
    ):
        await publisher.publish(job(1))
        (await take(deliveries)).ack()

        async def is_deaf() -> bool:
            return not consumer.is_consuming

        await channel.queue_delete(QUEUE)
        await eventually(is_deaf)
        await declare_topology(channel, KINDS)
        await publisher.publish(job(2))

        assert (await take(deliveries)).body == b"2"


async def test_a_queue_deleted_and_declared_at_once_is_consumed_again_also_with_a_delivery_in_hand(
    vhost_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shared.broker.subscriber")
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url, prefetch=2) as (_, deliveries),
        open_channel(vhost_url) as channel,
    ):
        await publisher.publish(job(1))
        in_hand = await take(deliveries)

        await channel.queue_delete(QUEUE)
        await declare_topology(channel, KINDS)
        caplog.clear()

        async def has_renewed() -> bool:
            return "consuming" in caplog.messages

        # What comes before that is stuck: on 3.10 the new queue still hands it to the old consumer.
        await eventually(has_renewed)
        await publisher.publish(job(2))

        again = await take(deliveries)
        assert again.body == b"2"
        # Its queue is gone, and with it the message; settling it harms nobody. Where the broker cancelled the
        # consumer before the queue was there again, its channel is gone, too.
        in_hand.ack()
        again.ack()
        await publisher.publish(job(3))
        assert (await take(deliveries)).body == b"3"


async def test_a_channel_that_the_broker_ended_without_a_word_is_replaced_also_with_a_delivery_in_hand(
    vhost_url: str, vhost: str, broker: Broker
) -> None:
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url, prefetch=2) as (_, deliveries),
    ):
        await publisher.publish(job(1))
        in_hand = await take(deliveries)

        await asyncio.to_thread(end_consuming_channels, broker, vhost)
        await publisher.publish(job(2))

        # The broker delivers again what was in hand, too.
        assert {(await take(deliveries)).body, (await take(deliveries)).body} == {b"1", b"2"}
        with pytest.raises(DeliveryLost):
            await in_hand.requeue()


async def test_a_channel_that_answers_nothing_is_given_up(
    vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber_module, "REQUEST_SECONDS", 0.5)
    async with running_publisher(vhost_url) as publisher, consuming(vhost_url) as (_, deliveries):
        await publisher.publish(job(1))
        delivery = await take(deliveries)
        delivery.ack()
        channel = delivery._channel.aiormq
        # What comes on the channel from now on is lost.
        del channel.connection.channels[channel.number]

        await publisher.publish(job(2))

        assert (await take(deliveries)).body == b"2"


async def test_renewing_a_quiet_consumer_never_doubles_what_is_in_hand(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, consuming(vhost_url, prefetch=1) as (_, deliveries):
        for number in range(2):
            await publisher.publish(job(number))
        in_hand = await take(deliveries)

        # Long enough for several renewals, were its intake not full.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await deliveries.get()

        in_hand.ack()
        assert (await take(deliveries)).body == b"1"


async def test_renewals_with_work_in_hand_neither_double_it_nor_pile_up_channels(
    vhost_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shared.broker.subscriber")
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url, prefetch=3) as (consumer, deliveries),
        open_channel(vhost_url) as channel,
    ):
        await publisher.publish(job(1))
        in_hand = await take(deliveries)

        async def has_renewed_often() -> bool:
            return caplog.messages.count("consuming") > 4

        async def has_one_old_channel() -> bool:
            return len(consumer._consumers[0]._settling) == 1

        await eventually(has_renewed_often)
        await eventually(has_one_old_channel)
        assert consumer.is_consuming and deliveries.empty()

        in_hand.ack()

        async def has_no_old_channel() -> bool:
            return not consumer._consumers[0]._settling

        await eventually(has_no_old_channel)
        assert await message_count(channel, QUEUE) == 0
        await publisher.publish(job(2))
        assert (await take(deliveries)).body == b"2"


async def test_a_consumer_is_well_only_while_the_broker_shows_that_it_knows_it(
    vhost_url: str, management: Management, vhost: str
) -> None:
    deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = Subscriber(
        vhost_url, name="test consumer", subscriptions=[Subscription(QUEUE, 1, deliveries.put_nowait)]
    )

    async def is_well() -> bool:
        return consumer.is_consuming

    async def is_unwell() -> bool:
        return not consumer.is_consuming

    async with running_publisher(vhost_url) as publisher, running(consumer.run()):
        await eventually(is_well)
        intake = consumer._consumers[0]._intake
        assert intake is not None

        intake._heard_at -= 61
        assert not consumer.is_consuming
        await publisher.publish(job(1))
        delivery = await take(deliveries)
        assert consumer.is_consuming

        # Full: it cannot hear anything, until there is room again.
        intake._heard_at -= 61
        assert consumer.is_consuming
        delivery.ack()
        assert consumer.is_consuming
        await eventually(lambda: management.close_connections(vhost, name="test consumer"))
        await eventually(is_unwell)
        await eventually(is_well)


async def test_a_queue_that_is_declared_late_is_waited_for(new_vhost_url: str) -> None:
    async with consuming(new_vhost_url) as (consumer, deliveries):
        assert not consumer.is_consuming

        async with running_publisher(new_vhost_url) as publisher:
            await publisher.publish(job(1))

            assert (await take(deliveries)).body == b"1"


async def test_after_stop_taking_nothing_comes_but_what_is_in_hand_can_be_settled(vhost_url: str) -> None:
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url) as (consumer, deliveries),
    ):
        await publisher.publish(job(1))
        in_hand = await take(deliveries)

        await consumer.stop_taking()
        await publisher.publish(job(2))
        in_hand.ack()

        async with consuming(vhost_url) as (_, others):
            assert (await take(others)).body == b"2"
            assert others.empty()
        assert deliveries.empty()


async def test_a_requeued_message_goes_to_the_next_consumer(vhost_url: str) -> None:
    async with running_publisher(vhost_url) as publisher, consuming(vhost_url) as (consumer, deliveries):
        await publisher.publish(job(1))
        delivery = await take(deliveries)
        await consumer.stop_taking()

        await delivery.requeue()

        async with consuming(vhost_url) as (_, others):
            assert (await take(others)).body == b"1"


async def test_a_held_queue_gives_nothing_and_goes_on_afterwards_without_passing_its_limit(
    vhost_url: str,
) -> None:
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url, prefetch=2) as (consumer, deliveries),
        open_channel(vhost_url) as channel,
    ):
        for number in range(5):
            await publisher.publish(job(number))
        first, second = await take(deliveries), await take(deliveries)

        consumer.hold([QUEUE])

        async def others_are_back() -> bool:
            return await message_count(channel, QUEUE) == 3

        # Making room brings nothing; what the broker sent in the last moment went back.
        first.ack()
        await eventually(others_are_back)
        assert deliveries.empty() and consumer.is_consuming

        consumer.hold([])

        third = await take(deliveries)
        # One of before the hold and one of after it are in hand: that is the limit.
        assert third.body == b"2"
        assert deliveries.empty()
        second.ack()
        fourth = await take(deliveries)
        third.ack()
        fourth.ack()
        (await take(deliveries)).ack()
        assert (await message_count(channel, QUEUE), fourth.body) == (0, b"3")


async def test_a_queue_held_from_the_start_is_left_alone_also_on_a_new_connection(
    vhost_url: str, management: Management, vhost: str
) -> None:
    deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = Subscriber(
        vhost_url, name="test consumer", subscriptions=[Subscription(QUEUE, 10, deliveries.put_nowait)]
    )
    consumer.hold([QUEUE])
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        await publisher.publish(job(1))
        async with running(consumer.run()):
            await eventually(lambda: management.close_connections(vhost, name="test consumer"))
            await eventually(lambda: management.close_connections(vhost, name="test consumer"))
            assert await message_count(channel, QUEUE) == 1

            consumer.hold([])

            (await take(deliveries)).ack()


async def test_what_was_in_hand_during_a_hold_is_not_delivered_again_when_it_is_settled(
    vhost_url: str,
) -> None:
    async with (
        running_publisher(vhost_url) as publisher,
        consuming(vhost_url) as (consumer, deliveries),
        open_channel(vhost_url) as channel,
    ):
        for number in range(3):
            await publisher.publish(job(number))
        in_hand = [await take(deliveries) for _ in range(3)]
        # Back and forth, so that each round begins while the channels of those before it are open.
        for _ in range(3):
            consumer.hold([QUEUE])
            await asyncio.sleep(0)
            consumer.hold([])
            await asyncio.sleep(0.05)

        for delivery in in_hand:
            delivery.ack()
        await publisher.publish(job(3))

        last = await take(deliveries)
        last.ack()
        assert last.body == b"3" and deliveries.empty()
        assert await message_count(channel, QUEUE) == 0


async def test_a_connection_that_has_just_closed_is_told_as_a_lost_one(vhost_url: str) -> None:
    connection = await aio_pika.connect(vhost_url)
    await connection.close()

    # aiormq itself raises a bare RuntimeError, which would end the process.
    with pytest.raises(CONNECTION_ERRORS):
        await new_channel(connection)
