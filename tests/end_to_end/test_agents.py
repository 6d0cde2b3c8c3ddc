"""Twenty agents on one queue through two APIs: each task is held by one agent at a time, and none is lost.

`AGENT_TASKS=5000 pytest tests/end_to_end/test_agents.py` has as many tasks as the figures in docs/agents.md.
"""

import asyncio
import os
import random
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from consumer.agent.agent import Agent, Pace
from consumer.agent.metrics import AgentMetrics
from consumer.agent.task_api import End, Lease, PickedTask, TaskApi
from shared.errors import LeaseLost
from shared.kinds.command import OutputSnapshot
from shared.kinds.task import PickOrder
from shared.outcomes import Succeeded
from tests.support.agents import agent_process
from tests.support.client import Client, Json
from tests.support.lease_log import Grant, LeaseLog, logged_api
from tests.support.system import System
from tests.support.waiting import eventually

TASKS = int(os.environ.get("AGENT_TASKS", "100"))
LIGHT_AGENTS = 15
KILLED = ("killed-1", "killed-2", "killed-3")
FROZEN = "frozen"
PROCESSES = (*KILLED, FROZEN, "well")
LEASE_SECONDS = 4
OPTIONS = ("--lease", f"{LEASE_SECONDS}s", "--wait", "2s", "--poll-interval", "200ms")
NEWEST_TASKS = 120
SUBMITTERS = 4
DEADLINE_SECONDS = 120 + TASKS / 10
# What agents that die or freeze leave behind takes attempts, and nothing of that shall park a task.
RETRY = {"max_attempts": 100, "first_delay_seconds": 0.1, "max_delay_seconds": 0.1}


@pytest.fixture(scope="module")
def api_urls(system: System) -> Iterator[tuple[str, str]]:
    """Yield the addresses of two APIs on one store."""
    with system.second_pair() as other_url:
        yield system.api_url, other_url


@dataclass(frozen=True, slots=True)
class Fleet:
    """Agents at work on one queue, where they ask, and what the API granted them."""

    urls: list[str]
    log: LeaseLog
    processes: dict[str, subprocess.Popen[bytes]]

    async def holds(self, agent: str) -> Grant:
        """Return a task that an agent has in hand now."""
        while not (held := self.log.held_by(agent)):
            await self.log.grown()
        return held[-1]

    async def is_granted_again(self, grant: Grant) -> None:
        """Return once a task has been granted anew."""
        while all(
            later.attempt <= grant.attempt for later in self.log.grants if later.task_id == grant.task_id
        ):
            await self.log.grown()


@asynccontextmanager
async def twenty_agents(api_urls: tuple[str, str], queue: str, logs: Path) -> AsyncIterator[Fleet]:
    """Run five agents as processes and then fifteen in this one, and write down what they are granted."""
    log, stop = LeaseLog(), asyncio.Event()
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(logged_api(url, log)) for url in api_urls]
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        processes = {
            name: stack.enter_context(
                agent_process(urls[number % 2], logs, "--name", name, "--queue", queue, *OPTIONS)
            )
            for number, name in enumerate(PROCESSES)
        }
        fleet = Fleet(urls, log, processes)
        for name in PROCESSES:
            await fleet.holds(name)
        async with asyncio.TaskGroup() as group:
            for number in range(LIGHT_AGENTS):
                api = TaskApi(session, urls[number % 2])
                group.create_task(light_agent(f"light-{number}", api, queue).run(stop))
            try:
                yield fleet
            finally:
                stop.set()


def light_agent(name: str, api: TaskApi, queue: str) -> Agent:
    """Return the shipped agent, but for its work, which is nothing."""
    pace = Pace(
        queue=queue,
        order=PickOrder.OLDEST,
        limit=1,
        lease_seconds=30,
        wait_seconds=5,
        poll_seconds=0.2,
        grace_seconds=5,
    )
    return Agent(name=name, pace=pace, api=api, work=do_nothing, metrics=AgentMetrics())


async def do_nothing(_task: PickedTask, _show: Callable[[OutputSnapshot], None]) -> End:
    return Succeeded({"exit_code": 0})


async def test_twenty_agents_finish_all_tasks_though_some_are_killed_and_one_freezes(
    client: Client, api_urls: tuple[str, str], tmp_path: Path
) -> None:
    queue = f"agents-{uuid.uuid4().hex[:8]}"
    batch_id = await submit_tasks(client, queue, TASKS)

    async with asyncio.timeout(DEADLINE_SECONDS), twenty_agents(api_urls, queue, tmp_path) as fleet:
        async with asyncio.TaskGroup() as group:
            freezing = group.create_task(freeze_past_its_lease(fleet))
            killing = [group.create_task(kill_at_random(fleet, name)) for name in KILLED]
        batch = await finished_batch(client, batch_id)

    grants, jobs = fleet.log.by_task(), await jobs_of(client, batch_id)
    assert batch["counts"]["succeeded"] == batch["total"] == len(jobs) == TASKS, batch["counts"]
    # None is lost, and each has one end that counted.
    assert set(grants) == set(jobs)
    assert Counter(sum(grant.end is not None for grant in held) for held in grants.values()) == {1: TASKS}
    for task_id, held in grants.items():
        assert_held_by_one_at_a_time(held, jobs[task_id])
    # What agents took with them came back when its lease had run out.
    frozen = freezing.result()
    for grant in [frozen, *(killed.result() for killed in killing)]:
        if grant.end is None:
            attempt = jobs[grant.task_id]["attempts"][grant.attempt - 1]
            assert (attempt["outcome"], attempt["reason"]) == ("failed_transient", "lease_expired")
    # And nothing of what was said of it afterwards was done.
    assert frozen.end is None and {call.name for call in frozen.refused} >= {"finish"}


def assert_held_by_one_at_a_time(grants: list[Grant], job: Json) -> None:
    """Check a task by what the API recorded, and by what it granted."""
    attempts = job["attempts"]
    assert [attempt["number"] for attempt in attempts] == list(range(1, len(attempts) + 1))
    for earlier, later in pairwise(attempts):
        assert datetime.fromisoformat(earlier["ended_at"]) <= datetime.fromisoformat(later["started_at"])
    for held, next_held in pairwise(grants):
        assert held.attempt < next_held.attempt
        # By the API's own words it was over before the next could be given out,
        assert held.held_until <= next_held.answered_at
        # and what was asked with its token since was not done.
        late = [call for call in held.calls if call.sent_at > next_held.answered_at]
        assert all(call.status == 409 for call in late)


async def kill_at_random(fleet: Fleet, name: str) -> Grant:
    """SIGKILL an agent at any moment of its work; return what it had in hand."""
    await asyncio.sleep(random.uniform(0, 0.5))
    grant = await fleet.holds(name)
    fleet.processes[name].send_signal(signal.SIGKILL)
    return grant


async def freeze_past_its_lease(fleet: Fleet) -> Grant:
    """SIGSTOP an agent that has a task, until somebody else has it; return what it held, and lost."""
    while True:
        grant = await fleet.holds(FROZEN)
        fleet.processes[FROZEN].send_signal(signal.SIGSTOP)
        # It does a task for a second; should it have been done by then, the end was on its way.
        await asyncio.sleep(LEASE_SECONDS)
        if grant.end is None:
            break
        fleet.processes[FROZEN].send_signal(signal.SIGCONT)
    await fleet.is_granted_again(grant)
    fleet.processes[FROZEN].send_signal(signal.SIGCONT)
    # By its own clock it knows that it is too late, and may say nothing. One that did not know would hear it.
    async with aiohttp.ClientSession() as session:
        task = PickedTask(id=UUID(grant.task_id), attempt=grant.attempt, lease=Lease(token=grant.token))
        for url in fleet.urls:
            with pytest.raises(LeaseLost):
                await TaskApi(session, url).report(task, Succeeded({"exit_code": 0}))
    return grant


async def test_newest_first_is_strict_while_tasks_come_in(client: Client, api_urls: tuple[str, str]) -> None:
    queue, stored, picked = f"newest-{uuid.uuid4().hex[:8]}", set[str](), list[str]()
    has_submitted, remaining = asyncio.Event(), set[str]()

    async def submit(url: str) -> None:
        for _ in range(NEWEST_TASKS // SUBMITTERS):
            answer = await client.http.post(f"{url}/tasks", json={"queue": queue, "command": ["true"]})
            assert answer.status_code == 202, answer.text
            stored.add(answer.json()["id"])

    async def pick_all(api: TaskApi) -> None:
        while not has_submitted.is_set() or len(picked) < NEWEST_TASKS:
            # What is answered by now is there to be picked; what comes meanwhile may be.
            waiting = stored - set(picked)
            if has_submitted.is_set() and not remaining:
                remaining.update(waiting)
            for task in await pick_newest(api, queue):
                assert not waiting or str(task.id) >= max(waiting)
                picked.append(str(task.id))
                await api.report(task, Succeeded({"exit_code": 0}))

    async with asyncio.timeout(60), aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        picking = group.create_task(pick_all(TaskApi(session, api_urls[0])))
        async with asyncio.TaskGroup() as submitters:
            for number in range(SUBMITTERS):
                submitters.create_task(submit(api_urls[number % 2]))
        has_submitted.set()
        await picking

    assert Counter(picked) == Counter(stored)
    # Nothing came any more, so the rest left in exactly the order of the last in, first out.
    last = [task_id for task_id in picked if task_id in remaining]
    assert last == sorted(last, reverse=True)


async def pick_newest(api: TaskApi, queue: str) -> list[PickedTask]:
    return await api.pick(
        queue=queue, agent="lifo", limit=1, order=PickOrder.NEWEST, wait_seconds=0, lease_seconds=60
    )


async def submit_tasks(client: Client, queue: str, number: int) -> str:
    """Hand in tasks of a second each as one batch; return its id."""
    item = {"queue": queue, "command": {"argv": ["sleep", "1"]}}
    batch = {"kind": "task", "items": [item] * number, "retry": RETRY, "dedupe": False}
    answer = await client.http.post("/batches", json=batch)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def finished_batch(client: Client, batch_id: str) -> Json:
    """Return a batch once all its jobs have ended."""

    async def look() -> Json | None:
        batch: Json = (await client.http.get(f"/batches/{batch_id}")).json()
        return batch if batch["finished_at"] else None

    return await eventually(look, deadline_seconds=DEADLINE_SECONDS)


async def jobs_of(client: Client, batch_id: str) -> dict[str, Json]:
    """Return the jobs of a batch, with their attempts, by their ids."""
    ids: list[str] = []
    query: dict[str, Any] = {"batch": batch_id, "limit": 1_000}
    while True:
        page = (await client.http.get("/jobs", params=query)).json()
        ids += [job["id"] for job in page["items"]]
        if not page["next"]:
            break
        query["cursor"] = page["next"]
    turns = asyncio.Semaphore(32)

    async def get(job_id: str) -> Json:
        async with turns:
            return await client.job(job_id)

    return {job["id"]: job for job in await asyncio.gather(*map(get, ids))}
