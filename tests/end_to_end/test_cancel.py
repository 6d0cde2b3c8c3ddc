"""Cancelling through the whole service: what waits never starts, what runs is stopped."""

import asyncio
import json
import uuid
from collections import Counter

from tests.support.client import Client, Json
from tests.support.stores import on_one_store
from tests.support.waiting import eventually


async def test_a_running_job_is_cancelled_and_says_so(client: Client) -> None:
    gate = str(uuid.uuid4())
    job = await client.submit("fetch", f"/gate/{gate}")
    await client.wait_at_gate(gate, at_least=1)
    await client.job_in(job["id"], "running")

    answer = await client.http.post(f"/jobs/{job['id']}/cancel")

    assert answer.status_code == 202 and "told to cancel" in answer.json()["explanation"]
    done = await client.job_in(job["id"], "cancelled")
    assert [(each["number"], each["outcome"]) for each in done["attempts"]] == [(1, "cancelled")]


@on_one_store
async def test_a_job_that_waits_for_its_retry_never_runs_again(client: Client) -> None:
    page = f"/flaky/{uuid.uuid4()}"
    retry = {"first_delay_seconds": 2, "jitter": False}
    job = await client.submit("fetch", page, retry=retry)
    await client.job_in(job["id"], "delayed")

    await client.http.post(f"/jobs/{job['id']}/cancel")
    # Handed in after it and due after it: once it has come back from its delay, so has the other.
    later = await client.submit("fetch", f"/flaky/{uuid.uuid4()}?fail=1", retry=retry)
    await client.job_in(later["id"], "succeeded")

    cancelled = await client.job(job["id"])
    assert (cancelled["state"], len(cancelled["attempts"])) == ("cancelled", 1)
    assert (await client.hits())[page] == 1


async def test_no_job_of_a_cancelled_batch_starts_more_than_two_seconds_later(client: Client) -> None:
    # Those at the gate run until they are told to stop, however long the cancellation takes.
    gate = str(uuid.uuid4())
    pages = [f"/ok?n={n}" for n in range(200)] + [f"/gate/{gate}?n={n}" for n in range(9_800)]
    batch = await client.submit_batch(pages)

    async def is_under_way() -> Json | None:
        now = (await client.http.get(f"/batches/{batch['id']}")).json()
        return now if now["counts"]["succeeded"] >= 200 and now["counts"]["running"] >= 20 else None

    await eventually(is_under_way, deadline_seconds=60)
    answer = await client.http.post(f"/batches/{batch['id']}/cancel", timeout=60)
    assert answer.status_code == 202
    # Not to wait for a state: two seconds are what is promised.
    await asyncio.sleep(2)
    started = (await client.hits())[f"/gate/{gate}"]

    done = await client.finished_batch(batch["id"], deadline_seconds=60)

    assert (await client.hits())[f"/gate/{gate}"] == started
    counts = {state: number for state, number in done["counts"].items() if number}
    assert set(counts) == {"succeeded", "cancelled"} and sum(counts.values()) == 10_000
    lines = (await client.http.get(f"/batches/{batch['id']}/results?format=ndjson")).text.splitlines()
    ended = Counter((job["state"], job["attempt"]) for job in map(json.loads, lines))
    # Those with an attempt ran when they were cancelled; the others never started.
    assert ended["cancelled", 1] > 0 and ended["cancelled", 0] > 5_000
