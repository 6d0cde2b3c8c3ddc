"""What orders to pause and to resume come to, for the store and for a worker."""

import uuid
from datetime import UTC, datetime

import pytest

from consumer.control_streams import CurrentPauses
from producer.pausing import Pause, paused, resumed
from shared.events import PausedQueues, PauseSnapshot
from shared.kinds.registry import Lane

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def pause(kind: str, lane: str, by: str = "ann") -> Pause:
    return Pause(kind, lane, NOON, by)


def places(pauses: list[Pause]) -> set[tuple[str, str]]:
    return {(each.kind, each.lane) for each in pauses}


def test_what_is_paused_already_keeps_its_first_order() -> None:
    first = pause("check", "*")

    assert paused([first], pause("check", "*", by="bob")) == [first]
    assert paused([first], pause("check", "bulk", by="bob")) == [first]
    assert places(paused([pause("check", "bulk")], first)) == {("check", "bulk"), ("check", "*")}
    # An order for a lane over all kinds is one of its own.
    assert places(paused([first], pause("*", "bulk"))) == {("check", "*"), ("*", "bulk")}


@pytest.mark.parametrize(
    ("before", "kind", "lane", "after"),
    [
        ({("check", "*")}, "check", "*", set()),
        ({("check", "bulk"), ("check", "*"), ("fetch", "*")}, "check", "*", {("fetch", "*")}),
        ({("check", "*")}, "check", "bulk", {("check", "interactive")}),
        ({("check", "*"), ("check", "bulk")}, "check", "bulk", {("check", "interactive")}),
        ({("check", "bulk")}, "check", "interactive", {("check", "bulk")}),
        ({("*", "bulk"), ("check", "*")}, "check", "*", {("*", "bulk")}),
        ({("*", "bulk"), ("check", "*")}, "*", "bulk", {("check", "*")}),
        (set(), "check", "*", set()),
    ],
)
def test_a_resume_takes_back_what_was_ordered_for_that_kind(
    before: set[tuple[str, str]], kind: str, lane: str, after: set[tuple[str, str]]
) -> None:
    assert places(resumed([pause(*place) for place in before], kind, lane)) == after


def snapshot(revision: int, *places: tuple[str, str]) -> bytes:
    pauses = tuple(PausedQueues(kind=kind, lane=lane) for kind, lane in places)
    return PauseSnapshot(revision=revision, pauses=pauses).encode()


def test_a_worker_goes_by_the_snapshot_of_the_greatest_revision() -> None:
    pauses, told = CurrentPauses("amqp://nowhere", name="test"), []
    pauses.on_change(lambda: told.append(pauses.cover("check", Lane.BULK)))

    for body in (
        snapshot(3, ("check", "bulk")),
        snapshot(3),
        snapshot(2),
        b"nonsense",
        b'{"revision": -1}',
        PauseSnapshot(marker=uuid.uuid4()).encode(),
        snapshot(4, ("*", "interactive"), ("later_kind", "later_lane")),
    ):
        pauses.take(body)

    assert told == [True, False]
    assert pauses.cover("fetch", Lane.INTERACTIVE) and not pauses.is_caught_up


def test_an_empty_snapshot_of_a_store_without_any_order_is_taken() -> None:
    pauses, told = CurrentPauses("amqp://nowhere", name="test"), []
    pauses.on_change(lambda: told.append(True))

    pauses.take(snapshot(0))

    assert told == [True] and not pauses.cover("check", Lane.BULK)
