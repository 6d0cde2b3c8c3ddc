"""What targets and authors have a worker compute: its loop goes on, and too much is no target's fault."""

import asyncio
import gc
import gzip
import os
import random
import resource
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import brotli
import pytest

from consumer.compute.pool import ComputePool
from consumer.handlers.check import check
from consumer.handlers.paged_fetch import fetch_or_page
from consumer.http.client import Client
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.http_servers import KEEP_OPEN, client_that_reaches_loopback, raw_server

LAG_SECONDS = 1.0
"""These took 2 to 26 seconds of the loop. On a quiet machine the lag is below a tenth of this."""

GROWTH_BYTES = 200 * 1_048_576
OWN_LIMITS = {"compute_limit", "extract_limit", "compute_busy"}


@dataclass
class Lag:
    """The longest time for which the loop did not come round."""

    seconds: float = 0.0


@asynccontextmanager
async def lag() -> AsyncIterator[Lag]:
    """Measure the loop in the meantime."""
    seen = Lag()

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            seen.seconds = max(seen.seconds, time.monotonic() - began - 0.01)

    ticking = asyncio.create_task(tick())
    try:
        yield seen
    finally:
        ticking.cancel()


def resident_bytes(*, collect: bool = True) -> int:
    if collect:
        gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may take long to give the processes their turn.
    monkeypatch.setattr("consumer.deadlines.COMPUTE_SECONDS", 300.0)
    monkeypatch.setattr("consumer.compute.pool.WAIT_SECONDS", 100.0)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_that_reaches_loopback(names={}) as opened, ComputePool(cpu_seconds=2) as compute:
        yield replace(opened, compute=compute)


def answer(body: bytes, *fields: str, kind: str = "text/plain") -> bytes:
    """Return an answer with a body that may be compressed, as its fields say."""
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields])
    return head.encode() + b"\r\n\r\n" + body


def zipped(body: bytes, kind: str = "application/json") -> bytes:
    return answer(gzip.compress(body, 9, mtime=0), "Content-Encoding: gzip", kind=kind)


def letters(count: int) -> str:
    return "".join(random.Random(1).choices("ab", k=count))


SLOW = "[ab]*a[ab]{400}c"
# 12 KB of gzip, 4 million lists.
NODES = b"[" + b"[]," * 3_900_000 + b"[]]"
PAGES: dict[str, Any] = {"by": "page", "items": "@"}


def slow_headers(count: int) -> bytes:
    return answer(b"", *(f"X: {letters(30_000)}" for _ in range(count)))


def reason_of(outcome: Outcome) -> str:
    """Return the reason of a check or fetch, which a verdict has in its result."""
    assert isinstance(outcome, Succeeded | Failed)
    return outcome.reason if isinstance(outcome, Failed) else (outcome.result.get("reason") or "ok")


async def run(kind: str, args: dict[str, Any], client: Client) -> Outcome:
    if kind == "check":
        return await check(CheckArgs.model_validate(args), client)
    return await fetch_or_page(FetchArgs.model_validate(args), client)


@pytest.mark.parametrize(
    ("kind", "args", "octets", "reasons"),
    [
        (
            "check",
            {"method": "GET", "assertions": {"header": [{"name": "X", "regex": SLOW}]}},
            slow_headers(250),
            {"header_too_large"},
        ),
        (
            "check",
            {"method": "GET", "assertions": {"header": [{"name": "X", "regex": SLOW}]}},
            slow_headers(8),
            {"compute_limit", "assertion_failed"},
        ),
        (
            "check",
            {"assertions": {"regex": [SLOW]}, "max_body_bytes": 4_194_304},
            answer(letters(1_000_000).encode()),
            {"compute_limit", "assertion_failed"},
        ),
        (
            "check",
            {"assertions": {"json": [{"path": "@"}]}, "max_body_bytes": 4_194_304},
            zipped(b"[" + b"[]," * 400_000 + b"[]]"),
            {"extract_limit", "ok"},
        ),
        ("fetch", {"extract": "@", "max_bytes": 16_000_000}, zipped(NODES), {"extract_limit"}),
        ("fetch", {"extract": "length(@)", "max_bytes": 16_000_000}, zipped(NODES), {"extract_limit"}),
        ("fetch", {"pages": PAGES, "max_bytes": 16_000_000}, zipped(NODES), {"extract_limit"}),
        (
            "fetch",
            {"pages": {**PAGES, "key": "@"}, "max_bytes": 16_000_000},
            zipped(b"[" + b"[]," * 100_000 + b"[]]"),
            {"ok", "extract_limit"},
        ),
        (
            "fetch",
            {"extract": "|".join(["[@,@]"] * 100)},
            answer(b"[1]", kind="application/json"),
            {"extract_limit"},
        ),
        (
            "check",
            {"title": True, "fragments": ["nowhere"], "max_body_bytes": 4_194_304},
            answer(b"<a b=c>" * 300_000, kind="text/html"),
            {"ok", "compute_limit"},
        ),
        (
            "check",
            {"title": True, "fragments": ["nowhere"], "max_body_bytes": 4_194_304},
            answer(
                b"<a " + b" ".join(b"a%d=''" % number for number in range(200_000)) + b"/>",
                kind="application/xhtml+xml",
            ),
            {"ok", "compute_limit"},
        ),
        (
            "fetch",
            {"max_bytes": 16_000_000},
            zipped(os.urandom(5_000_000) + bytes(11_000_000), "x/y"),
            {"ok"},
        ),
        (
            "fetch",
            {"max_bytes": 16_000_000},
            answer(brotli.compress(bytes(100_000_000), quality=1), "Content-Encoding: br"),
            {"body_too_large"},
        ),
        (
            "fetch",
            {"max_bytes": 16_000_000},
            answer(gzip.compress(b"", mtime=0) * 200_000, "Content-Encoding: gzip"),
            {"ok"},
        ),
    ],
    ids=[
        "8 MB of headers",
        "headers",
        "body",
        "json assertion",
        "extract",
        "extract a number",
        "items",
        "keys",
        "expression",
        "tags",
        "attributes",
        "compressing",
        "bomb",
        "members",
    ],
)
async def test_the_loop_goes_on_and_memory_comes_back_whatever_is_computed(
    client: Client, kind: str, args: dict[str, Any], octets: bytes, reasons: set[str]
) -> None:
    before = resident_bytes()
    async with raw_server(octets) as server, lag() as seen:
        outcomes = await asyncio.gather(
            *(run(kind, {"url": server.url, "timeout_seconds": 30, **args}, client) for _ in range(2))
        )

    found = {reason_of(outcome) for outcome in outcomes}
    assert found <= reasons | {"compute_busy"}
    assert seen.seconds < LAG_SECONDS
    del outcomes
    assert resident_bytes() - before < GROWTH_BYTES


async def test_a_large_robots_file_holds_nobody_up_and_takes_no_more_memory_than_its_text(
    client: Client,
) -> None:
    rules = "".join(f"Disallow: /*{number:x}*z$\n" for number in range(24_000))
    robots = answer(f"User-agent: *\n{rules}Disallow: /private\n".encode())
    before = resident_bytes()
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(raw_server(robots, answer(b"ok"), then=KEEP_OPEN))
            for _ in range(6)
        ]
        asked = [
            {"url": f"{server.url}{path}", "robots": "respect", "method": "GET"}
            for server in servers
            for path in ("public", "private/1")
        ]
        async with lag() as seen:
            outcomes = [await run("check", args, client) for args in asked]
        grown_bytes = resident_bytes() - before

    assert [reason_of(outcome) for outcome in outcomes] == ["ok", "robots_denied"] * 6
    assert seen.seconds < LAG_SECONDS
    assert grown_bytes < 30 * 1_048_576


async def test_large_bodies_share_the_room_that_there_is(client: Client) -> None:
    bomb = zipped(bytes(15_000_000), "x/y")
    before = peak = resident_bytes()
    async with raw_server(bomb) as server:
        args = {"url": server.url, "max_bytes": 16_000_000, "timeout_seconds": 10}
        fetches = [asyncio.create_task(run("fetch", args, client)) for _ in range(8)]
        while not all(each.done() for each in fetches):
            peak = max(peak, resident_bytes(collect=False))
            await asyncio.sleep(0.02)
        outcomes = [each.result() for each in fetches]

    assert [reason_of(outcome) for outcome in outcomes] == ["ok"] * 8
    # All together are 120 MB, and the last copy of each as much again.
    assert peak - before < 110 * 1_048_576


async def test_a_worker_that_is_busy_with_some_jobs_calls_no_other_target_down(client: Client) -> None:
    heavy = {"path": "|".join(["[@,@]"] * 100)}
    document = answer(b'{"a": "' + b"x" * 100_000 + b'"}', kind="application/json")
    async with raw_server(document) as server, raw_server(document) as other:
        attack = {"url": server.url, "assertions": {"json": [heavy] * 10}, "timeout_seconds": 30}
        attacks = [asyncio.create_task(run("check", attack, client)) for _ in range(14)]
        await asyncio.sleep(0.5)
        innocent = {"url": other.url, "assertions": {"json": [{"path": "a"}]}, "timeout_seconds": 1}
        outcome = await run("check", innocent, client)
        ends = await asyncio.gather(*attacks)

    assert isinstance(outcome, Succeeded) and outcome.result["verdict"] == "ok"
    assert {reason_of(end) for end in ends} <= OWN_LIMITS
    assert all(end.result is None for end in ends)


@pytest.mark.parametrize("kind", ["text/html", "application/xhtml+xml"])
@pytest.mark.parametrize("reference", ["&#", "&#x"])
async def test_a_character_reference_of_many_digits_is_one_that_is_no_character(
    client: Client, kind: str, reference: str
) -> None:
    page = f"<html><title>t</title><p id='{reference}{'9' * 5_000};'>x</p><p id='here'/></html>"
    async with raw_server(answer(page.encode(), kind=kind)) as server:
        args = {"url": server.url, "fragments": ["here", "there"], "title": True}
        outcome = await run("check", args, client)

    assert isinstance(outcome, Succeeded)
    assert outcome.result["title"] == "t"


@pytest.mark.parametrize("zeros", [0, 5_000])
async def test_a_length_of_many_digits_is_read_as_the_number_that_it_is(client: Client, zeros: int) -> None:
    octets = f"HTTP/1.1 200 OK\r\nContent-Length: {'0' * zeros}2\r\n\r\nok".encode()
    async with raw_server(octets) as server:
        outcome = await run("check", {"url": server.url, "method": "GET"}, client)

    assert isinstance(outcome, Succeeded)
    assert (outcome.result["verdict"], outcome.result["bytes"]) == ("ok", 2)


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("status", ["103 Early Hints\r\nLink: </a>", "100 Continue", "199 Whatever"])
async def test_endless_interim_answers_are_refused_at_once(status: str, plain: bool) -> None:
    flood = f"HTTP/1.1 {status}\r\n\r\n".encode() * 100_000
    async with (
        client_that_reaches_loopback(names={}, plain=plain) as client,
        raw_server(flood) as server,
        lag() as seen,
    ):
        outcome = await run("check", {"url": server.url, "method": "GET", "timeout_seconds": 20}, client)

    assert reason_of(outcome) == "header_too_large"
    assert seen.seconds < LAG_SECONDS
