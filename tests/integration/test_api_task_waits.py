"""Agents that wait at the API for a task: served in turn, not cut off, and nothing is picked for who left."""

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from shared.settings import Settings
from tests.integration.test_api_tasks import look_up, pick, submit
from tests.support.api import RunningApi, running_api
from tests.support.waiting import eventually

# Far longer than any test: whoever is answered sooner was woken.
LONG = 60


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


def waiting(api: RunningApi) -> int:
    found = re.search(r"^retriever_task_waiters (\d+)", api.client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


async def until_waiting(api: RunningApi, agents: int) -> None:
    async def look() -> bool:
        return waiting(api) == agents

    await eventually(look)


async def waiting_agents(
    api: RunningApi, threads: ThreadPoolExecutor, *names: str, **fields: Any
) -> list["Future[list[dict[str, Any]]]"]:
    """Return the answers to agents that wait, one after the other."""
    before, answers = waiting(api), []
    for number, name in enumerate(names, start=before + 1):
        answers.append(threads.submit(pick, api, **{"agent": name, "wait_seconds": LONG} | fields))
        await until_waiting(api, number)
    return answers


def raw_pick(api: RunningApi) -> socket.socket:
    """Return a connection on which an agent waits."""
    body = json.dumps({"agent": "gone", "wait_seconds": LONG}).encode()
    connection = api.connect()
    connection.sendall(
        b"POST /tasks/pick HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return connection


async def test_an_agent_that_waits_gets_a_task_as_soon_as_there_is_one(
    api: RunningApi, threads: ThreadPoolExecutor
) -> None:
    (answer,) = await waiting_agents(api, threads, "ann")

    task = submit(api)

    (picked,) = answer.result(20)
    assert (picked["id"], picked["attempt"]) == (task["id"], 1)
    assert look_up(api, task)["agent"] == "ann"


async def test_agents_that_wait_are_served_in_turn(api: RunningApi, threads: ThreadPoolExecutor) -> None:
    answers = await waiting_agents(api, threads, "ann", "bob", "cem")

    served = []
    for answer in answers:
        submit(api)
        served.append(answer.result(20)[0]["attempt"])
        await until_waiting(api, len(answers) - len(served))

    assert served == [1, 1, 1]


async def test_a_wait_that_is_over_is_answered_with_no_task(api: RunningApi) -> None:
    began = time.monotonic()

    assert pick(api, wait_seconds=0.3) == []
    assert time.monotonic() - began >= 0.3
    assert waiting(api) == 0


async def test_nothing_is_picked_for_an_agent_that_left(api: RunningApi) -> None:
    with raw_pick(api):
        await until_waiting(api, 1)
    await until_waiting(api, 0)

    task = submit(api)

    (picked,) = pick(api, agent="next")
    assert (picked["id"], picked["attempt"]) == (task["id"], 1)
    assert [attempt["number"] for attempt in look_up(api, task)["attempts"]] == [1]


async def test_an_agent_that_left_is_passed_over_by_those_behind_it(
    api: RunningApi, threads: ThreadPoolExecutor
) -> None:
    with raw_pick(api):
        await until_waiting(api, 1)
        (answer,) = await waiting_agents(api, threads, "next")
    await until_waiting(api, 1)

    task = submit(api)

    assert [each["id"] for each in answer.result(20)] == [task["id"]]


async def test_a_task_that_is_sent_back_wakes_an_agent(api: RunningApi, threads: ThreadPoolExecutor) -> None:
    task = submit(api)
    (picked,) = pick(api)
    answer = {"token": picked["lease"]["token"], "outcome": "failed"}
    assert api.client.post(f"/tasks/{task['id']}/finish", json=answer).status_code == 200
    (waits,) = await waiting_agents(api, threads, "ann")

    assert api.client.post(f"/jobs/{task['id']}/redrive").status_code == 202

    assert [each["run"] for each in waits.result(20)] == [2]


async def test_a_task_of_one_api_process_wakes_an_agent_at_another(
    database_url: str, threads: ThreadPoolExecutor
) -> None:
    settings = Settings(database_url=database_url)
    with running_api(settings, migrated=False) as here, running_api(settings, migrated=False) as there:
        (answer,) = await waiting_agents(there, threads, "ann")

        task = submit(here)

        assert [each["id"] for each in answer.result(20)] == [task["id"]]


async def test_a_server_that_stops_answers_all_who_wait_at_once(database_url: str) -> None:
    with ExitStack() as running:
        api = running.enter_context(running_api(Settings(database_url=database_url), migrated=False))
        agents = [raw_pick(api) for _ in range(3)]
        await until_waiting(api, 3)

        began = time.monotonic()
        running.close()

    # Shorter than the time that requests in hand are given.
    assert time.monotonic() - began < 4
    for connection in agents:
        with connection:
            answer = connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b'{"tasks":[]}')


async def test_no_time_limit_and_no_other_connection_ends_a_wait(
    database_url: str, threads: ThreadPoolExecutor
) -> None:
    settings = Settings(
        database_url=database_url,
        api_header_seconds=0.2,
        api_body_idle_seconds=0.2,
        api_max_connections=12,
    )
    with running_api(settings, migrated=False) as api, ExitStack() as silent:
        began = time.monotonic()
        (answer,) = await waiting_agents(api, threads, "ann", wait_seconds=2)
        for _ in range(60):
            silent.enter_context(api.connect())

        assert answer.result(20) == []
        assert time.monotonic() - began >= 2


def test_agents_have_a_port_of_their_own_when_it_is_set(database_url: str, unused_port: int) -> None:
    settings = Settings(database_url=database_url, agent_port=unused_port)
    with (
        running_api(settings, migrated=False) as api,
        httpx.Client(base_url=f"http://127.0.0.1:{unused_port}") as inside,
    ):
        task = submit(api)

        for method, path in (
            ("POST", "/tasks/pick"),
            ("GET", "/tasks/pick"),
            ("POST", f"/tasks/{task['id']}/extend"),
            ("POST", f"/tasks/{task['id']}/finish"),
            ("POST", f"/tasks/{task['id']}/fail"),
        ):
            answer = api.client.request(method, path, json={})
            assert answer.status_code == 404
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert f"port {unused_port}" in answer.json()["detail"]
        assert inside.get("/tasks/pick").status_code == 405
        (picked,) = inside.post("/tasks/pick").json()["tasks"]
        body = {"token": picked["lease"]["token"]}
        assert inside.post(f"/tasks/{task['id']}/extend", json=body).status_code == 200
        assert inside.post(f"/tasks/{task['id']}/finish", json=body).status_code == 200
        assert look_up(api, task)["state"] == "succeeded"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 404),
        ("GET", "/", 404),
        ("GET", "/ui/", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/tasks", 404),
        ("GET", "/tasks", 404),
        ("POST", "/jobs", 404),
        ("POST", "/parked/redrive", 404),
        ("POST", "/tasks/pick/", 404),
        ("POST", "//tasks", 404),
        ("POST", "/tasks/a%2fpick", 404),
        ("OPTIONS", "*", 404),
    ],
)
def test_the_port_of_agents_serves_nothing_else(
    agents_port: int, method: str, path: str, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", agents_port), timeout=20) as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        head = connection.recv(65_536).decode()

    assert int(head.split()[1]) == status


@pytest.fixture(scope="module")
def agents_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    database = tmp_path_factory.mktemp("agents") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}", agent_port=port)) as api:
        assert api.client.get("/livez").status_code == 200
        yield port
