"""What a relay publishes and settles, and what it says of itself: that it moves, or hangs."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle
from typing import Any, cast
from unittest.mock import sentinel
from uuid import UUID

import pytest

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.relay import EventRelay, OutboxRelay, Packed, Relay
from producer.store import outbox
from producer.store.database import Store
from producer.store.page_bytes import PAGE_BYTES
from producer.store.wakeup import ENDED, ROOM, Wakeup
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.clock import utc_now
from shared.errors import BrokerError, BrokerUnavailable, MessageRefused, StoreUnavailable
from shared.identity import new_id
from shared.settings import Settings
from tests.support.factories import TOKENS


def make_relay(publisher: object = sentinel.publisher, **publishers: object) -> EventRelay:
    return EventRelay(
        store=sentinel.store,
        publisher=cast("Publisher", publisher),
        publishers=cast("dict[str, Publisher]", publishers),
        wakeup=sentinel.wakeup,
        metrics=LedgerMetrics(),
        settings=Settings(),
    )


async def test_a_relay_that_took_no_step_for_half_a_minute_does_not_move_until_it_asks_the_store() -> None:
    relay = make_relay()
    assert relay.is_moving

    async def call() -> int:
        return 1

    relay._moved_at -= 31
    assert not relay.is_moving

    assert await relay._calling(call) == 1
    assert relay.is_moving


async def test_a_store_that_is_locked_for_long_does_not_make_a_relay_look_hung() -> None:
    relay, tries = make_relay(), 0

    async def call() -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            relay._moved_at -= 31
            raise StoreUnavailable("database is locked")
        return relay.is_moving

    assert await relay._calling(call)


class Held:
    """A publisher of which no publish ever ends."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[None]] = []

    async def wait_ready(self) -> None:
        """Be ready at once."""

    def send(self, _message: Outgoing) -> asyncio.Future[None]:
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


class Confirming:
    """A publisher whose publishes are confirmed at once, but for those to a few exchanges."""

    def __init__(self, **errors: BrokerError) -> None:
        self.published: list[str] = []
        self._errors = errors

    async def wait_ready(self) -> None:
        """Be ready at once."""

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        self.published.append(message.exchange)
        answer = asyncio.get_running_loop().create_future()
        if (error := self._errors.get(message.exchange)) is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
        return answer


class Away:
    """A publisher that has lost its connection just now."""

    async def wait_ready(self) -> None:
        """Be ready at once."""

    def send(self, _message: Outgoing) -> asyncio.Future[None]:
        raise BrokerUnavailable("no channel is open")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an outbox."""

    id: UUID
    claimed_bytes: int = 100


class Table(OutboxRelay[Row]):
    """A relay of rows to one exchange after the other: what it claims, settles and releases."""

    def __init__(
        self,
        rows: int,
        *,
        publisher: object,
        rows_per_message: int = 1,
        exchanges: Sequence[str] = ("jobs",),
        **settings: int,
    ) -> None:
        self.free = [Row(new_id()) for _ in range(rows)]
        self.settled: list[UUID] = []
        self.released: list[UUID] = []
        self.claims = self.waits = self.failures = 0
        self.most_rows = 1_000
        self.poison: set[UUID] = set()
        self._rows_per_message = rows_per_message
        self._exchanges = cycle(exchanges)
        super().__init__(
            store=sentinel.store,
            publisher=cast("Publisher", publisher),
            wakeup=self,
            metrics=LedgerMetrics(),
            settings=Settings(**cast("dict[str, Any]", settings)),
        )

    async def run_until(self, is_over: Callable[[], bool]) -> None:
        running = asyncio.create_task(self.run())
        async with asyncio.timeout(5):
            while not is_over():
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])

    async def wait(self, timeout_seconds: float) -> frozenset[str]:
        self.waits += 1
        await asyncio.sleep(timeout_seconds)
        return frozenset()

    async def aclose(self) -> None:
        """Hold nothing open."""

    async def _claim(self, limit: int, lease_seconds: float, *, now: datetime) -> Sequence[Row]:
        self.claims += 1
        if self.claims <= self.failures:
            raise ValueError("a row that nobody can read")
        most = min(limit, self.most_rows)
        claimed, self.free = self.free[:most], self.free[most:]
        return claimed

    def _pack(self, rows: Sequence[Row]) -> Iterator[Packed[Row]]:
        if self.poison & {row.id for row in rows}:
            raise ValueError("not to be encoded")
        for first in range(0, len(rows), self._rows_per_message):
            message = Outgoing(next(self._exchanges), "check.bulk", b"{}", "job")
            yield message, rows[first : first + self._rows_per_message]

    async def _settle(self, rows: Sequence[Row]) -> None:
        self.settled.extend(row.id for row in rows)

    async def _release(self, ids: Sequence[UUID], *, retry_at: datetime) -> None:
        self.released.extend(ids)


async def test_every_row_is_published_and_settled_however_many_pages_they_are() -> None:
    publisher = Confirming()
    table = Table(25, publisher=publisher, relay_page_jobs=10, publish_window=3)
    ids = [row.id for row in table.free]

    await table.run_until(lambda: len(table.settled) == 25)

    assert sorted(table.settled) == sorted(ids)
    assert publisher.published == ["jobs"] * 25 and table.released == []


async def test_a_page_that_its_bytes_fill_is_followed_at_once_like_one_that_is_full_of_rows() -> None:
    table = Table(3, publisher=Confirming(), relay_page_jobs=2)
    table.free = [Row(new_id(), PAGE_BYTES) for _ in range(3)]
    # As the store does, whatever it is asked for.
    table.most_rows = 1

    await table.run_until(lambda: len(table.settled) == 3)

    assert table.claims >= 3


async def test_the_next_page_is_claimed_and_sent_while_confirms_of_one_are_awaited() -> None:
    publisher = Held()
    table = Table(100, publisher=publisher, relay_page_jobs=10)

    await table.run_until(lambda: len(publisher.answers) == 30)

    # And no more than that, however long it takes.
    assert table.claims == 3 and table.settled == []
    # Nobody waits for them any more.
    assert all(answer.cancelled() for answer in publisher.answers)


async def test_no_more_than_the_window_is_on_its_way_however_many_pages_are() -> None:
    publisher = Held()
    table = Table(100, publisher=publisher, relay_page_jobs=10, publish_window=12)

    await table.run_until(lambda: len(publisher.answers) == 12)

    assert table.claims == 3 and len(publisher.answers) == 12


@pytest.mark.parametrize("publisher", [Confirming(jobs=MessageRefused("full")), Away()])
async def test_rows_that_are_not_confirmed_are_let_go_of(publisher: Confirming | Away) -> None:
    table = Table(3, publisher=publisher)
    ids = [row.id for row in table.free]

    await table.run_until(lambda: len(table.released) == 3)

    assert table.released == ids and table.settled == []


async def test_what_becomes_of_a_message_becomes_of_all_its_rows() -> None:
    publisher = Confirming(full=MessageRefused("full"))
    table = Table(8, publisher=publisher, rows_per_message=3, exchanges=("jobs", "full", "jobs"))
    ids = [row.id for row in table.free]

    await table.run_until(lambda: len(table.settled) + len(table.released) == 8)

    assert (table.settled, table.released) == (ids[:3] + ids[6:], ids[3:6])


async def test_the_window_counts_messages_and_not_rows() -> None:
    publisher = Held()
    # Of which each of three pages has a third.
    table = Table(30, publisher=publisher, rows_per_message=5, publish_window=12)

    await table.run_until(lambda: table.waits == 1 and len(publisher.answers) == 4)

    assert len(publisher.answers) == 4


async def test_an_exchange_that_holds_up_its_publisher_holds_up_no_other() -> None:
    ours = Confirming()
    relay = make_relay(ours, outcomes=Held())
    outcome = Outgoing("outcomes", "check.succeeded", b"{}", "outcome")
    cancellation = Outgoing("", "control.cancelled", b"{}", "cancellation")

    held = asyncio.create_task(relay._publish([outcome, cancellation]))
    await asyncio.sleep(0)

    assert ours.published == [""] and not held.done()
    held.cancel()


async def test_a_row_of_which_no_message_can_be_made_holds_up_none_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Table(5, publisher=Confirming())
    ids = [row.id for row in table.free]
    table.poison = {ids[2]}

    await table.run_until(lambda: len(table.settled) == 4)

    assert table.settled == [*ids[:2], *ids[3:]] and table.released == []
    assert [vars(entry)["row_id"] for entry in caplog.records if entry.message == "row_put_aside"] == [
        str(ids[2])
    ]


async def test_a_relay_that_failed_with_all_pages_in_hand_can_run_again() -> None:
    table = Table(3, publisher=Confirming(), relay_page_jobs=1)
    table.failures = 5
    for _ in range(5):
        with pytest.raises(ExceptionGroup):
            await table.run()

    await table.run_until(lambda: len(table.settled) == 3)


class Idle:
    """A store without jobs, and what wakes a relay of it: each thing that is said, and then nothing."""

    def __init__(self, *said: str) -> None:
        self.said = [*said]
        self.calls: list[str] = []
        self.is_over = asyncio.Event()

    async def write(self, change: Callable[..., object], *arguments: Any, **_: object) -> list[object]:
        """Note a call."""
        self.calls.append(change.__name__)
        if change is outbox.claim_held:
            arguments[0].looked(None, now=utc_now())
        return []

    async def wait(self, _timeout_seconds: float) -> frozenset[str]:
        """Return what is said next."""
        if not self.said:
            self.is_over.set()
            await asyncio.Event().wait()
        self.calls.append(self.said[0] or "stored")
        return frozenset({self.said.pop(0)})

    async def wait_ready(self) -> None:
        """Be ready at once."""


async def test_a_relay_looks_for_what_it_was_told_of_and_for_nothing_while_jobs_end() -> None:
    idle = Idle(ENDED, ENDED, "", ENDED, ROOM)
    relay = Relay(
        store=cast("Store", idle),
        publisher=cast("Publisher", idle),
        wakeup=cast("Wakeup", idle),
        metrics=LedgerMetrics(),
        settings=Settings(),
        tokens=TOKENS,
    )

    running = asyncio.create_task(relay.run())
    async with asyncio.timeout(5):
        await idle.is_over.wait()
    running.cancel()
    await asyncio.wait([running])

    first, stored, room = (
        ["claim_held", "claim_accepted"],
        ["claim_accepted"],
        ["claim_held", "claim_accepted"],
    )
    assert idle.calls == [*first, ENDED, ENDED, "stored", *stored, ENDED, ROOM, *room]
