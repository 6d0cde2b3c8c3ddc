"""Leader election in virtual time: who leads, how long, and that never two do."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, cast

import pytest

from producer.ledger.leader import Elector, Lease
from producer.ledger.metrics import LedgerMetrics
from producer.store.database import Store
from producer.store.leader import hold_lease_from_now, release_lease
from shared.errors import StoreUnavailable
from tests.support.virtual_time import run_in_virtual_time

LEASE_SECONDS = 15.0
STEPS_DOWN_AFTER = 10.0


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Let a coroutine be a test whose hours take milliseconds."""

    @wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


class Row:
    """The lease as the store has it, by the loop's clock."""

    def __init__(self) -> None:
        self.holder: object | None = None
        self.held_until = 0.0

    def hold(self, holder: object) -> bool:
        now = asyncio.get_running_loop().time()
        if self.holder not in {None, holder} and self.held_until > now:
            return False
        self.holder, self.held_until = holder, now + LEASE_SECONDS
        return True


class FakeLease(Lease):
    """A lease in memory, whose store can be away, or take so many seconds for its answer."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.is_away = False
        self.answer_seconds = 0.0
        self.asked = 0

    async def hold(self) -> bool:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("the store is away")
        # What was asked in time is done, however late the answer comes.
        is_held = self.row.hold(self)
        await asyncio.sleep(self.answer_seconds)
        return is_held

    async def release(self) -> None:
        if not self.is_away and self.row.holder is self:
            self.row.holder = None


class Ledger:
    """An elector with one service that says when it runs."""

    def __init__(self, row: Row, leading: set["Ledger"] | None = None) -> None:
        self.lease = FakeLease(row)
        self.metrics = LedgerMetrics()
        self.starts = 0
        self.most_at_once = 0
        self._leading = set[Ledger]() if leading is None else leading
        self._elector = Elector(self.lease, [self._serve], metrics=self.metrics)
        self.task: asyncio.Task[None] = asyncio.create_task(self._elector.run())

    @property
    def leads(self) -> bool:
        return self in self._leading

    @property
    def metric(self) -> float | None:
        return self.metrics.registry.get_sample_value("retriever_ledger_is_leader")

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _serve(self) -> None:
        self.starts += 1
        self._leading.add(self)
        self.most_at_once = max(self.most_at_once, len(self._leading))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            # As the services do, which close their connections.
            await asyncio.sleep(1)
            self._leading.discard(self)


@in_virtual_time
async def test_a_ledger_alone_wins_and_renews_for_as_long_as_it_runs() -> None:
    ledger = Ledger(Row())

    await asyncio.sleep(1)
    leads_at_once = (ledger.leads, ledger.metric)
    await asyncio.sleep(3_600)

    assert leads_at_once == (True, 1)
    assert (ledger.leads, ledger.starts) == (True, 1)
    # Every three seconds, no less and not much more.
    assert 1_150 < ledger.lease.asked < 1_250
    await ledger.stop()


@in_virtual_time
async def test_a_leader_whose_renewals_fail_stops_its_services_before_its_lease_ends() -> None:
    ledger = Ledger(row := Row())
    await asyncio.sleep(4)
    ends_at = row.held_until

    ledger.lease.is_away = True
    await asyncio.sleep(ends_at - asyncio.get_running_loop().time() - 0.1)

    assert (ledger.leads, ledger.metric) == (False, 0)
    await ledger.stop()


@in_virtual_time
async def test_the_time_is_measured_from_before_a_renewal_whose_answer_comes_late() -> None:
    ledger = Ledger(Row())
    await asyncio.sleep(1)
    ledger.lease.answer_seconds = 5.0

    # Asked at 3 s, answered at 8 s: trusted until 13 s. Asked again at 11 s, and that answer is too late.
    await asyncio.sleep(11)
    until_then = ledger.leads
    await asyncio.sleep(2.5)

    assert (until_then, ledger.leads) == (True, False)
    await ledger.stop()


@in_virtual_time
async def test_a_store_that_is_back_in_time_costs_no_leadership() -> None:
    ledger = Ledger(Row())
    await asyncio.sleep(1)

    ledger.lease.is_away = True
    await asyncio.sleep(STEPS_DOWN_AFTER - 4)
    ledger.lease.is_away = False
    await asyncio.sleep(60)

    assert (ledger.leads, ledger.starts) == (True, 1)
    await ledger.stop()


@in_virtual_time
async def test_a_ledger_whose_store_was_away_for_long_leads_again() -> None:
    ledger = Ledger(Row())
    await asyncio.sleep(1)

    ledger.lease.is_away = True
    await asyncio.sleep(600)
    meanwhile = ledger.leads
    ledger.lease.is_away = False
    await asyncio.sleep(4)

    assert (meanwhile, ledger.leads, ledger.starts) == (False, True, 2)
    await ledger.stop()


@in_virtual_time
async def test_a_leader_whose_lease_another_has_taken_steps_down_when_it_hears_of_it() -> None:
    # As after a step of the wall clock.
    ledger = Ledger(row := Row())
    await asyncio.sleep(1)

    row.holder, row.held_until = "another", 60.0
    await asyncio.sleep(4)

    assert (ledger.leads, ledger.metric) == (False, 0)
    await ledger.stop()


@in_virtual_time
async def test_a_leader_that_stops_resigns_and_the_next_leads_within_one_period() -> None:
    row, leading = Row(), set[Ledger]()
    first = Ledger(row, leading)
    await asyncio.sleep(1)
    second = Ledger(row, leading)
    await asyncio.sleep(60)
    before = (first.leads, second.leads)

    await first.stop()
    await asyncio.sleep(3.1)

    assert (before, first.leads, second.leads) == ((True, False), False, True)
    assert second.most_at_once == 1
    await second.stop()


@in_virtual_time
@pytest.mark.parametrize("falls_silent_after", [3.5, 4.0, 5.9, 6.1, 8.0])
async def test_a_leader_that_falls_silent_is_followed_within_its_lease_and_never_are_there_two(
    falls_silent_after: float,
) -> None:
    row, leading = Row(), set[Ledger]()
    first = Ledger(row, leading)
    await asyncio.sleep(0.5)
    second = Ledger(row, leading)
    await asyncio.sleep(falls_silent_after)

    first.lease.is_away = True
    ends_at = row.held_until
    await asyncio.sleep(ends_at - asyncio.get_running_loop().time() + 3.1)

    assert (first.leads, second.leads) == (False, True)
    assert max(first.most_at_once, second.most_at_once) == 1
    for ledger in (first, second):
        await ledger.stop()


@in_virtual_time
async def test_a_service_that_fails_fails_the_elector_and_its_lease_is_given_up() -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError("a fault of ours")

    lease = FakeLease(Row())
    elector = Elector(lease, [fail], metrics=LedgerMetrics())

    with pytest.raises(ExceptionGroup) as caught:
        await elector.run()

    assert caught.group_contains(ValueError) and lease.row.holder is None


@in_virtual_time
async def test_a_service_that_has_nothing_to_do_may_return() -> None:
    async def return_at_once() -> None:
        pass

    lease = FakeLease(Row())
    task = asyncio.create_task(Elector(lease, [return_at_once], metrics=LedgerMetrics()).run())
    await asyncio.sleep(60)

    assert not task.done() and lease.row.holder is lease
    task.cancel()
    await asyncio.wait([task])


class SlowStore:
    """A store whose calls take so many seconds, and are done at their end; a call cannot be cancelled."""

    def __init__(self, seconds: float, *, is_away: bool = False) -> None:
        self.done: list[object] = []
        self._seconds = seconds
        self._is_away = is_away

    async def write(self, change: object, *_: object, **__: object) -> bool:
        await asyncio.shield(asyncio.ensure_future(self._do(change)))
        return True

    async def _do(self, change: object) -> None:
        await asyncio.sleep(self._seconds)
        if self._is_away:
            raise StoreUnavailable("the store is away")
        self.done.append(change)


def lease_in(store: SlowStore) -> Lease:
    return Lease(cast("Store", store), "leader", seconds=LEASE_SECONDS)


@in_virtual_time
async def test_a_lease_is_not_released_before_a_call_that_may_still_take_it() -> None:
    lease = lease_in(store := SlowStore(2.0))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await lease.hold()
    await lease.release()

    assert store.done == [hold_lease_from_now, release_lease]


@in_virtual_time
@pytest.mark.parametrize("store", [SlowStore(0.1, is_away=True), SlowStore(600.0)])
async def test_a_store_that_is_away_or_hangs_keeps_nobody_from_stopping(store: SlowStore) -> None:
    lease = lease_in(store)
    holding = asyncio.create_task(lease.hold())
    await asyncio.sleep(0.05)
    holding.cancel()

    await asyncio.wait_for(lease.release(), 4)

    assert store.done == []
