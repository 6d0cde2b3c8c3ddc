"""The rates of callers in one API process: what it tells others, and what it does without the store."""

from collections.abc import Mapping
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from producer.api.problems import HttpProblem
from producer.api.rate_limits import RateHeaders, RateLimits
from producer.api.refusals import Refusals
from producer.callers import NOBODY, Caller
from producer.rates import LAPSES_SECONDS
from producer.store.database import Store
from shared.errors import StoreUnavailable
from shared.settings import Settings

RATE = 100
CI = Caller("key:ci", None, frozenset(), RATE)
TICK = 0.1


class OtherProcesses:
    """A store in which other processes say what they are asked for; it may be away."""

    def __init__(self) -> None:
        self.is_up = True
        self.others: Mapping[str, float] = {}
        self.told: list[Mapping[str, float]] = []

    async def write(self, _change: object, _process: object, asked: Mapping[str, float], **_: object) -> Any:
        if not self.is_up:
            raise StoreUnavailable("It is away.")
        self.told.append(asked)
        return self.others


class Process:
    """One API process, on a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.store = OtherProcesses()
        self.limits = RateLimits(
            cast("Store", self.store), Settings(**settings), Refusals(), clock=lambda: self.now
        )

    async def ask(self, caller: Caller, *, times: int, address: str = "127.0.0.1") -> int:
        """Send requests, evenly over a tick, and return how many are let in."""
        let_in = 0

        async def app(scope: Scope, receive: Receive, _send: Send) -> None:
            nonlocal let_in
            try:
                self.limits.charge(caller, Request(scope, receive))
            except HttpProblem:
                return
            let_in += 1

        for _ in range(times):
            scope = {"type": "http", "client": (address, 1), "headers": []}
            await RateHeaders(app)(scope, _nothing, _nowhere)
            self.now += TICK / times
        return let_in

    async def run(self, caller: Caller, *, times: int, ticks: int) -> int:
        """Do so for some ticks, with an exchange after each; one that fails is passed over, as `run` does."""
        let_in = 0
        for _ in range(ticks):
            let_in += await self.ask(caller, times=times)
            try:
                await self.limits.exchange()
            except StoreUnavailable:
                continue
        return let_in


async def _nothing() -> Message:
    raise AssertionError("nobody reads")


async def _nowhere(_message: Message) -> None:
    raise AssertionError("nobody answers")


async def test_a_process_keeps_its_part_of_a_rate_while_the_store_is_away() -> None:
    process = Process()
    process.store.others = {"key:ci": 300.0}
    await process.run(CI, times=10, ticks=20)
    shared = await process.run(CI, times=10, ticks=50)

    process.store.is_up = False
    alone = await process.run(CI, times=10, ticks=50)

    assert shared == pytest.approx(125, abs=2)
    assert alone == shared


async def test_nothing_is_told_of_callers_who_send_little_or_have_no_limit() -> None:
    process = Process(key_rate_per_second=0)

    await process.run(Caller("key:free", None, frozenset()), times=50, ticks=10)
    await process.run(Caller("key:small", None, frozenset(), 1_000), times=1, ticks=10)
    assert process.store.told == []

    await process.run(CI, times=10, ticks=1)
    assert [list(asked) for asked in process.store.told] == [["key:ci"]]


async def test_who_has_become_quiet_is_told_once_more_and_forgotten() -> None:
    process = Process()
    await process.run(CI, times=10, ticks=3)
    process.store.told.clear()

    for _ in range(100):
        process.now += TICK
        await process.limits.exchange()

    assert process.now > LAPSES_SECONDS
    assert process.store.told[-1] == {}
    assert process.store.told.count({}) == 1


async def test_callers_do_not_take_from_each_other() -> None:
    process = Process(address_rate_per_second=20)
    await process.run(CI, times=100, ticks=5)

    assert await process.ask(Caller("key:other", None, frozenset(), RATE), times=10) == 10
    assert await process.ask(NOBODY, times=2) == 2
    assert await process.ask(NOBODY, times=20) < 20
    assert await process.ask(NOBODY, times=2, address="127.0.0.2") == 2


async def test_a_key_that_gets_another_rate_has_it_at_once() -> None:
    process = Process()
    await process.run(CI, times=100, ticks=5)

    assert await process.ask(Caller("key:ci", None, frozenset(), 10_000), times=100) == 100
