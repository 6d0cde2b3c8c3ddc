"""Keeping a queue consumed: what a consumer does about holds, losses, silence and its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.channel import Channel
from pamqp.header import ContentHeader

from shared.broker import subscriber as subscriber_module
from shared.broker.delivery import AckGatherer, Delivery, Incoming, Intake, Settling
from shared.broker.subscriber import QueueConsumer, Subscription


class FakeQueue:
    """A queue as a channel of the fake broker sees it."""

    def __init__(self, channel: "FakeChannel") -> None:
        self._channel = channel

    async def declare(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as aio-pika's
        self._channel.note("declare")

    async def cancel(self, tag: str) -> None:
        self._channel.note("cancel")
        self._channel.is_consuming = False


class FakeChannel:
    """A consuming channel of the fake broker; stands for aio-pika's, aiormq's and its acks at once."""

    def __init__(self, broker: "FakeBroker", intake: Intake, on_lost: Callable[[], None]) -> None:
        self._broker = broker
        self._intake = intake
        self._on_lost = on_lost
        self.events: list[str] = []
        self.is_consuming = self.is_closed = False
        self.settling = Settling(cast("Channel", self), cast("AckGatherer", self))
        self.pika = self
        self._tag = 0

    async def set_qos(self, prefetch_count: int) -> None:
        self.note(f"prefetch {prefetch_count}")

    async def declare_queue(self, name: str, *, passive: bool) -> FakeQueue:
        if self._broker.missing:
            self._broker.missing -= 1
            raise ChannelNotFoundEntity(f"no queue {name}")
        return FakeQueue(self)

    async def consume(self, queue: FakeQueue) -> str:
        self.note("consume")
        self.is_consuming = True
        self._broker.subscribed.set()
        if self._broker.delivers_at_once:
            self.deliver()
        return "tag"

    async def close(self) -> None:
        self.note("close")
        self.is_closed = True

    async def wait_sent(self) -> None:
        self.note("wait_sent")

    async def basic_nack(self, tag: int, *, requeue: bool) -> None:
        self.note(f"nack {tag}")

    def ack(self, tag: int, on_sent: Callable[[], None]) -> None:
        self.note(f"ack {tag}")
        on_sent()

    def settled(self, tag: int) -> None:
        pass

    def note(self, event: str) -> None:
        self.events.append(event)

    def deliver(self) -> None:
        """Bring one more message."""
        self._tag += 1
        message = Incoming(self._tag, False, "jobs", "check.bulk", ContentHeader(), b"%d" % self._tag)
        self._intake.receive(self.settling, message)

    def lose(self, *, whole: bool) -> None:
        """Lose the consumer alone, or the channel with it."""
        self.is_consuming = False
        self.is_closed = whole
        self._on_lost()


class FakeBroker:
    """Opens channels, and looks on."""

    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []
        self.subscribed = asyncio.Event()
        self.missing = 0
        self.delivers_at_once = False
        self.taken: list[Delivery] = []

    async def open(self, _: Any, intake: Intake, *, plain: bool, on_lost: Callable[[], None]) -> FakeChannel:
        self.channels.append(FakeChannel(self, intake, on_lost))
        return self.channels[-1]

    async def wait_subscribed(self) -> FakeChannel:
        """Return the channel of the next subscription."""
        async with asyncio.timeout(10):
            await self.subscribed.wait()
        self.subscribed.clear()
        await turn_loop()
        return self.channels[-1]


async def turn_loop() -> None:
    """Let everything run that can run without the world outside."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    made = FakeBroker()
    monkeypatch.setattr(subscriber_module, "open_consuming", made.open)
    monkeypatch.setattr(subscriber_module, "_RESUBSCRIBE_SECONDS", 0.0)
    return made


@asynccontextmanager
async def consuming(
    broker: FakeBroker, *, prefetch: int = 2, renew_seconds: float = 1_000.0
) -> AsyncIterator[QueueConsumer]:
    """Consume while inside."""
    subscription = Subscription("jobs.check.bulk", prefetch, broker.taken.append)
    consumer = QueueConsumer(subscription, renew_seconds=renew_seconds, plain=False)
    task = asyncio.create_task(consumer.run(cast("AbstractConnection", None)))
    try:
        yield consumer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_consumer_asks_for_its_prefetch_before_it_consumes(broker: FakeBroker) -> None:
    async with consuming(broker, prefetch=7) as consumer:
        assert not consumer.is_well
        channel = await broker.wait_subscribed()
        assert consumer.is_well

    assert channel.events == ["prefetch 7", "consume"]
    assert not consumer.is_well


async def test_deliveries_are_handed_on_up_to_the_prefetch(broker: FakeBroker) -> None:
    async with consuming(broker, prefetch=2):
        channel = await broker.wait_subscribed()
        for _ in range(3):
            channel.deliver()
        assert len(broker.taken) == 2

        broker.taken[0].ack()

        assert len(broker.taken) == 3


async def test_a_hold_cancels_the_consumer_and_then_gives_back_what_was_not_handed_on(
    broker: FakeBroker,
) -> None:
    async with consuming(broker, prefetch=1) as consumer:
        channel = await broker.wait_subscribed()
        channel.deliver()
        channel.deliver()
        consumer.hold(is_held=True)
        await turn_loop()

        # Given back before, it would be delivered to the same consumer at once.
        assert channel.events[2:] == ["cancel", "nack 2"]
        assert consumer.is_well and not channel.is_consuming


async def test_what_is_in_hand_is_settled_on_its_channel_which_closes_only_then(broker: FakeBroker) -> None:
    async with consuming(broker) as consumer:
        channel = await broker.wait_subscribed()
        channel.deliver()
        consumer.hold(is_held=True)
        await turn_loop()
        assert not channel.is_closed

        broker.taken[0].ack()
        await turn_loop()

    # The answered request in between lets the broker read the ack before the channel closes.
    assert channel.events[3:] == ["ack 1", "declare", "close"]


async def test_a_resume_consumes_on_a_new_channel_and_the_limit_counts_what_is_still_in_hand(
    broker: FakeBroker,
) -> None:
    async with consuming(broker, prefetch=1) as consumer:
        before = await broker.wait_subscribed()
        before.deliver()
        consumer.hold(is_held=True)
        await turn_loop()
        consumer.hold(is_held=False)
        after = await broker.wait_subscribed()
        after.deliver()
        assert (len(broker.channels), len(broker.taken)) == (2, 1)

        broker.taken[0].ack()

        assert [delivery.body for delivery in broker.taken] == [b"1", b"1"]
        assert after.is_consuming


async def test_a_lost_channel_is_replaced_and_what_it_had_not_handed_on_is_dropped(
    broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with consuming(broker, prefetch=1) as consumer:
        lost = await broker.wait_subscribed()
        lost.deliver()
        lost.deliver()
        lost.lose(whole=True)
        channel = await broker.wait_subscribed()
        # The broker delivers both again; the limit counts nothing of the lost channel.
        broker.taken[0].ack()
        channel.deliver()

        assert channel is not lost and consumer.is_well
        assert len(broker.taken) == 2
        assert [record.getMessage() for record in caplog.records] == ["consumer_lost"]


async def test_a_consumer_that_the_broker_cancelled_consumes_again_on_the_same_channel(
    broker: FakeBroker,
) -> None:
    async with consuming(broker):
        channel = await broker.wait_subscribed()
        channel.deliver()
        channel.lose(whole=False)
        again = await broker.wait_subscribed()
        # Its unsettled deliveries live on.
        broker.taken[0].ack()
        again.deliver()

        assert again is channel
        assert len(broker.taken) == 2
        assert channel.events.count("consume") == 2


async def test_a_missing_queue_is_asked_for_until_it_is_there_and_told_once(
    broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.missing = 2
    with caplog.at_level(logging.WARNING):
        async with consuming(broker) as consumer:
            await broker.wait_subscribed()
            assert (len(broker.channels), consumer.is_well) == (3, True)

    assert [record.getMessage() for record in caplog.records] == ["subscription_failed"]


async def test_a_consumer_that_hears_nothing_for_long_subscribes_anew(broker: FakeBroker) -> None:
    async with consuming(broker, renew_seconds=0.001):
        quiet = await broker.wait_subscribed()
        while len(broker.channels) == 1:
            await broker.wait_subscribed()
        await turn_loop()

    assert quiet.events == ["prefetch 2", "consume", "cancel", "declare", "close"]


async def test_a_full_consumer_is_not_taken_for_a_deaf_one(broker: FakeBroker) -> None:
    broker.delivers_at_once = True
    async with consuming(broker, prefetch=1, renew_seconds=0.001) as consumer:
        await broker.wait_subscribed()

        # Fifty times as long as a consumer may be quiet.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(broker.subscribed.wait(), 0.05)
        assert (len(broker.channels), consumer.is_well) == (1, True)


async def test_a_consumer_that_stops_gives_back_the_rest_and_consumes_no_more(broker: FakeBroker) -> None:
    async with consuming(broker, prefetch=1) as consumer:
        channel = await broker.wait_subscribed()
        channel.deliver()
        channel.deliver()
        await consumer.stop_taking()
        assert channel.events[2:] == ["cancel", "nack 2"]

        channel.deliver()
        channel.lose(whole=False)
        await turn_loop()
        broker.taken[0].ack()
        await turn_loop()

        assert (len(broker.taken), len(broker.channels)) == (1, 1)
        assert channel.events[4:6] == ["nack 3", "ack 1"]
        assert channel.events.count("consume") == 1


async def test_a_flush_waits_for_acks_and_an_answer_of_the_broker(broker: FakeBroker) -> None:
    async with consuming(broker) as consumer:
        channel = await broker.wait_subscribed()
        channel.deliver()
        broker.taken[0].ack()
        await consumer.flush()

    assert channel.events[2:] == ["ack 1", "wait_sent", "declare"]


def test_a_held_queue_is_well_without_a_consumer() -> None:
    consumer = QueueConsumer(
        Subscription("jobs.check.bulk", 1, lambda _: None), renew_seconds=1.0, plain=False
    )
    assert not consumer.is_well

    consumer.hold(is_held=True)

    assert consumer.is_well
