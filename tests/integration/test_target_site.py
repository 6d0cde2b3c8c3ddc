"""The site that is flaky on purpose does what the demo and the other tests count on."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from deploy.local.target_site import TargetSite, open_target


@pytest.fixture
async def target() -> AsyncIterator[TargetSite]:
    async with open_target() as site:
        yield site


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def statuses(client: aiohttp.ClientSession, url: str, *methods: str) -> list[int]:
    seen = []
    for method in methods:
        async with client.request(method, url, allow_redirects=False) as answer:
            seen.append(answer.status)
    return seen


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ok", 200), ("/ok/7", 200), ("/moved", 301), ("/loop", 302), ("/missing", 404), ("/broken", 500)],
)
async def test_simple_pages_answer_head_and_get_alike(
    target: TargetSite, client: aiohttp.ClientSession, path: str, status: int
) -> None:
    assert await statuses(client, target.url + path, "HEAD", "GET") == [status, status]


async def test_a_flaky_page_fails_as_often_as_asked_for_each_key_and_method(
    target: TargetSite, client: aiohttp.ClientSession
) -> None:
    assert await statuses(client, f"{target.url}/flaky/a", *["GET"] * 3) == [503, 503, 200]
    assert await statuses(client, f"{target.url}/flaky/b?fail=1", "HEAD", "GET", "HEAD", "GET") == [
        503,
        503,
        200,
        200,
    ]


async def test_a_limited_page_asks_to_wait_once(target: TargetSite, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{target.url}/limited/a") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")

    assert await statuses(client, f"{target.url}/limited/a", "GET") == [200]


async def test_the_pages_of_the_api_hold_every_item_once(
    target: TargetSite, client: aiohttp.ClientSession
) -> None:
    bodies = []
    for page in (1, 2, 3, 4):
        async with client.get(f"{target.url}/api/items?page={page}") as answer:
            bodies.append(await answer.json())

    assert {(body["total"], body["pages"]) for body in bodies} == {(60, 3)}
    assert [item["id"] for body in bodies for item in body["items"]] == list(range(1, 61))


@pytest.mark.parametrize("query", ["page=x", "page=-1", "per_page=nan", "page=inf"])
async def test_a_number_that_is_none_is_refused(
    target: TargetSite, client: aiohttp.ClientSession, query: str
) -> None:
    assert await statuses(client, f"{target.url}/api/items?{query}", "GET") == [400]


async def test_every_request_is_counted_by_its_path(
    target: TargetSite, client: aiohttp.ClientSession
) -> None:
    await statuses(client, f"{target.url}/ok?a=b", "GET", "HEAD")
    await statuses(client, f"{target.url}/nowhere", "GET")

    async with client.get(f"{target.url}/control/hits") as answer:
        assert await answer.json() == {"/ok": 2, "/nowhere": 1}


async def test_a_reset_forgets_everything(target: TargetSite, client: aiohttp.ClientSession) -> None:
    await statuses(client, f"{target.url}/control/mend/a", "POST")
    await statuses(client, f"{target.url}/limited/a", "GET")

    assert await statuses(client, f"{target.url}/control/reset", "POST") == [204]

    assert target.state.hits == {}
    assert await statuses(client, f"{target.url}/mendable/a", "GET") == [500]
    assert await statuses(client, f"{target.url}/limited/a", "GET") == [429]


async def test_a_gate_holds_requests_until_it_is_opened(
    target: TargetSite, client: aiohttp.ClientSession
) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        held = [group.create_task(statuses(client, f"{target.url}/gate/a", "GET")) for _ in range(2)]
        async with client.get(f"{target.url}/control/waiting/a?at_least=2") as answer:
            assert await answer.json() == {"waiting": 2}
        assert not any(task.done() for task in held)
        assert await statuses(client, f"{target.url}/control/open/a", "POST") == [204]

    assert [task.result() for task in held] == [[200], [200]]
    assert await statuses(client, f"{target.url}/gate/a", "GET") == [200]


async def test_a_client_that_leaves_a_gate_no_longer_waits(
    target: TargetSite, client: aiohttp.ClientSession
) -> None:
    held = asyncio.create_task(statuses(client, f"{target.url}/gate/a", "GET"))
    async with client.get(f"{target.url}/control/waiting/a?at_least=1"):
        held.cancel()
    await asyncio.gather(held, return_exceptions=True)

    async with asyncio.timeout(10), target.state.changed:
        await target.state.changed.wait_for(lambda: target.state.waiting["a"] == 0)


async def test_the_command_stops_cleanly_at_sigterm_with_a_request_in_hand(unused_port: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.local.target_site", "--port", str(unused_port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20), aiohttp.ClientSession() as client:
        assert process.stdout is not None
        await process.stdout.readuntil(b"Running on")
        url = f"http://127.0.0.1:{unused_port}"
        held = asyncio.create_task(statuses(client, f"{url}/gate/a", "GET"))
        async with client.get(f"{url}/control/waiting/a?at_least=1"):
            process.send_signal(signal.SIGTERM)
        assert await held == [200]
        _, errors = await process.communicate()

    assert (process.returncode, errors) == (0, b"")


async def test_there_are_a_hundred_posts_with_titles_of_different_lengths(
    target: TargetSite, client: aiohttp.ClientSession
) -> None:
    lengths = set()
    for number in (1, 2, 100):
        async with client.get(f"{target.url}/api/posts/{number}") as answer:
            post = await answer.json()
        assert post["id"] == number
        lengths.add(len(post["title"]))

    assert len(lengths) == 3
    assert [
        *await statuses(client, f"{target.url}/api/posts/0", "GET"),
        *await statuses(client, f"{target.url}/api/posts/101", "GET"),
    ] == [404, 404]
