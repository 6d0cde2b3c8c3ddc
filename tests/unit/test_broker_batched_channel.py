"""The accounting of confirms: each publish gets its own answer, whatever order and form the broker's have."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pamqp.frame
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.commands import Channel as ChannelMethod
from pamqp.header import ContentHeader

from shared.broker.fast.batched_channel import BatchedChannel
from shared.broker.outgoing import Outgoing
from shared.errors import BrokerUnavailable, MessageRefused, MessageUnroutable

MESSAGE = Outgoing("jobs", "check.bulk", b"{}", "job", "job-1")


class Line:
    """A channel's connection as seen from the broker: what was written, and what it says."""

    def __init__(self, *, timeout_seconds: float = 60.0, room: int = 10) -> None:
        self.written: asyncio.Queue[ChannelFrame] = asyncio.Queue(room)
        self.passed_on: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        underlay = SimpleNamespace(
            number=1, max_content_size=1_000, write_queue=self.written, frames=self.passed_on
        )
        self._frames = underlay.frames
        self.channel = BatchedChannel(
            cast("AbstractChannel", None), cast("Channel", underlay), timeout_seconds=timeout_seconds
        )

    async def published(self) -> list[str]:
        """Return the message ids of the next write, and let the socket take it."""
        async with asyncio.timeout(5):
            frame = await self.written.get()
        data, ids = frame.payload, []
        while data:
            size, _, content = pamqp.frame.unmarshal(data)
            if isinstance(content, ContentHeader):
                ids.append(content.properties.message_id or "")
            data = data[size:]
        frame.drain()
        return ids

    async def say(self, *frames: Any) -> None:
        """Let the channel hear frames of the broker."""
        for frame in frames:
            await self._frames.put((0, frame))

    async def send_back(self, message_id: str) -> None:
        """Return a message."""
        header = ContentHeader(body_size=2, properties=Basic.Properties(message_id=message_id))
        await self.say(Basic.Return(312, "NO_ROUTE", "jobs", "check.bulk"), header, ContentBody(b"{}"))


async def test_what_is_sent_in_one_turn_of_the_loop_is_one_write_and_one_confirm_answers_all() -> None:
    line = Line()
    answers = [line.channel.send(MESSAGE) for _ in range(5)]

    assert len(set(await line.published())) == 5
    await line.say(Basic.Ack(3, multiple=True))

    assert [answer.done() for answer in answers] == [True] * 3 + [False] * 2
    await line.say(Basic.Ack(5), Basic.Ack(4))
    assert await asyncio.gather(*answers) == [None] * 5


async def test_a_refusal_is_told_to_whom_it_concerns_and_the_channel_is_spent_when_nothing_flies() -> None:
    line = Line()
    refused, kept = line.channel.send(MESSAGE), line.channel.send(MESSAGE)
    await line.published()

    await line.say(Basic.Nack(1))
    with pytest.raises(MessageRefused):
        await refused
    assert not line.channel.is_spent

    await line.say(Basic.Ack(2))
    await kept
    assert line.channel.is_spent


async def test_a_message_that_came_back_stays_unroutable_although_it_is_confirmed_next() -> None:
    line = Line()
    first, returned, last = (line.channel.send(MESSAGE) for _ in range(3))
    ids = await line.published()

    await line.send_back(ids[1])
    await line.say(Basic.Ack(3, multiple=True))

    with pytest.raises(MessageUnroutable):
        await returned
    await asyncio.gather(first, last)


async def test_who_has_given_up_before_the_write_is_not_sent_for() -> None:
    line = Line()
    line.channel.send(MESSAGE).cancel()
    waiting = line.channel.send(MESSAGE)

    assert len(await line.published()) == 1
    await line.say(Basic.Ack(1))

    await waiting


async def test_a_confirm_that_does_not_come_in_time_fails_its_publish_and_no_later_one() -> None:
    line = Line(timeout_seconds=0.05)
    late = line.channel.send(MESSAGE)
    await line.published()

    with pytest.raises(BrokerUnavailable):
        await late

    following = line.channel.send(MESSAGE)
    await line.published()
    # The first is confirmed after all, which nobody waits for.
    await line.say(Basic.Ack(2, multiple=True))
    await following


async def test_a_socket_that_takes_nothing_holds_messages_back_until_their_time_is_over() -> None:
    line = Line(timeout_seconds=0.05, room=1)
    stuck = line.channel.send(MESSAGE)
    while line.written.empty():
        await asyncio.sleep(0)
    behind = line.channel.send(MESSAGE)

    with pytest.raises(BrokerUnavailable):
        await stuck
    with pytest.raises(BrokerUnavailable):
        await behind

    assert line.channel._timer is None
    assert len(await line.published()) == 1 and line.written.empty()


async def test_a_channel_that_is_given_up_tells_everybody() -> None:
    line = Line()
    sent = line.channel.send(MESSAGE)
    await line.published()
    waiting = line.channel.send(MESSAGE)

    line.channel.give_up()

    # Who comes now, because he knows nothing yet, too.
    for answer in (sent, waiting, line.channel.send(MESSAGE)):
        with pytest.raises(BrokerUnavailable):
            await answer


async def test_nothing_is_written_on_a_channel_that_the_broker_closes() -> None:
    line = Line()
    sent = line.channel.send(MESSAGE)
    await line.published()
    behind = line.channel.send(MESSAGE)

    # Aiormq answers it in a later turn of the loop, and the broker takes nothing behind the answer.
    await line.say(ChannelMethod.Close(406, "PRECONDITION_FAILED", 60, 40))
    after = line.channel.send(MESSAGE)
    for _ in range(3):
        await asyncio.sleep(0)

    assert line.written.empty()
    assert isinstance((await line.passed_on.get())[1], ChannelMethod.Close)
    line.channel.give_up()
    for answer in (sent, behind, after):
        with pytest.raises(BrokerUnavailable):
            await answer


async def test_a_message_that_cannot_be_written_holds_up_no_other() -> None:
    line = Line()
    wrong = line.channel.send(Outgoing("jobs", "k" * 256, b"{}", "job", "job-1"))
    right = line.channel.send(MESSAGE)

    assert len(await line.published()) == 1
    await line.say(Basic.Ack(1))

    with pytest.raises(ValueError, match="255"):
        await wrong
    await right


async def test_frames_of_others_are_passed_on() -> None:
    line = Line()

    await line.say(Basic.QosOk())

    assert isinstance((await line.passed_on.get())[1], Basic.QosOk)


@pytest.mark.parametrize("seed", range(10))
async def test_every_publish_gets_its_own_answer_in_any_order_of_confirms(seed: int) -> None:
    rng = random.Random(seed)
    line = Line()
    answers: dict[int, asyncio.Future[None]] = {}
    ids: dict[int, str] = {}
    expected: dict[int, type[Exception] | None] = {}
    open_numbers: list[int] = []
    for _ in range(60):
        for _ in range(rng.randrange(1, 5)):
            answers[len(answers) + 1] = line.channel.send(MESSAGE)
        for message_id in await line.published():
            ids[len(ids) + 1] = message_id
            open_numbers.append(len(ids))
        while open_numbers and rng.random() < 0.7:
            await _answer_some(line, rng, open_numbers, ids, expected)
    while open_numbers:
        await _answer_some(line, rng, open_numbers, ids, expected)

    found = await asyncio.gather(*answers.values(), return_exceptions=True)

    assert [type(each) if isinstance(each, Exception) else None for each in found] == [
        expected[number] for number in answers
    ]


async def _answer_some(
    line: Line,
    rng: random.Random,
    open_numbers: list[int],
    ids: dict[int, str],
    expected: dict[int, type[Exception] | None],
) -> None:
    """Confirm, refuse or return one message, or all up to one."""
    number = rng.choice(open_numbers)
    error = rng.choice([None, None, MessageRefused, MessageUnroutable])
    together = [each for each in open_numbers if each <= number] if rng.random() < 0.5 else [number]
    if error is MessageUnroutable:
        await line.send_back(ids[number])
        expected[number] = MessageUnroutable
    confirm = Basic.Nack if error is MessageRefused else Basic.Ack
    await line.say(confirm(number, multiple=len(together) > 1))
    for each in together:
        expected.setdefault(each, MessageRefused if error is MessageRefused else None)
        open_numbers.remove(each)


async def test_a_channel_that_was_given_up_tries_no_more_to_write() -> None:
    line = Line(room=1)
    line.written.put_nowait(cast("ChannelFrame", None))
    looks = 0

    class Full:
        def full(self) -> bool:
            nonlocal looks
            looks += 1
            return True

    cast("Any", line.channel)._underlay.write_queue = Full()
    answer = line.channel.send(MESSAGE)
    await asyncio.sleep(0)
    line.channel.give_up()
    looked = looks
    # Several times as long as it waits between two looks.
    await asyncio.sleep(0.02)

    assert (looked, looks) == (1, 1)
    with pytest.raises(BrokerUnavailable):
        await answer
