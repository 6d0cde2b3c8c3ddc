"""What a subscription that was renewed takes for a proof, and how long a silent stream counts as read."""

import asyncio
import time
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.broker.delivery import AckGatherer
from shared.broker.stream import StreamReader, _Read, _Subscription


class FakeMessage:
    """A message of a stream; one without an offset has headers that nobody can read."""

    exchange = "an.exchange"

    def __init__(self, offset: int | None, body: bytes, tag: int = 1) -> None:
        self.headers = {} if offset is None else {"x-stream-offset": offset}
        self.body = body
        self.delivery_tag = tag


class FakeChannel:
    """A channel and what was sent on it."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def ack(self, tag: int, multiple: bool) -> None:
        await asyncio.sleep(0)
        self.sent.append(f"ack {tag}{' and before' if multiple else ''}")

    async def close(self) -> None:
        self.sent.append("close")


def subscribed(
    expected: _Read | None, channel: FakeChannel | None = None
) -> tuple[_Subscription, list[bytes]]:
    channel, taken = channel or FakeChannel(), list[bytes]()

    def take(body: bytes, exchange: str) -> None:
        assert exchange == FakeMessage.exchange
        taken.append(body)

    acks = AckGatherer(channel.ack)
    subscription = _Subscription(
        cast("AbstractChannel", channel), acks, take, expected=expected, last=expected
    )
    return subscription, taken


async def receive(subscription: _Subscription, *messages: FakeMessage) -> None:
    for message in messages:
        await subscription.receive(cast("AbstractIncomingMessage", message))


async def test_the_message_that_was_read_last_proves_the_stream_and_is_not_taken_again() -> None:
    channel = FakeChannel()
    subscription, taken = subscribed(_Read(7, b"7"), channel)

    await receive(subscription, FakeMessage(7, b"7", tag=1), FakeMessage(8, b"8", tag=2))

    assert await subscription.is_proved()
    assert (taken, subscription.last) == ([b"8"], _Read(8, b"8"))
    await subscription.acks.wait_sent()
    assert channel.sent == ["ack 2 and before"]


@pytest.mark.parametrize(("offset", "body"), [(7, b"another"), (9, b"7")])
async def test_another_message_at_its_place_shows_another_stream_of_which_nothing_is_taken(
    offset: int, body: bytes
) -> None:
    subscription, taken = subscribed(_Read(7, b"7"))

    await receive(subscription, FakeMessage(offset, body), FakeMessage(offset + 1, b"8"))

    assert not await subscription.is_proved()
    assert taken == []


async def test_a_message_that_hides_its_place_is_taken_and_no_place_to_begin_at() -> None:
    subscription, taken = subscribed(None)

    await receive(subscription, FakeMessage(0, b"0"), FakeMessage(1, b"1"), FakeMessage(None, b"2"))

    assert (taken, subscription.last) == ([b"0", b"1", b"2"], _Read(1, b"1"))


async def test_nothing_goes_out_on_a_channel_behind_its_close() -> None:
    channel = FakeChannel()
    subscription, taken = subscribed(None, channel)
    await receive(subscription, FakeMessage(0, b"0"))

    ending = asyncio.create_task(subscription.end())
    await asyncio.sleep(0)
    await receive(subscription, FakeMessage(1, b"1", tag=2))
    await ending
    await receive(subscription, FakeMessage(2, b"2", tag=3))
    await subscription.acks.wait_sent()

    assert channel.sent == ["ack 1 and before", "close"]
    assert taken == [b"0"]


async def test_the_first_subscription_takes_everything() -> None:
    subscription, taken = subscribed(None)

    await receive(subscription, FakeMessage(0, b"0"), FakeMessage(1, b"1"))

    assert (taken, subscription.last) == ([b"0", b"1"], _Read(1, b"1"))


def test_a_reader_that_proved_nothing_for_two_renewals_is_not_well() -> None:
    reader: Any = StreamReader("amqp://nowhere/", name="test", stream="s", take=lambda *_: None)
    assert not reader.is_well
    reader._heard_at = time.monotonic() - 59
    assert reader.is_well
    reader._heard_at = time.monotonic() - 61
    assert not reader.is_well
