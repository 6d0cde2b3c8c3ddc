"""Planned fetches of a json-server through the whole service: killed half-way, and while items are added."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deploy.local.json_server import open_json_server
from tests.support.client import Client, Json
from tests.support.stores import on_one_store
from tests.support.waiting import eventually

ITEMS = [{"id": number, "name": f"item {number}"} for number in range(1, 1_001)]
# What differs between the stores is in integration/test_store_paging.py.
pytestmark = on_one_store

PAGES = {
    "by": "page",
    "parameter": "_page",
    "size_parameter": "_limit",
    "size": 25,
    "total_header": "X-Total-Count",
    "key": "id",
}


@pytest.fixture
def api() -> Iterator[str]:
    """Yield a json-server with 1,000 items; its last page takes two seconds, its first 50 ms."""
    with open_json_server({"items": ITEMS}, ms_a_page=50) as url:
        yield url


async def submit(client: Client, url: str) -> str:
    args = {"url": f"{url}/items", "pages": PAGES}
    answer = await client.http.post("/jobs", json={"kind": "fetch", "args": args})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def measure(client: Client, job_id: str) -> Json:
    answer = await client.http.get(f"/jobs/{job_id}/pages")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def measured_when(client: Client, job_id: str, *, done: int = 0, planned: int = 0) -> Json:
    """Return the measure once so many pages are done, or all of so many that are planned."""

    async def look() -> Json | None:
        seen = await measure(client, job_id)
        pages = seen["pages"]
        if planned:
            return seen if pages["done"] == pages["planned"] >= planned else None
        return seen if pages["done"] >= done else None

    return await eventually(look, deadline_seconds=60)


async def items(client: Client, job_id: str, query: str = "") -> list[Any]:
    answer = await client.http.get(f"/jobs/{job_id}/items{query}")
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_planned_fetch_whose_workers_are_killed_half_way_has_every_item_once(
    client: Client, api: str
) -> None:
    job_id = await submit(client, api)
    before = await measured_when(client, job_id, done=10)

    client.system.kill_workers()

    after = await measured_when(client, job_id, planned=40)
    assert before["pages"]["done"] < 40 and before["pages"]["planned"] == 40
    assert after["pages"] == {"planned": 40, "done": 40, "parked": 0, "cancelled": 0, "open": 0}
    totals = (after["baseline_total"], after["last_total"], after["drift"], after["missing"])
    assert totals == (1_000, 1_000, 0, 0)
    assert (after["items"], after["distinct"], after["duplicates"]) == (1_000, 1_000, 0)
    assert (after["complete"], after["stopped_by"]) == (True, None)
    assert await items(client, job_id) == ITEMS
    batch = (await client.http.get(f"/batches/{after['batch_id']}")).json()
    assert (batch["total"], batch["counts"]["succeeded"], batch["finished_at"] is not None) == (39, 39, True)


async def test_items_that_are_added_while_pages_are_read_are_fetched_too_and_reported(
    client: Client, api: str
) -> None:
    job_id = await submit(client, api)
    await measured_when(client, job_id, done=5)

    added = [{"id": number, "name": f"item {number}"} for number in range(1_001, 1_031)]
    async with httpx.AsyncClient() as http:
        for item in added:
            assert (await http.post(f"{api}/items", json=item)).status_code == 201

    after = await measured_when(client, job_id, planned=42)
    assert (after["baseline_total"], after["last_total"], after["drift"]) == (1_000, 1_030, 30)
    assert (after["items"], after["missing"], after["duplicates"], after["complete"]) == (1_030, 0, 0, True)
    assert "The total went from 1,000 to 1,030" in after["explanation"]
    assert await items(client, job_id, "?distinct=true") == [*ITEMS, *added]
