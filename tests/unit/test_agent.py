"""The agent's loop: how much it takes, when it rests, how it drains and how it stops. Time is virtual."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from consumer.agent.agent import Agent, Pace
from consumer.agent.metrics import AgentMetrics
from consumer.agent.task_api import ApiUnavailable, End, PickedTask, RequestRefused
from shared.errors import DrainGivenUp, DrainStopped
from shared.kinds.command import OutputSnapshot
from shared.kinds.task import PickOrder
from shared.outcomes import Failed, Succeeded
from tests.support.task_api import FakeTaskApi, make_picked_task
from tests.support.virtual_time import run_in_virtual_time

DONE = Succeeded({"output": 7})


def make_pace(
    *,
    limit: int = 1,
    wait_seconds: float = 0,
    poll_seconds: float = 5,
    grace_seconds: float = 30,
    is_draining: bool = False,
) -> Pace:
    return Pace(
        queue="default",
        order=PickOrder.OLDEST,
        limit=limit,
        lease_seconds=60,
        wait_seconds=wait_seconds,
        poll_seconds=poll_seconds,
        grace_seconds=grace_seconds,
        is_draining=is_draining,
    )


class Lines:
    """Work that takes a second a task, or as long as it is told, and knows how much of it runs at once."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.running = self.most = 0

    async def __call__(self, task: PickedTask, show: Callable[[OutputSnapshot], None]) -> End:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        return DONE


def make_agent(api: FakeTaskApi, pace: Pace, work: Lines | None = None) -> Agent:
    return Agent(name="a-1", pace=pace, api=api, work=work or Lines(), metrics=AgentMetrics())


async def run_until(agent: Agent, seen: Coroutine[Any, Any, object]) -> float:
    """Run an agent, stop it when something was seen, and return how long it took to stop."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run(stop))
        await seen
        stop.set()
        asked_at = asyncio.get_running_loop().time()
    return asyncio.get_running_loop().time() - asked_at


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Return a test that pytest runs, without waiting."""

    def run() -> None:
        run_in_virtual_time(test())

    return run


@in_virtual_time
async def test_an_agent_does_one_task_after_the_other() -> None:
    tasks, work = [make_picked_task() for _ in range(3)], Lines()
    api = FakeTaskApi(tasks)

    await run_until(make_agent(api, make_pace(), work), api.ended(3))

    assert [task for task, _ in api.ends] == tasks
    assert work.most == 1


@in_virtual_time
async def test_an_agent_holds_as_many_tasks_as_it_may_and_asks_for_no_more() -> None:
    api, work = FakeTaskApi([make_picked_task() for _ in range(7)]), Lines()

    await run_until(make_agent(api, make_pace(limit=3), work), api.ended(7))

    assert work.most == 3
    assert max(api.limits) == 3


@in_virtual_time
async def test_an_agent_that_polls_rests_between_two_empty_answers() -> None:
    api = FakeTaskApi()

    await run_until(make_agent(api, make_pace(poll_seconds=5)), asyncio.sleep(51))

    assert api.calls["pick"] == 11


@in_virtual_time
async def test_an_agent_that_waited_for_an_empty_answer_asks_again_at_once() -> None:
    api = FakeTaskApi()

    await run_until(make_agent(api, make_pace(wait_seconds=20, poll_seconds=5)), asyncio.sleep(61))

    # The first one asks only whether the API answers.
    assert api.calls["pick"] == 5


@in_virtual_time
async def test_a_task_that_comes_during_a_wait_is_taken_at_once() -> None:
    api = FakeTaskApi()
    asyncio.get_running_loop().call_later(7, api.add, make_picked_task())

    await run_until(make_agent(api, make_pace(wait_seconds=20), Lines(seconds=0)), api.ended())

    assert asyncio.get_running_loop().time() == 7


@in_virtual_time
async def test_an_agent_waits_longer_each_time_that_the_api_does_not_answer() -> None:
    api = FakeTaskApi()
    api.is_away = True

    await run_until(make_agent(api, make_pace(poll_seconds=5)), asyncio.sleep(600))

    # 5 s, 10 s and so on up to a minute, half of each random; every five seconds would be 120.
    assert 10 <= api.calls["pick"] <= 25


@in_virtual_time
async def test_an_agent_waits_as_long_as_the_api_asks_for() -> None:
    api = FakeTaskApi()
    api.errors = {"pick": deque([ApiUnavailable("busy", retry_after_seconds=45)])}

    await run_until(make_agent(api, make_pace(wait_seconds=20)), api.called("pick", 2))

    assert asyncio.get_running_loop().time() == 45


@in_virtual_time
async def test_an_agent_is_ready_when_the_api_has_answered_its_last_pick() -> None:
    api = FakeTaskApi()
    api.errors = {"pick": deque([RequestRefused("queue: is no name")])}
    agent = make_agent(api, make_pace(poll_seconds=5))
    seen: list[object] = [agent.probes["api"]()]

    async def look() -> None:
        await asyncio.sleep(1)
        seen.append((agent.probes["api"](), agent.problem))
        await asyncio.sleep(5)
        seen.append((agent.probes["api"](), agent.problem))

    await run_until(agent, look())

    assert seen == [False, (False, "queue: is no name"), (True, None)]


@in_virtual_time
async def test_an_agent_without_a_task_is_ready_as_soon_as_the_api_answers() -> None:
    api = FakeTaskApi()
    agent = make_agent(api, make_pace(wait_seconds=20, poll_seconds=5))
    seen: list[bool] = []

    async def look() -> None:
        await asyncio.sleep(1)
        seen.append(agent.probes["api"]())
        api.is_away = True
        await asyncio.sleep(30)
        seen.append(agent.probes["api"]())
        api.is_away = False
        # It rests for a minute at most, and then does not wait for a task before it is well.
        await asyncio.sleep(61)
        seen.append(agent.probes["api"]())

    await run_until(agent, look())

    assert seen == [True, False, True]


@in_virtual_time
async def test_a_stopped_agent_takes_no_more_and_lets_its_task_end() -> None:
    api = FakeTaskApi([make_picked_task() for _ in range(2)])

    took = await run_until(make_agent(api, make_pace(), Lines(seconds=20)), asyncio.sleep(5))

    assert [end for _, end in api.ends] == [DONE]
    assert (took, len(api.waiting)) == (15, 1)


@in_virtual_time
async def test_a_stopped_agent_gives_back_what_is_not_done_within_the_grace_period() -> None:
    api = FakeTaskApi([make_picked_task()])

    took = await run_until(make_agent(api, make_pace(grace_seconds=30), Lines(1_000)), asyncio.sleep(5))

    [(_, end)] = api.ends
    assert isinstance(end, Failed) and (end.reason, end.transient) == ("agent_stopped", True)
    assert took == 30


@in_virtual_time
async def test_a_stopped_agent_does_not_wait_for_an_api_that_is_away() -> None:
    api = FakeTaskApi([make_picked_task()])

    async def goes_away() -> None:
        await asyncio.sleep(5)
        api.is_away = True

    took = await run_until(make_agent(api, make_pace(grace_seconds=30), Lines(1_000)), goes_away())

    assert took <= 40


@in_virtual_time
async def test_a_stopped_agent_waits_for_no_task() -> None:
    api = FakeTaskApi()

    took = await run_until(make_agent(api, make_pace(wait_seconds=20)), asyncio.sleep(5))

    assert took == 0


@in_virtual_time
async def test_an_agent_that_drains_ends_after_its_last_task() -> None:
    api = FakeTaskApi([make_picked_task() for _ in range(5)])

    await make_agent(api, make_pace(limit=2, wait_seconds=20, is_draining=True)).run(asyncio.Event())

    assert len(api.ends) == 5
    assert asyncio.get_running_loop().time() == 3


@in_virtual_time
async def test_an_agent_that_drains_takes_what_comes_while_its_last_task_runs() -> None:
    api = FakeTaskApi([make_picked_task()])
    asyncio.get_running_loop().call_later(5, api.add, make_picked_task())

    pace = make_pace(limit=2, is_draining=True)
    await make_agent(api, pace, Lines(seconds=10)).run(asyncio.Event())

    assert len(api.ends) == 2


@in_virtual_time
async def test_an_agent_cannot_drain_without_the_api() -> None:
    api = FakeTaskApi()
    api.is_away = True

    with pytest.raises(DrainGivenUp, match="nobody listens"):
        await make_agent(api, make_pace(is_draining=True)).run(asyncio.Event())

    assert asyncio.get_running_loop().time() <= 15


@in_virtual_time
async def test_an_agent_that_is_stopped_has_not_drained() -> None:
    api, stop = FakeTaskApi([make_picked_task(), make_picked_task()]), asyncio.Event()
    asyncio.get_running_loop().call_later(1, stop.set)

    with pytest.raises(DrainStopped):
        await make_agent(api, make_pace(is_draining=True), Lines(seconds=2)).run(stop)

    assert len(api.ends) == 1


@in_virtual_time
async def test_an_agent_counts_what_it_picked_ended_and_lost() -> None:
    kept, lost = make_picked_task(), make_picked_task()
    api, metrics = FakeTaskApi([kept, lost]), AgentMetrics()
    api.lost.add(lost.id)
    agent = Agent(name="a", pace=make_pace(is_draining=True), api=api, work=Lines(), metrics=metrics)

    await agent.run(asyncio.Event())

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"queue": "default", **labels})

    assert value("retriever_agent_picked_total") == 2
    assert value("retriever_agent_finished_total", outcome="succeeded") == 1
    assert value("retriever_agent_leases_lost_total") == 1
    assert value("retriever_agent_task_seconds_count", outcome="succeeded") == 1
    assert value("retriever_agent_tasks_in_hand") == 0
