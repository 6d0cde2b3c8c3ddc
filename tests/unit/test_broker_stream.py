"""What a subscription that was renewed takes for a proof, and how long a silent stream counts as read."""

import time
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.broker.stream import StreamReader, _Read, _Subscription


class FakeMessage:
    """A message of a stream."""

    exchange = "an.exchange"

    def __init__(self, offset: int, body: bytes) -> None:
        self.headers = {"x-stream-offset": offset}
        self.body = body
        self.acks = 0

    async def ack(self) -> None:
        self.acks += 1


def subscribed(expected: _Read | None) -> tuple[_Subscription, list[bytes]]:
    taken: list[bytes] = []

    def take(body: bytes, exchange: str) -> None:
        assert exchange == FakeMessage.exchange
        taken.append(body)

    return _Subscription(cast("AbstractChannel", None), take, expected=expected, last=expected), taken


async def receive(subscription: _Subscription, *messages: FakeMessage) -> None:
    for message in messages:
        await subscription.receive(cast("AbstractIncomingMessage", message))


async def test_the_message_that_was_read_last_proves_the_stream_and_is_not_taken_again() -> None:
    subscription, taken = subscribed(_Read(7, b"7"))
    messages = FakeMessage(7, b"7"), FakeMessage(8, b"8")

    await receive(subscription, *messages)

    assert await subscription.is_proved()
    assert (taken, subscription.last) == ([b"8"], _Read(8, b"8"))
    assert [message.acks for message in messages] == [1, 1]


@pytest.mark.parametrize(("offset", "body"), [(7, b"another"), (9, b"7")])
async def test_another_message_at_its_place_shows_another_stream_of_which_nothing_is_taken(
    offset: int, body: bytes
) -> None:
    subscription, taken = subscribed(_Read(7, b"7"))

    await receive(subscription, FakeMessage(offset, body), FakeMessage(offset + 1, b"8"))

    assert not await subscription.is_proved()
    assert taken == []


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
