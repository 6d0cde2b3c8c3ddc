"""What an agent sends to the API over HTTP, and how it takes the answers."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from consumer.agent import task_api
from consumer.agent.task_api import ApiUnavailable, PickedTask, RequestRefused, TaskApi
from shared.errors import LeaseLost, RetrieverError
from shared.kinds.command import OutputSnapshot, OutputText
from shared.kinds.task import PickOrder
from shared.outcomes import Cancelled, Failed, Succeeded
from tests.support.http_servers import STAY_SILENT, raw_server
from tests.support.task_api import make_picked_task

TASK_ID = "01a203f7-2316-7400-922d-0a315fe2b95f"
Asked = list[tuple[str, dict[str, Any]]]


@asynccontextmanager
async def api_that_says(
    document: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[TaskApi, Asked]]:
    """Yield the agents' side of an API with one answer to everything, and what it was asked."""
    asked: Asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, await request.json()))
        return web.json_response(document, status=status, headers=headers)

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield TaskApi(session, f"{server.make_url('/')}"), asked


async def pick(api: TaskApi) -> list[PickedTask]:
    return await api.pick(
        queue="default", agent="a-1", limit=2, order=PickOrder.NEWEST, wait_seconds=0, lease_seconds=60
    )


async def test_a_pick_brings_tasks_and_ignores_what_a_newer_api_adds() -> None:
    picked = {
        "id": TASK_ID,
        "attempt": 2,
        "lease": {"token": "t-1", "expires_at": "2026-12-01T12:00:00Z"},
        "command": {"shell": "date", "new": 1},
        "state": "running",
    }

    async with api_that_says({"tasks": [picked], "new": 1}) as (api, asked):
        [task] = await pick(api)

    assert (str(task.id), task.attempt, task.lease.token) == (TASK_ID, 2, "t-1")
    assert task.command == {"shell": "date", "new": 1}
    settings = {"queue": "default", "agent": "a-1", "max": 2, "order": "newest"}
    assert asked == [("/tasks/pick", {**settings, "wait_seconds": 0, "lease_seconds": 60})]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_an_extension_shows_output_and_hears_whether_the_task_is_cancelled(
    *, is_cancelled: bool
) -> None:
    task, output = make_picked_task(), OutputSnapshot(sequence=3, stdout=OutputText(text="hi", bytes=2))

    async with api_that_says({"expires_at": "", "cancel_requested": is_cancelled}) as (api, asked):
        extension = await api.extend(task, lease_seconds=60, output=output)

    assert extension.cancel_requested is is_cancelled
    [(path, body)] = asked
    assert path == f"/tasks/{task.id}/extend"
    assert OutputSnapshot.model_validate(body.pop("output")) == output
    assert body == {"token": task.lease.token, "lease_seconds": 60}


@pytest.mark.parametrize(
    ("end", "path", "said"),
    [
        (
            Succeeded({"output": {"long": 2**70}, "exit_code": 0}),
            "finish",
            {"outcome": "succeeded", "output": {"long": 2**70}, "exit_code": 0},
        ),
        (Cancelled(), "finish", {"outcome": "cancelled"}),
        (
            Failed("exit_3", "It ended with 3.", transient=False, result={"exit_code": 3}),
            "fail",
            {"transient": False, "reason": "exit_3", "explanation": "It ended with 3.", "exit_code": 3},
        ),
    ],
    ids=["succeeded", "cancelled", "failed"],
)
async def test_an_end_is_reported_with_all_that_is_known(
    end: task_api.End, path: str, said: dict[str, Any]
) -> None:
    task = make_picked_task()

    async with api_that_says({"id": str(task.id), "state": "succeeded"}) as (api, asked):
        await api.report(task, end)

    assert asked == [(f"/tasks/{task.id}/{path}", {"token": task.lease.token, **said})]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestRefused),
        (404, LeaseLost),
        (409, LeaseLost),
        (413, RequestRefused),
        (401, ApiUnavailable),
        (429, ApiUnavailable),
        (500, ApiUnavailable),
        (503, ApiUnavailable),
        (302, ApiUnavailable),
        (204, ApiUnavailable),
    ],
)
async def test_each_status_says_what_an_agent_can_do(status: int, error: type[RetrieverError]) -> None:
    problem = {"detail": "The lease ran out at noon."}
    headers = {"Location": "/elsewhere"} if status == 302 else None

    async with api_that_says(problem, status, headers) as (api, asked):
        with pytest.raises(error, match="noon" if status != 204 else "204"):
            await api.extend(make_picked_task(), lease_seconds=60, output=None)

    assert len(asked) == 1


async def test_a_pick_at_an_address_without_tasks_is_refused() -> None:
    async with api_that_says({"detail": "Agents are served on port 8081."}, 404) as (api, _):
        with pytest.raises(RequestRefused, match="8081"):
            await pick(api)


async def test_the_api_says_how_long_to_wait() -> None:
    async with api_that_says({"detail": "Busy."}, 503, {"Retry-After": "7"}) as (api, _):
        with pytest.raises(ApiUnavailable) as raised:
            await pick(api)

    assert raised.value.retry_after_seconds == 7


@pytest.mark.parametrize("document", [[], {"tasks": [{"id": "x"}]}, "text", {}])
async def test_an_answer_of_somebody_else_is_no_answer(document: object) -> None:
    async with api_that_says(document) as (api, _):
        with pytest.raises(ApiUnavailable, match="something else"):
            await pick(api)


async def test_an_api_that_hangs_up_has_not_answered() -> None:
    async with raw_server(b"") as server, aiohttp.ClientSession() as session:
        with pytest.raises(ApiUnavailable, match="did not answer"):
            await pick(TaskApi(session, server.url))


async def test_an_api_that_says_nothing_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_api, "REQUEST_SECONDS", 0.1)
    silent = raw_server(b"HTTP/1.1 200 OK\r\n", then=STAY_SILENT)
    async with silent as server, aiohttp.ClientSession() as session:
        with pytest.raises(ApiUnavailable, match="in time"):
            await pick(TaskApi(session, server.url))
