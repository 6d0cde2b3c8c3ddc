"""How much the recorder writes in one transaction, and what it leaves to that of the interactive lane."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast
from unittest.mock import sentinel

import pytest

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.recorder import Copies, Recorder
from shared.broker.bundle import bundled
from shared.broker.delivery import Delivery
from shared.broker.topology import DEAD, DELAY, RESULTS
from shared.settings import Settings
from tests.support.factories import TOKENS
from tests.support.virtual_time import run_in_virtual_time


def waiting_recorder(*bodies: bytes, reports: int) -> Recorder:
    """Return a recorder in whose hand messages are, and that writes so many reports at once."""
    recorder = Recorder(
        tokens=TOKENS,
        store=sentinel.store,
        metrics=LedgerMetrics(),
        settings=Settings(recorder_prefetch=reports),
    )
    for body in bodies:
        recorder._waiting.put_nowait(cast("Delivery", SimpleNamespace(body=body)))
    return recorder


@pytest.mark.parametrize(
    ("bodies", "sizes"),
    [
        ([b"{}"] * 7, [5, 2]),
        ([bundled([b"{}"] * 3)] * 3, [2, 1]),
        ([bundled([b"{}"] * 9), b"{}"], [1, 1]),
        ([b"x" * 9_000_000] * 3, [2, 1]),
    ],
)
async def test_a_transaction_is_bounded_by_its_reports_and_bytes_however_they_travel(
    bodies: list[bytes], sizes: list[int]
) -> None:
    recorder = waiting_recorder(*bodies, reports=5)

    assert [len(await recorder._take_batch()) for _ in sizes] == sizes


class Hand:
    """A delivery of one of the two recorders, and what became of it."""

    def __init__(self, body: bytes, exchange: str = RESULTS) -> None:
        self.body = body
        self.exchange = exchange
        self.is_acked = False

    def ack(self) -> None:
        """Note it."""
        self.is_acked = True


def held_by(copies: Copies, *hands: Hand) -> list[Hand]:
    """Give deliveries to the recorder of all; return those that it is to record, now or later."""
    taken: list[Hand] = []
    for hand in hands:
        copies.hold(cast("Delivery", hand), cast("Callable[[Delivery], None]", taken.append))
    return taken


def note(copies: Copies, body: bytes, *, is_recorded: bool, exchange: str = RESULTS) -> None:
    copies.note(cast("Delivery", Hand(body, exchange)), is_recorded=is_recorded)


@pytest.mark.parametrize("comes_first", [True, False])
async def test_what_the_interactive_recorder_has_recorded_is_acked_and_not_recorded_again(
    comes_first: bool,
) -> None:
    copies, same = Copies(most_held=10), Hand(b"report")

    if comes_first:
        taken = held_by(copies, same)
        assert not same.is_acked
        note(copies, b"report", is_recorded=True)
    else:
        note(copies, b"report", is_recorded=True)
        taken = held_by(copies, same)

    assert (same.is_acked, taken) == (True, [])


async def test_what_the_interactive_recorder_leaves_is_recorded_at_once() -> None:
    copies, same = Copies(most_held=10), Hand(b"report")
    taken = held_by(copies, same)

    note(copies, b"report", is_recorded=False)

    assert (same.is_acked, taken) == (False, [same])


def test_what_the_interactive_recorder_never_sees_is_recorded_a_second_later() -> None:
    async def hold() -> None:
        same = Hand(b"report")
        taken = held_by(Copies(most_held=10), same)
        await asyncio.sleep(0.9)
        assert taken == []
        await asyncio.sleep(0.2)
        assert (same.is_acked, taken) == (False, [same])

    run_in_virtual_time(hold())


async def test_no_more_than_so_many_are_held_and_the_same_one_only_once() -> None:
    copies = Copies(most_held=2)
    first, again, second, third = Hand(b"1"), Hand(b"1"), Hand(b"2"), Hand(b"3")

    assert held_by(copies, first, again, second, third) == [again, third]


async def test_a_message_that_is_dead_lettered_as_it_was_delayed_is_another() -> None:
    copies, dead = Copies(most_held=10), Hand(b"job", DEAD)

    note(copies, b"job", is_recorded=True, exchange=DELAY)
    held_by(copies, dead)

    assert not dead.is_acked
