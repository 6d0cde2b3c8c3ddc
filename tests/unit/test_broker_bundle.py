"""A message that carries several bodies, and how it is settled when all of them are."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.broker.bundle import Bundle, bodies_of, bundled
from shared.errors import DeliveryLost

LINES = st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line), min_size=1)


class FakeDelivery:
    """A delivery that keeps how it was settled."""

    exchange = "jobs"
    routing_key = "check.bundles"
    user_id: str | None = None
    returns = 2
    is_redelivered = True

    def __init__(self, body: bytes, *, is_lost: bool = False) -> None:
        self.body = body
        self.settled: list[str] = []
        self._is_lost = is_lost

    def ack(self) -> None:
        self.settled.append("ack")

    async def requeue(self) -> None:
        await self._otherwise("requeue")

    async def refuse(self) -> None:
        await self._otherwise("refuse")

    async def until_settled(self) -> None:
        while not self.settled:
            await asyncio.sleep(0)

    async def _otherwise(self, how: str) -> None:
        await asyncio.sleep(0)
        self.settled.append(how)
        if self._is_lost:
            raise DeliveryLost("the channel is gone")


def taken_apart(parts: int = 3, *, is_lost: bool = False) -> tuple[FakeDelivery, Bundle]:
    delivery = FakeDelivery(bundled(b"{%d}" % number for number in range(parts)), is_lost=is_lost)
    return delivery, Bundle(delivery)  # type: ignore[arg-type]


@given(LINES)
def test_bodies_come_out_of_a_message_as_they_went_in(bodies: list[bytes]) -> None:
    assert bodies_of(bundled(bodies)) == bodies


@pytest.mark.parametrize("body", [b"", b"\n", b"\n\n"])
def test_a_message_without_a_body_is_one_that_nobody_can_read(body: bytes) -> None:
    assert bodies_of(body) == [body]


def test_a_last_line_break_is_the_end_of_a_line_and_not_another_body() -> None:
    assert bodies_of(b"{1}\n{2}\n") == [b"{1}", b"{2}"]


def test_a_part_knows_what_its_message_says() -> None:
    _, bundle = taken_apart()

    assert [(part.body, part.routing_key, part.returns) for part in bundle.parts] == [
        (b"{0}", "check.bundles", 2),
        (b"{1}", "check.bundles", 2),
        (b"{2}", "check.bundles", 2),
    ]


def test_a_message_is_acked_with_the_last_of_its_parts_in_any_order() -> None:
    for seed in range(20):
        delivery, bundle = taken_apart(5)
        *first, last = random.Random(seed).sample(bundle.parts, 5)
        for part in first:
            part.ack()
        assert delivery.settled == []

        last.ack()
        assert delivery.settled == ["ack"]


async def test_a_part_that_is_settled_twice_does_not_stand_for_another() -> None:
    delivery, bundle = taken_apart(2)
    bundle.parts[0].ack()
    bundle.parts[0].ack()
    await bundle.parts[0].refuse()
    assert delivery.settled == []

    bundle.parts[1].ack()
    assert delivery.settled == ["ack"]


@pytest.mark.parametrize("how", ["requeue", "refuse"])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_part_that_is_given_back_gives_all_of_the_message_back_when_the_others_are_done(
    how: str, place: int
) -> None:
    delivery, bundle = taken_apart()
    for number, part in enumerate(bundle.parts):
        assert delivery.settled == []
        if number == place:
            await getattr(part, how)()
        else:
            part.ack()
    await delivery.until_settled()

    assert delivery.settled == [how]


@pytest.mark.parametrize("hows", [("requeue", "refuse"), ("refuse", "requeue")])
async def test_a_part_that_failed_counts_more_than_one_that_was_only_given_back(
    hows: tuple[str, str],
) -> None:
    delivery, bundle = taken_apart()
    for part, how in zip(bundle.parts, hows, strict=False):
        await getattr(part, how)()
    bundle.parts[2].ack()
    await delivery.until_settled()

    assert delivery.settled == ["refuse"]


async def test_a_channel_that_is_gone_is_told_to_who_gives_the_last_part_back_alone() -> None:
    _, bundle = taken_apart(2, is_lost=True)
    bundle.parts[0].ack()
    with pytest.raises(DeliveryLost):
        await bundle.parts[1].requeue()

    delivery, bundle = taken_apart(2, is_lost=True)
    await bundle.parts[0].requeue()
    bundle.parts[1].ack()
    await delivery.until_settled()
