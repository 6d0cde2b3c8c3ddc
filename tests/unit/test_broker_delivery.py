"""Deliveries on their way through an intake: the limit holds, and each is settled once, or comes again."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
from aio_pika.exceptions import ChannelInvalidStateError
from aiormq.channel import Channel
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker.delivery import AckGatherer, Delivery, Incoming, Intake, Settling
from shared.broker.fast.frames import LazyHeader
from shared.errors import DeliveryLost


@dataclass
class FakeChannel:
    """A channel of aiormq and its acks: keeps what is sent, unless it is lost."""

    sent: list[tuple[str, int, bool]] = field(default_factory=list)
    settled_otherwise: list[int] = field(default_factory=list)
    is_lost: bool = False
    may_send: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_send.set()

    async def basic_nack(self, tag: int, *, requeue: bool) -> None:
        await self._send("nack", tag, requeue)

    async def basic_reject(self, tag: int, *, requeue: bool) -> None:
        await self._send("reject", tag, requeue)

    def ack(self, tag: int, on_sent: Callable[[], None]) -> None:
        self.sent.append(("ack", tag, False))
        on_sent()

    def settled(self, tag: int) -> None:
        self.settled_otherwise.append(tag)

    async def _send(self, how: str, tag: int, requeue: bool) -> None:
        await self.may_send.wait()
        if self.is_lost:
            raise ChannelInvalidStateError("gone")
        self.sent.append((how, tag, requeue))

    def settling(self) -> Settling:
        return Settling(cast("Channel", self), cast("AckGatherer", self))


def incoming(tag: int, *, headers: dict[str, object] | None = None, again: bool = False) -> Incoming:
    properties = Basic.Properties(correlation_id=f"job-{tag}", headers=headers)  # type: ignore[arg-type]
    header = ContentHeader(properties=properties)
    return Incoming(tag, again, "jobs", "check.bulk", header, b"%d" % tag)


class Line:
    """An intake, the channel of its consumer, and what was handed on."""

    def __init__(self, *, limit: int = 2) -> None:
        self.taken: list[Delivery] = []
        self.intake = Intake(limit, self.taken.append)
        self.channel = FakeChannel()
        self.settling = self.channel.settling()

    def receive(self, *tags: int, settling: Settling | None = None) -> None:
        for tag in tags:
            self.intake.receive(settling or self.settling, incoming(tag))

    @property
    def bodies(self) -> list[int]:
        return [int(delivery.body) for delivery in self.taken]


async def turn_loop() -> None:
    """Let everything run that can run without the world outside."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_is_handed_on_than_the_limit_until_something_is_settled() -> None:
    line = Line(limit=2)
    line.receive(1, 2, 3, 4)
    assert (line.bodies, line.intake.in_hand) == ([1, 2], 2)

    line.taken[1].ack()

    assert (line.bodies, line.intake.in_hand) == ([1, 2, 3], 2)


async def test_the_limit_counts_what_the_channel_before_brought() -> None:
    line, following = Line(limit=2), FakeChannel().settling()
    line.receive(1, 2)
    line.receive(1, 2, settling=following)
    assert len(line.taken) == 2

    line.taken[0].ack()

    assert len(line.taken) == 3


async def test_a_shut_intake_keeps_what_comes_and_gives_it_back_when_told() -> None:
    line = Line(limit=1)
    line.receive(1, 2)
    line.intake.shut()
    line.receive(3)
    line.taken[0].ack()
    assert (line.bodies, line.channel.sent) == ([1], [("ack", 1, False)])

    await line.intake.give_back()

    # Nacks, because a reject counts as a delivery on RabbitMQ 4.3.
    assert line.channel.sent[1:] == [("nack", 2, True), ("nack", 3, True)]


async def test_what_still_comes_while_it_gives_back_goes_back_too_until_it_opens_again() -> None:
    line = Line(limit=5)
    line.intake.shut()
    await line.intake.give_back()
    line.receive(1)
    await turn_loop()
    assert (line.bodies, line.channel.sent) == ([], [("nack", 1, True)])

    line.intake.open()
    line.receive(2)

    assert line.bodies == [2]


async def test_giving_back_on_a_lost_channel_is_no_error() -> None:
    line = Line(limit=1)
    line.receive(1, 2)
    line.channel.is_lost = True

    await line.intake.give_back()
    line.receive(3)
    await turn_loop()

    assert (line.bodies, line.channel.sent) == ([1], [])


async def test_what_was_not_handed_on_is_dropped_with_its_channel() -> None:
    line = Line(limit=1)
    line.receive(1, 2)
    line.intake.forget()
    line.taken[0].ack()

    assert line.bodies == [1]


async def test_a_channel_is_settled_when_nothing_of_it_is_in_hand_whatever_others_brought() -> None:
    line, other = Line(limit=9), FakeChannel().settling()
    line.receive(1, 2)
    line.receive(7, settling=other)
    waiting = asyncio.create_task(line.intake.wait_settled(line.settling))
    await turn_loop()
    line.taken[0].ack()
    await turn_loop()
    assert not waiting.done()

    line.taken[1].ack()

    async with asyncio.timeout(5):
        await waiting
    await asyncio.wait_for(line.intake.wait_settled(FakeChannel().settling()), 5)


def test_a_full_intake_cannot_hear_anything_and_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("shared.broker.delivery.time.monotonic", lambda: now)
    line = Line(limit=1)
    now = 130.0
    assert line.intake.quiet_seconds == 30.0
    line.receive(1)
    now = 200.0
    assert line.intake.quiet_seconds == 0.0

    line.taken[0].ack()

    # From now on the broker can deliver again.
    now = 207.0
    assert line.intake.quiet_seconds == 7.0


@pytest.mark.parametrize(
    ("how", "sent"),
    [
        (Delivery.requeue, ("nack", 1, True)),
        (Delivery.refuse, ("reject", 1, True)),
        (Delivery.dead_letter, ("reject", 1, False)),
    ],
)
async def test_settling_otherwise_is_told_to_the_acks_only_once_it_was_sent(
    how: Callable[[Delivery], asyncio.Future[None]], sent: tuple[str, int, bool]
) -> None:
    line = Line()
    line.receive(1)
    line.channel.may_send.clear()
    settling = asyncio.ensure_future(how(line.taken[0]))
    await turn_loop()
    # A multiple ack that overtook it would settle its message; a channel closed now would lose it.
    assert (line.channel.settled_otherwise, line.intake.in_hand) == ([], 1)

    line.channel.may_send.set()
    await settling

    assert (line.channel.sent, line.channel.settled_otherwise, line.intake.in_hand) == ([sent], [1], 0)


@pytest.mark.parametrize("how", [Delivery.requeue, Delivery.refuse, Delivery.dead_letter])
async def test_a_channel_that_is_lost_in_mid_delivery_is_told_and_the_delivery_is_out_of_hand(
    how: Callable[[Delivery], asyncio.Future[None]],
) -> None:
    line = Line(limit=1)
    line.receive(1)
    line.channel.is_lost = True

    with pytest.raises(DeliveryLost):
        await how(line.taken[0])

    assert (line.channel.settled_otherwise, line.intake.in_hand) == ([], 0)


async def test_an_ack_on_a_lost_channel_raises_nothing_and_takes_the_delivery_out_of_hand() -> None:
    taken: list[Delivery] = []
    intake = Intake(1, taken.append)

    async def send(tag: int, multiple: bool) -> None:
        raise ChannelInvalidStateError("gone")

    acks = AckGatherer(send)
    intake.receive(Settling(cast("Channel", None), acks), incoming(1))
    taken[0].ack()
    await acks.wait_sent()

    assert intake.in_hand == 0


@pytest.mark.parametrize(
    ("headers", "again", "returns"),
    [
        ({"x-delivery-count": 3}, True, 3),
        ({"x-delivery-count": 3}, False, 0),
        ({"x-delivery-count": "3"}, True, 0),
        (None, True, 0),
    ],
)
def test_returns_are_what_the_broker_counts_and_nobody_else(
    headers: dict[str, object] | None, again: bool, returns: int
) -> None:
    message = incoming(1, headers=headers, again=again)

    assert Delivery(message, FakeChannel().settling(), lambda: None).returns == returns


@pytest.mark.parametrize(
    ("queue", "was_dead"),
    [
        ("jobs.check.bulk", True),
        ("jobs.check.bundles", True),
        ("jobs.delay.00005s", False),
        # A publisher may delay its jobs in a queue of its own.
        ("jobs.mine", False),
        ("my.check.bulk", False),
        (7, False),
    ],
)
def test_a_message_that_died_in_a_work_queue_was_put_back_by_somebody(queue: object, was_dead: bool) -> None:
    death = {"reason": "expired", "queue": queue, "count": 1}
    properties = Basic.Properties(headers={"x-death": [death]})  # type: ignore[list-item]
    payload = ContentHeader(body_size=1, properties=properties).marshal()

    for header in (ContentHeader(body_size=1, properties=properties), LazyHeader(payload)):
        assert delivery_with(header).was_dead is was_dead


def delivery_with(header: ContentHeader) -> Delivery:
    message = Incoming(1, False, "", "jobs.check.bulk", header, b"{}")
    return Delivery(message, FakeChannel().settling(), lambda: None)


def test_a_message_without_deaths_was_not_put_back() -> None:
    properties = Basic.Properties(headers={"x-delivery-count": 3})

    assert not delivery_with(ContentHeader(body_size=1, properties=properties)).was_dead
