"""A large body's whole way on both stores: worker, broker, recorder, store, API."""

import asyncio
import gzip
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from consumer.bootstrap import run_worker
from consumer.plan import Plan
from producer.ledger.service import run_ledger
from producer.store.database import Database
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.http_servers import LOOPBACK, raw_server
from tests.support.httpbin import running_httpbin
from tests.support.waiting import eventually

# 10 MiB of which half does not compress: about 5 MiB on its way.
LARGE = random.Random(7).randbytes(5 * 1_048_576) + b"All is well.\n" * 410_000


@asynccontextmanager
async def service(settings: Settings, store: Database) -> AsyncIterator[None]:
    """Run a ledger and a worker while inside."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(run_ledger(settings, store, stop))
        group.create_task(run_worker(settings, Plan(("fetch",)), stop))
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
async def api(vhost_url: str, database_url: str) -> AsyncIterator[RunningApi]:
    settings = Settings(
        amqp_url=vhost_url, database_url=database_url, egress_allow=LOOPBACK, worker_grace_seconds=0
    )
    with running_api(settings) as running:
        async with service(settings, running.store):
            yield running


async def get(api: RunningApi, path: str, **headers: str) -> httpx.Response:
    return await asyncio.to_thread(api.client.get, path, headers=headers)


async def fetched(api: RunningApi, url: str, **args: Any) -> dict[str, Any]:
    """Submit a fetch and return its job once it has succeeded."""
    document = {"kind": "fetch", "args": {"url": url, **args}}
    job = (await asyncio.to_thread(api.client.post, "/jobs", json=document)).json()

    async def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = (await get(api, f"/jobs/{job['id']}")).json()
        return seen if seen["finished_at"] else None

    ended = await eventually(look, deadline_seconds=60)
    assert ended["state"] == "succeeded", ended
    return ended


async def test_ten_mebibytes_arrive_whole_and_in_ranges_and_what_is_unchanged_is_not_fetched_again(
    api: RunningApi,
) -> None:
    body = gzip.compress(LARGE, 1)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    async with raw_server(head.encode() + body) as server:
        job = await fetched(api, server.url, max_bytes=16 * 1_048_576)
    path = f"/jobs/{job['id']}/body"

    whole, part = await get(api, path), await get(api, path, Range="bytes=5242870-5242889")

    assert len(LARGE) > 10 * 1_048_576
    assert (whole.status_code, whole.content == LARGE) == (200, True)
    assert (part.status_code, part.content) == (206, LARGE[5_242_870:5_242_890])
    assert (job["result"]["body_stored"], job["result"]["body"]) == (True, None)
    assert whole.headers["etag"] == f'"{job["result"]["sha256"]}"' == f'"{hashlib.sha256(LARGE).hexdigest()}"'

    with running_httpbin() as httpbin:
        first = await fetched(api, f"{httpbin}/etag/v1", if_changed=True)
        second = await fetched(api, f"{httpbin}/etag/v1", if_changed=True)

    assert (first["result"]["status"], first["result"]["not_modified"]) == (200, False)
    assert (second["result"]["status"], second["result"]["unchanged_since"]) == (304, first["id"])
    body_of_second = await get(api, f"/jobs/{second['id']}/body")
    assert body_of_second.text == first["result"]["body"]
