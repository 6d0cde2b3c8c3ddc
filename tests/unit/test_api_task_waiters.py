"""Agents that wait for tasks: who is called, in which order, and that no call is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from producer.api.task_waiters import TaskWaiters
from shared.errors import StoreUnavailable

LONG = 600.0
IN_TIME = 10.0


class FakeStore:
    """Queues of tasks, what is announced of them, and how often somebody has looked."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[str]] = {}
        self.announced: asyncio.Queue[str] = asyncio.Queue()
        self.looks: list[str] = []
        self.asked: list[list[str]] = []
        self.listens = 0
        self.is_away = False
        # Held by a test to keep looks from ending.
        self.may_look = asyncio.Event()
        self.may_look.set()

    def add(self, queue: str, *tasks: str, is_announced: bool = True) -> None:
        self.tasks.setdefault(queue, []).extend(tasks)
        if is_announced:
            self.announced.put_nowait(queue)

    async def pick(self, queue: str, agent: str, limit: int = 1) -> list[str]:
        self.looks.append(agent)
        if self.is_away:
            raise StoreUnavailable("away")
        held = self.tasks.setdefault(queue, [])
        picked, self.tasks[queue] = held[:limit], held[limit:]
        await self.may_look.wait()
        return picked

    async def find_ready(self, queues: Sequence[str]) -> list[str]:
        self.asked.append(list(queues))
        return [queue for queue in queues if self.tasks.get(queue)]

    # What a wakeup does.

    async def wait(self, _timeout_seconds: float) -> frozenset[str]:
        self.listens += 1
        return frozenset({await self.announced.get()} - {""})

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def waiters_on(store: FakeStore) -> AsyncIterator[TaskWaiters]:
    waiters = TaskWaiters(store, store.find_ready)
    running = asyncio.create_task(waiters.run())
    try:
        yield waiters
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Agent:
    """One request of an agent."""

    def __init__(
        self,
        waiters: TaskWaiters,
        store: FakeStore,
        name: str,
        *,
        queue: str = "films",
        wait_seconds: float = LONG,
        limit: int = 1,
    ) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = asyncio.create_task(
            waiters.take(
                queue, lambda: store.pick(queue, name, limit), wait_seconds=wait_seconds, gone=self.gone
            )
        )

    async def answer(self) -> Sequence[str]:
        async with asyncio.timeout(IN_TIME):
            return await self._request

    @property
    def is_answered(self) -> bool:
        return self._request.done()

    def cancel(self) -> None:
        self._request.cancel()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def agents(waiters: TaskWaiters, store: FakeStore, *names: str) -> list[Agent]:
    """Return agents that came one after the other."""
    came = []
    for name in names:
        came.append(Agent(waiters, store, name))
        await settle()
    return came


async def test_an_agent_gets_a_task_that_is_there_at_once() -> None:
    store = FakeStore()
    store.add("films", "a", is_announced=False)
    async with waiters_on(store) as waiters:
        assert await Agent(waiters, store, "ann").answer() == ["a"]


async def test_who_does_not_wait_gets_nothing_at_once() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        assert await Agent(waiters, store, "ann", wait_seconds=0).answer() == ()
        assert store.looks == ["ann"]


async def test_a_wait_that_is_over_brings_nothing() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        assert await Agent(waiters, store, "ann", wait_seconds=0.02).answer() == ()
        assert len(waiters) == 0


async def test_a_task_goes_to_who_has_waited_longest_and_nobody_else_looks() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann, bob, cem = await agents(waiters, store, "ann", "bob", "cem")
        store.add("films", "a")

        assert await ann.answer() == ["a"]
        await settle()
        # Ann looked when she came and when she was called; then it was Bob's turn, for there might be more.
        assert store.looks == ["ann", "ann", "bob"]
        assert not bob.is_answered
        assert not cem.is_answered

        store.add("films", "b")
        assert await bob.answer() == ["b"]


async def test_one_announcement_of_many_tasks_calls_one_agent_after_the_other() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        waiting = await agents(waiters, store, *"abcde")
        store.add("films", "1", "2", "3", "4", "5")

        assert [await each.answer() for each in waiting] == [["1"], ["2"], ["3"], ["4"], ["5"]]


async def test_who_comes_while_others_wait_does_not_look_and_does_not_overtake() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann, bob = await agents(waiters, store, "ann", "bob")

        assert store.looks == ["ann"]
        store.add("films", "a")
        assert await ann.answer() == ["a"]
        assert not bob.is_answered


async def test_who_found_nothing_keeps_the_place() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann, bob = await agents(waiters, store, "ann", "bob")
        # Another API process was faster.
        store.announced.put_nowait("films")
        await settle()

        store.add("films", "a")
        assert await ann.answer() == ["a"]
        assert not bob.is_answered


async def test_a_task_that_is_announced_during_a_look_is_looked_for_again() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        store.may_look.clear()
        ann = Agent(waiters, store, "ann")
        await settle()
        store.add("films", "a")
        await settle()

        store.may_look.set()
        assert await ann.answer() == ["a"]


async def test_queues_do_not_meet() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann = Agent(waiters, store, "ann", queue="mail")
        (bob,) = await agents(waiters, store, "bob")
        store.add("films", "a")

        assert await bob.answer() == ["a"]
        assert not ann.is_answered


async def test_where_nobody_tells_the_store_is_asked_once_for_all_who_wait() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann = Agent(waiters, store, "ann", queue="mail")
        bob, cem = await agents(waiters, store, "bob", "cem")
        store.add("films", "a", is_announced=False)
        store.announced.put_nowait("")

        assert await bob.answer() == ["a"]
        assert store.asked == [["mail", "films"]]
        assert not (ann.is_answered or cem.is_answered)


async def test_the_store_is_asked_now_and_then_although_other_queues_are_told_of_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TaskWaiters, "look_seconds", 0.0)
    store = FakeStore()
    async with waiters_on(store) as waiters:
        [ann] = await agents(waiters, store, "ann")
        store.add("films", "a", is_announced=False)

        store.announced.put_nowait("books")

        assert await ann.answer() == ["a"]


async def test_nobody_is_asked_for_before_an_agent_comes() -> None:
    store = FakeStore()
    async with waiters_on(store):
        store.announced.put_nowait("")
        await settle()

        assert (store.listens, store.asked) == (0, [])


async def test_an_agent_that_left_is_not_called_and_its_call_goes_to_the_next() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann, bob, cem = await agents(waiters, store, "ann", "bob", "cem")
        ann.gone.set_result(None)
        # Bob leaves in the moment in which he is called.
        store.add("films", "a")
        bob.gone.set_result(None)

        assert await cem.answer() == ["a"]
        assert [await ann.answer(), await bob.answer()] == [(), ()]
        assert store.looks == ["ann", "cem"]


async def test_an_agent_that_leaves_during_its_look_leaves_it_to_the_next() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann, bob = await agents(waiters, store, "ann", "bob")
        store.may_look.clear()
        store.announced.put_nowait("films")
        await settle()
        assert store.looks == ["ann", "ann"]

        ann.gone.set_result(None)

        assert await ann.answer() == ()
        await settle()
        assert store.looks == ["ann", "ann", "bob"]
        bob.cancel()


async def test_a_request_that_is_cancelled_leaves_its_call_to_the_next() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann, bob, cem = await agents(waiters, store, "ann", "bob", "cem")
        store.may_look.clear()
        store.announced.put_nowait("films")
        await settle()
        # Ann looks, Bob waits.
        ann.cancel()
        bob.cancel()
        await settle()
        store.may_look.set()
        store.add("films", "a")

        assert await cem.answer() == ["a"]
        assert len(waiters) == 0


async def test_a_look_that_fails_is_told_and_does_not_keep_the_next_from_looking() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        ann, bob = await agents(waiters, store, "ann", "bob")
        store.is_away = True
        store.announced.put_nowait("films")

        for agent in (ann, bob):
            with pytest.raises(StoreUnavailable):
                await agent.answer()
        store.is_away = False
        store.add("films", "a")
        assert await Agent(waiters, store, "cem").answer() == ["a"]


async def test_closing_lets_all_go_at_once_and_who_comes_later_looks_once() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        waiting = await agents(waiters, store, "ann", "bob")
        waiters.close()

        assert [await each.answer() for each in waiting] == [(), ()]
        assert await Agent(waiters, store, "cem").answer() == ()
        store.add("films", "a", is_announced=False)
        assert await Agent(waiters, store, "dan").answer() == ["a"]


async def test_many_agents_and_many_tasks_meet_whatever_the_order() -> None:
    store = FakeStore()
    async with waiters_on(store) as waiters:
        working = [Agent(waiters, store, str(number), limit=1 + number % 3) for number in range(60)]
        for number in range(200):
            store.add("films", str(number))
            await asyncio.sleep(0)

        answers = [await agent.answer() for agent in working]

    assert all(answers)
    found = [task for answer in answers for task in answer]
    # Whoever was called took the oldest that were left.
    assert sorted(found, key=int) == [str(number) for number in range(len(found))]
