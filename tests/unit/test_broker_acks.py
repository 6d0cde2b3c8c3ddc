"""Unit tests of gathering acks: each tag is settled once, and a multiple ack names one that was not."""

import asyncio
import random

import pytest

from shared.broker import delivery as delivery_module
from shared.broker.delivery import AckGatherer


class Channel:
    """A channel as the broker keeps it: closed by an ack of a tag that is settled already."""

    def __init__(self, delivered: int) -> None:
        self.unsettled = set(range(1, delivered + 1))
        self.frames: list[tuple[int, bool]] = []

    async def send(self, tag: int, multiple: bool) -> None:
        assert tag in self.unsettled, f"unknown delivery tag {tag}"
        self.frames.append((tag, multiple))
        self.unsettled -= {each for each in self.unsettled if each <= tag} if multiple else {tag}
        await asyncio.sleep(0)


async def acknowledge(gatherer: AckGatherer, *tags: int) -> None:
    """Acknowledge tags, and return when each is known to be on its way, or lost."""
    sent = asyncio.Semaphore(0)
    for tag in tags:
        gatherer.ack(tag, sent.release)
    async with asyncio.timeout(5):
        for _ in tags:
            await sent.acquire()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gather what comes in one turn of the loop."""
    monkeypatch.setattr(delivery_module, "_GATHER_SECONDS", 0.0)


async def test_what_is_finished_in_order_is_acknowledged_by_one_frame() -> None:
    channel = Channel(5)
    gatherer = AckGatherer(channel.send)

    await acknowledge(gatherer, 3, 1, 2, 4, 5)

    assert channel.frames == [(5, True)] and not channel.unsettled


async def test_a_straggler_holds_up_nobody() -> None:
    channel = Channel(4)
    gatherer = AckGatherer(channel.send)

    await acknowledge(gatherer, 1, 3, 4)

    assert channel.unsettled == {2}
    await acknowledge(gatherer, 2)
    assert not channel.unsettled


async def test_what_was_refused_is_not_taken_along_and_not_named_again() -> None:
    channel = Channel(3)
    gatherer = AckGatherer(channel.send)
    channel.unsettled.discard(2)
    gatherer.settled(2)

    await acknowledge(gatherer, 1, 3)

    assert channel.frames == [(3, True)]


async def test_an_ack_is_never_sent_before_those_below_are_settled_or_finished() -> None:
    channel = Channel(2)
    gatherer = AckGatherer(channel.send)

    await acknowledge(gatherer, 2)

    assert channel.unsettled == {1}


async def test_what_cannot_be_sent_because_the_channel_is_gone_is_no_longer_in_hand_either() -> None:
    async def send(_tag: int, _multiple: bool) -> None:
        raise ConnectionResetError

    gatherer = AckGatherer(send)

    # Returns only when each has been told of.
    await acknowledge(gatherer, 1, 2)


async def test_what_is_acknowledged_counts_as_in_hand_until_it_is_sent() -> None:
    channel = Channel(1)
    gatherer = AckGatherer(channel.send)
    sent: list[int] = []

    gatherer.ack(1, lambda: sent.append(len(channel.frames)))
    assert not sent

    await gatherer.wait_sent()
    assert sent == [1]


@pytest.mark.parametrize("seed", range(20))
async def test_in_any_order_every_tag_is_settled_once(seed: int) -> None:
    rng = random.Random(seed)
    channel = Channel(300)
    gatherer = AckGatherer(channel.send)
    waiting = list(range(1, 301))
    rng.shuffle(waiting)

    async def settle(tag: int) -> None:
        for _ in range(rng.randrange(20)):
            await asyncio.sleep(0)
        if rng.random() < 0.2:
            channel.unsettled.discard(tag)
            gatherer.settled(tag)
        else:
            await acknowledge(gatherer, tag)

    await asyncio.gather(*(settle(tag) for tag in waiting))

    assert not channel.unsettled
    assert len(channel.frames) == len(set(channel.frames))
