"""Waiting for ends: one look for all who wait, none missed, none kept when the service stops."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest

from producer.api import end_waiters
from producer.api.end_waiters import EndWaiters, Waited, first_of
from producer.store.wakeup import ENDED
from shared.errors import StoreUnavailable

LONG = 600.0
IN_TIME = 10.0


class FakeStore:
    """What has ended, what is announced, and who asked for what."""

    def __init__(self) -> None:
        self.ended: set[UUID] = set()
        self.announced: asyncio.Queue[str] = asyncio.Queue()
        self.asked: list[tuple[Waited, set[UUID]]] = []
        self.is_away = False

    def end(self, *ids: UUID, said: str = ENDED) -> None:
        self.ended.update(ids)
        self.announced.put_nowait(said)

    async def find_ended(self, waited: Waited, ids: Collection[UUID]) -> Collection[UUID]:
        self.asked.append((waited, set(ids)))
        if self.is_away:
            raise StoreUnavailable("away")
        return self.ended & set(ids)

    # What a wakeup does.

    async def wait(self, _timeout_seconds: float) -> frozenset[str]:
        return frozenset({await self.announced.get()} - {"nobody told"})

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def waiters_on(store: FakeStore) -> AsyncIterator[EndWaiters]:
    waiters = EndWaiters(store, store.find_ended)
    running = asyncio.create_task(waiters.run())
    try:
        async with asyncio.timeout(IN_TIME):
            yield waiters
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def wait_for(waiters: EndWaiters, job_id: UUID) -> bool:
    """Return whether the job has ended, as one who waits for very long is told."""
    async with waiters.waiting(Waited.JOB, job_id) as ended:
        await first_of(ended, asyncio.get_running_loop().create_future(), wait_seconds=LONG)
        return ended.is_set()


async def until_waiting(waiters: EndWaiters, number: int) -> None:
    while len(waiters) < number:
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_waiters, "PAUSE_SECONDS", 0.0)


async def test_a_thousand_who_wait_cost_one_look() -> None:
    store, ids = FakeStore(), [uuid4() for _ in range(1_000)]
    async with waiters_on(store) as waiters:
        waiting = [asyncio.create_task(wait_for(waiters, each)) for each in ids]
        await until_waiting(waiters, 1_000)
        store.end(*ids)

        assert all(await asyncio.gather(*waiting))
        assert store.asked == [(Waited.JOB, set(ids))]
        assert len(waiters) == 0


async def test_only_who_waits_for_what_ended_is_told() -> None:
    store, first, second = FakeStore(), uuid4(), uuid4()
    async with waiters_on(store) as waiters:
        tasks = [asyncio.create_task(wait_for(waiters, each)) for each in (first, second)]
        await until_waiting(waiters, 2)
        store.end(first)

        assert await tasks[0]
        assert not tasks[1].done()
        store.end(second)
        assert await tasks[1]


async def test_two_who_wait_for_the_same_are_both_told() -> None:
    store, job_id = FakeStore(), uuid4()
    async with waiters_on(store) as waiters:
        tasks = [asyncio.create_task(wait_for(waiters, job_id)) for _ in range(2)]
        await until_waiting(waiters, 2)
        store.end(job_id)

        assert all(await asyncio.gather(*tasks))


async def test_news_of_new_jobs_are_no_reason_to_look() -> None:
    store, job_id = FakeStore(), uuid4()
    async with waiters_on(store) as waiters:
        task = asyncio.create_task(wait_for(waiters, job_id))
        await until_waiting(waiters, 1)
        store.end(said="nobody told")
        store.end(said="")
        store.end(said="")
        store.end(job_id)

        assert await task
        assert len(store.asked) == 2


async def test_ends_that_an_older_ledger_does_not_name_are_found_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EndWaiters, "look_seconds", 0.0)
    store, job_id = FakeStore(), uuid4()
    async with waiters_on(store) as waiters:
        task = asyncio.create_task(wait_for(waiters, job_id))
        await until_waiting(waiters, 1)
        store.end(job_id, said="")

        assert await task


async def test_a_store_that_was_away_is_asked_again() -> None:
    store, job_id = FakeStore(), uuid4()
    async with waiters_on(store) as waiters:
        task = asyncio.create_task(wait_for(waiters, job_id))
        await until_waiting(waiters, 1)
        store.is_away = True
        store.end(job_id)
        while not store.asked:
            await asyncio.sleep(0)
        store.is_away = False
        store.end()

        assert await task


async def test_all_who_wait_are_let_go_when_the_service_stops_and_nobody_waits_afterwards() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        task = asyncio.create_task(wait_for(waiters, uuid4()))
        await until_waiting(waiters, 1)

        waiters.close()

        await task
        await wait_for(waiters, uuid4())
        async with waiters.following() as told:
            assert told.is_set()


async def test_who_leaves_is_waited_for_no_longer() -> None:
    async with waiters_on(FakeStore()) as waiters:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with waiters.waiting(Waited.BATCH, uuid4()) as ended:
            waiting = asyncio.create_task(first_of(ended, gone, wait_seconds=LONG))
            gone.set_result(None)
            await waiting

            assert not ended.is_set()
        assert len(waiters) == 0


async def test_streams_are_told_of_every_look() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters, waiters.following() as told:
        for _ in range(2):
            told.clear()
            store.end()
            await told.wait()

        assert store.asked == []
