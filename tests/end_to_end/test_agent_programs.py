"""The shipped agent and the one in shell, each as a program at a running API."""

import asyncio
import signal
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.ports import free_port
from tests.support.agents import agent_process, shell_agent
from tests.support.client import Client, Json
from tests.support.stores import on_one_store
from tests.support.waiting import eventually

# Extended each second.
LEASE = ("--lease", "3s")
DEADLINE_SECONDS = 60.0

pytestmark = on_one_store


@pytest.fixture
def queue() -> str:
    """Return the name of a queue that is this test's alone."""
    return f"programs-{uuid.uuid4().hex[:8]}"


async def submit(client: Client, queue: str, **fields: Any) -> str:
    """Hand in a task; return its id."""
    answer = await client.http.post("/tasks", json={"queue": queue, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def task_in(client: Client, task_id: str, *states: str) -> Json:
    """Return a task once it is in one of the states."""

    async def look() -> Json | None:
        task: Json = (await client.http.get(f"/tasks/{task_id}")).json()
        return task if task["state"] in states else None

    return await eventually(look, deadline_seconds=DEADLINE_SECONDS)


async def test_the_shipped_agent_drains_a_queue(client: Client, queue: str, tmp_path: Path) -> None:
    commanded = await submit(client, queue, command=["printf", "hi"])
    failing = await submit(client, queue, command=["false"])
    handled = await submit(client, queue, payload={"id": 7})

    options = ("--queue", queue, "--name", "drainer", "--handler", "cat", "--drain")
    with agent_process(client.system.api_url, tmp_path, *options) as agent:
        assert await asyncio.to_thread(agent.wait, DEADLINE_SECONDS) == 0

    task = await task_in(client, commanded, "succeeded")
    assert (task["stdout"]["text"], task["exit_code"], task["agent"]) == ("hi", 0, "drainer")
    assert (await task_in(client, failing, "parked"))["reason"] == "exit_1"
    assert (await task_in(client, handled, "succeeded"))["output"] == {"id": 7}


async def test_a_stopped_agent_gives_its_task_to_the_next_at_once(
    client: Client, queue: str, tmp_path: Path
) -> None:
    task_id = await submit(client, queue, command=["sleep", "1000"], retry={"first_delay_seconds": 0.1})
    options = ("--queue", queue, "--lease", "1h")

    with agent_process(
        client.system.api_url,
        tmp_path,
        *options,
        settings={"RETRIEVER_WORKER_GRACE_SECONDS": "0"},
    ) as agent:
        await task_in(client, task_id, "running")
        agent.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.wait, DEADLINE_SECONDS) == 0
    job = await client.job(task_id)
    with agent_process(client.system.api_url, tmp_path, *options):
        await client.job_in(task_id, "running", deadline_seconds=DEADLINE_SECONDS)
        await client.http.post(f"/tasks/{task_id}/abort")

    assert (job["attempts"][0]["reason"], job["attempts"][0]["outcome"]) == (
        "agent_stopped",
        "failed_transient",
    )


async def test_an_aborted_task_is_stopped_by_its_agent(client: Client, queue: str, tmp_path: Path) -> None:
    task_id = await submit(client, queue, command={"argv": ["sh", "-c", "echo begun; sleep 1000"]})
    health_port = free_port()

    with agent_process(
        client.system.api_url,
        tmp_path,
        *("--queue", queue, *LEASE),
        settings={"RETRIEVER_HEALTH_PORT": str(health_port)},
    ):

        async def has_begun() -> bool:
            answer = await client.http.get(f"/jobs/{task_id}/output")
            return answer.status_code == 200 and "begun" in answer.text

        await eventually(has_begun, deadline_seconds=DEADLINE_SECONDS)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{health_port}") as health:
            assert (await health.get("/readyz")).json() == {"api": True}
            assert 'retriever_agent_tasks_in_hand{queue="' in (await health.get("/metrics")).text
        await client.http.post(f"/tasks/{task_id}/abort")
        task = await task_in(client, task_id, "cancelled", "parked", "succeeded")

    assert task["state"] == "cancelled"


async def test_the_agent_in_shell_does_tasks_and_says_how_they_ended(
    client: Client, queue: str, tmp_path: Path
) -> None:
    words = await submit(client, queue, command=["printf", "%s|", "a b", "it's", "$HOME"])
    piped = await submit(client, queue, command={"shell": "tr a-z A-Z; exit 3", "stdin": "loud"})
    slow = await submit(client, queue, command={"argv": ["sleep", "1000"], "timeout_seconds": 0.2})
    payload = await submit(client, queue, payload={"id": 7})
    aborted = await submit(client, queue, command=["sleep", "1000"])

    with shell_agent(client.system.api_url, tmp_path, queue, "3"):
        await task_in(client, aborted, "running")
        await client.http.post(f"/tasks/{aborted}/abort")
        await task_in(client, aborted, "cancelled")

    task = await task_in(client, words, "succeeded")
    assert (task["stdout"]["text"], task["exit_code"]) == ("a b|it's|$HOME|", 0)
    task = await task_in(client, piped, "parked")
    assert (task["stdout"]["text"], task["reason"]) == ("LOUD", "exit_3")
    assert (await task_in(client, slow, "parked"))["reason"] == "exit_124"
    assert (await task_in(client, payload, "parked"))["reason"] == "exit_64"
