"""What an outbox says of itself: that it moves, or hangs."""

import asyncio
from typing import Any, cast
from unittest.mock import sentinel

from producer.ledger.outbox import Outbox
from shared.broker.publisher import Outgoing, Publisher
from shared.errors import StoreUnavailable
from shared.settings import Settings


def make_outbox() -> Outbox[Any]:
    return Outbox(
        claim=sentinel.claim,
        message=sentinel.message,
        settle=sentinel.settle,
        release=sentinel.release,
        publisher=sentinel.publisher,
        wakeup=sentinel.wakeup,
        settings=Settings(),
    )


async def test_an_outbox_that_took_no_step_for_half_a_minute_does_not_move_until_it_asks_the_store() -> None:
    outbox = make_outbox()
    assert outbox.is_moving

    outbox._moved_at -= 31
    assert not outbox.is_moving

    assert await outbox.stored(lambda: 1) == 1
    assert outbox.is_moving


async def test_a_store_that_is_locked_for_long_does_not_make_an_outbox_look_hung() -> None:
    outbox, tries = make_outbox(), 0

    def change() -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            outbox._moved_at -= 31
            raise StoreUnavailable("database is locked")
        return outbox.is_moving

    assert await outbox.stored(change)


class Held:
    """A publisher of which no publish ever ends."""

    async def publish(self, _message: Outgoing) -> None:
        await asyncio.Event().wait()


class Confirming:
    """A publisher whose publishes are confirmed at once."""

    def __init__(self) -> None:
        self.published: list[str] = []

    async def publish(self, message: Outgoing) -> None:
        self.published.append(message.exchange)


async def test_an_exchange_that_holds_up_its_publisher_holds_up_no_other() -> None:
    ours = Confirming()
    outbox: Outbox[Any] = Outbox(
        claim=sentinel.claim,
        message=sentinel.message,
        settle=sentinel.settle,
        release=sentinel.release,
        publisher=cast("Publisher", ours),
        publishers={"outcomes": cast("Publisher", Held())},
        wakeup=sentinel.wakeup,
        settings=Settings(),
    )
    held = asyncio.create_task(outbox._publish(Outgoing("outcomes", "check.succeeded", b"{}", "outcome")))

    assert await outbox._publish(Outgoing("", "jobs.cancelled", b"{}", "cancellation"))

    assert ours.published == [""] and not held.done()
    held.cancel()
