"""Asking whether the store answers: within a time limit, with one thread for a store that hangs."""

import asyncio
import threading
from typing import cast

import pytest

from producer.store.database import Database
from producer.store_probe import StoreProbe
from shared.errors import StoreUnavailable


class FakeStore:
    """A store that answers when it is let go, or fails."""

    def __init__(self, *, error: StoreUnavailable | None = None) -> None:
        self.pings = 0
        self.let_go = threading.Event()
        self._error = error

    def ping(self) -> None:
        self.pings += 1
        self.let_go.wait(30)
        if self._error:
            raise self._error


def probe_of(store: FakeStore) -> StoreProbe:
    return StoreProbe(cast("Database", store), answer_seconds=0.05)


async def test_a_store_that_hangs_is_asked_once_and_not_waited_for() -> None:
    store = FakeStore()
    probe = probe_of(store)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="did not answer within"):
            await probe.ask()

    assert (store.pings, probe.is_answering) == (1, False)
    store.let_go.set()
    while not probe.is_answering:
        try:
            await probe.ask()
        except StoreUnavailable:
            await asyncio.sleep(0.01)


async def test_a_store_that_fails_is_not_answering() -> None:
    store = FakeStore(error=StoreUnavailable("away"))
    store.let_go.set()
    probe = StoreProbe(cast("Database", store))

    with pytest.raises(StoreUnavailable, match="away"):
        await probe.ask()

    assert not probe.is_answering


async def test_the_store_is_asked_while_every_thread_of_the_loop_s_own_pool_waits() -> None:
    store, let_go = FakeStore(), threading.Event()
    store.let_go.set()
    # More than the pool has: min(32, cores + 4).
    waiting = [asyncio.create_task(asyncio.to_thread(let_go.wait, 30)) for _ in range(40)]
    await asyncio.sleep(0)
    probe = StoreProbe(cast("Database", store))

    try:
        await probe.ask()
    finally:
        let_go.set()
        await asyncio.gather(*waiting)

    assert probe.is_answering
