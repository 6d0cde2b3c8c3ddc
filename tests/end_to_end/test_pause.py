"""Pausing through the whole service: nothing new starts, what runs ends, and every job is done in the end."""

import asyncio
import json
import uuid
from collections import Counter

from tests.support.client import Client, Json
from tests.support.stores import on_one_store
from tests.support.waiting import eventually

# What the two workers take at once from the bulk lane.
AT_ONCE = 200
QUEUED = 50


@on_one_store
async def test_a_paused_kind_starts_nothing_and_says_so_until_it_is_resumed(client: Client) -> None:
    gate = str(uuid.uuid4())
    batch = await client.submit_batch([f"/gate/{gate}?n={n}" for n in range(AT_ONCE + QUEUED)])
    await client.wait_at_gate(gate, at_least=AT_ONCE)
    order = {"lane": "bulk", "note": "the site is ill"}

    answer = await client.http.post("/kinds/fetch/pause", json=order, headers={"Retriever-Actor": "ann"})
    assert answer.status_code == 200
    # Not to wait for a state: two seconds are what is promised.
    await asyncio.sleep(2)
    await client.open_gate(gate)

    async def have_ended() -> Json | None:
        counts: Json = (await client.http.get(f"/batches/{batch['id']}")).json()["counts"]
        return counts if counts["succeeded"] >= AT_ONCE else None

    counts = await eventually(have_ended)
    assert (counts["succeeded"], counts["queued"]) == (AT_ONCE, QUEUED)
    found = await client.http.get("/jobs", params={"batch": batch["id"], "url": gate, "state": "queued"})
    waiting = found.json()["items"]
    assert len(waiting) == QUEUED
    said = (await client.job(waiting[0]["id"]))["explanation"]
    assert said.startswith("Kind fetch is paused in lane bulk since ")
    assert said.endswith(" (ann): the site is ill.")

    # Workers that start meanwhile leave the queue alone, too; the other lane is open.
    client.system.drain_workers()
    other = await client.submit("fetch", f"/ok/{gate}")
    await client.job_in(other["id"], "succeeded")
    assert (await client.hits())[f"/gate/{gate}"] == AT_ONCE

    await client.http.post("/kinds/fetch/resume", json={"lane": "bulk"})

    done = await client.finished_batch(batch["id"], deadline_seconds=60)
    assert done["counts"]["succeeded"] == AT_ONCE + QUEUED
    lines = (await client.http.get(f"/batches/{batch['id']}/results?format=ndjson")).text.splitlines()
    attempts = Counter(job["attempt"] for job in map(json.loads, lines))
    assert attempts == {1: AT_ONCE + QUEUED}
    # At least once: who loses a connection meanwhile gets what it had in hand again.
    assert (await client.hits())[f"/gate/{gate}"] >= AT_ONCE + QUEUED
