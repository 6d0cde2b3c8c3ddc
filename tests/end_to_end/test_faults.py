"""Processes and the broker die in the middle of the work: every job still ends, and the counters say so."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from shared.broker.topology import DEAD, JOBS, PARKED_QUEUE, RESULTS
from tests.support.client import Client, Json
from tests.support.stores import on_one_store
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Counts:
    """What came of a set of jobs, as a stranger counts it: from the API and from the target's own counter."""

    acknowledged: int
    lost: int
    duplicated_effects: int
    recorded_twice: int
    unexpected: int


async def count(client: Client, jobs: Sequence[Json], pages: Sequence[str]) -> Counts:
    hits = await client.hits()
    attempts = [[(each["run"], each["number"]) for each in job["attempts"]] for job in jobs]
    return Counts(
        acknowledged=len(jobs),
        lost=sum(job["state"] not in {"succeeded", "parked"} for job in jobs),
        duplicated_effects=sum(hits[page] - 1 for page in pages),
        recorded_twice=sum(len(numbers) != len(set(numbers)) for numbers in attempts),
        unexpected=sum(job["state"] == "parked" for job in jobs),
    )


@on_one_store
async def test_jobs_in_hand_of_a_killed_worker_all_end(client: Client) -> None:
    gate, pages = str(uuid.uuid4()), [f"/ok/{uuid.uuid4()}" for _ in range(20)]
    held = [await client.submit("fetch", f"/gate/{gate}?job={number}") for number in range(10)]
    await client.wait_at_gate(gate, at_least=10)

    client.system.kill_workers()
    others = [await client.submit("fetch", page) for page in pages]
    await client.open_gate(gate)

    done = [
        await client.job_in(job["id"], "succeeded", "parked", deadline_seconds=90) for job in held + others
    ]
    counts = await count(client, done, pages)
    assert counts == Counts(acknowledged=30, lost=0, duplicated_effects=0, recorded_twice=0, unexpected=0)
    # Each kill repeats what was in hand, as an at-least-once service must; it is recorded once. Two workers
    # do not die in the same instant, so a job may be given from the first to the second and meet both.
    assert 10 <= (await client.hits())[f"/gate/{gate}"] <= 30
    assert all(len(job["attempts"]) == 1 for job in done)


@on_one_store
async def test_a_worker_that_is_told_to_stop_gives_jobs_back_and_burns_no_attempt(client: Client) -> None:
    gate = str(uuid.uuid4())
    args = {"url": client.site(f"/gate/{gate}"), "timeout_seconds": 120}
    answer = await client.http.post(
        "/jobs", json={"kind": "fetch", "args": args, "retry": {"max_attempts": 1}}
    )
    job = answer.json()
    await client.wait_at_gate(gate, at_least=1)

    # Whichever worker has the job must let go of it at least once, after its grace period.
    client.system.drain_workers()
    await client.wait_at_gate(gate, at_least=1)
    assert (await client.job(job["id"]))["state"] == "running"
    await client.open_gate(gate)

    done = await client.job_in(job["id"], "succeeded", "parked")
    assert (done["state"], done["attempt"], len(done["attempts"])) == ("succeeded", 1, 1)


@on_one_store
async def test_jobs_are_accepted_at_once_while_the_broker_is_down_and_run_when_it_is_back(
    client: Client,
) -> None:
    client.system.stop_broker()
    try:
        started_at = time.monotonic()
        job = await client.submit("fetch", "/ok")
        seconds = time.monotonic() - started_at
        waiting = await client.job(job["id"])
    finally:
        client.system.start_broker()

    assert seconds < 1.0
    assert waiting["state"] == "accepted" and "broker" in waiting["explanation"]
    done = await client.job_in(job["id"], "succeeded", "parked", deadline_seconds=60)
    assert done["state"] == "succeeded"


@on_one_store
async def test_a_broker_killed_in_mid_batch_loses_nothing(client: Client) -> None:
    client.system.settle_broker()
    pages = [f"/ok/{uuid.uuid4()}" for _ in range(400)]
    slow = [f"/slow?seconds=0.5&n={uuid.uuid4()}" for _ in range(100)]
    batch = await client.submit_batch(pages + slow)

    async def is_under_way() -> bool:
        counts = (await client.http.get(f"/batches/{batch['id']}")).json()["counts"]
        return bool(20 <= counts["succeeded"] < 500)

    await eventually(is_under_way)
    client.system.kill_broker()
    client.system.start_broker()

    done = await client.finished_batch(batch["id"], deadline_seconds=120)
    assert {state: n for state, n in done["counts"].items() if n} == {"succeeded": 500}
    lines = (await client.http.get(f"/batches/{batch['id']}/results?format=ndjson")).text.splitlines()
    assert len(lines) == 500
    hits = await client.hits()
    lost = sum(hits[page] == 0 for page in pages)
    duplicated = sum(hits[page] - 1 for page in pages)
    assert lost == 0
    # Only what was in hand or on its way when the broker died may have been asked for twice.
    assert duplicated <= 240


@on_one_store
async def test_a_message_that_nobody_can_read_is_parked_as_it_came(client: Client) -> None:
    garbage = f"not a job {uuid.uuid4()}"

    client.management.publish(client.system.vhost, JOBS, "fetch.bulk", garbage)

    async def parked() -> Json | None:
        messages = client.management.messages(client.system.vhost, PARKED_QUEUE)
        return next((each for each in messages if each["payload"] == garbage), None)

    message = await eventually(parked)
    assert message is not None
    assert message["exchange"] == DEAD and message["properties"]["type"] == "raw"
    assert "Invalid JSON" in message["properties"]["headers"]["x-retriever-reason"]


async def test_a_report_that_nobody_can_read_is_parked_and_blocks_nothing(client: Client) -> None:
    garbage = f"not a report {uuid.uuid4()}"

    client.management.publish(client.system.vhost, RESULTS, "fetch.bulk.succeeded", garbage)

    async def parked() -> bool:
        messages = client.management.messages(client.system.vhost, PARKED_QUEUE)
        return any(each["payload"] == garbage for each in messages)

    await eventually(parked)
    job = await client.submit("fetch", "/ok")
    await client.job_in(job["id"], "succeeded")


async def test_a_job_published_straight_to_the_broker_with_wrong_arguments_is_parked(client: Client) -> None:
    job_id = str(uuid.uuid4())
    body = f'{{"version": 1, "id": "{job_id}", "kind": "fetch", "args": {{"url": 7}}}}'

    client.management.publish(client.system.vhost, JOBS, "fetch.bulk", body)

    async def is_parked() -> bool:
        return job_id in await client.parked_job_ids()

    await eventually(is_parked)

    async def is_shown() -> Json | None:
        answer = await client.http.get(f"/jobs/{job_id}")
        return answer.json() if answer.is_success and answer.json()["state"] == "parked" else None

    shown = await eventually(is_shown)
    assert (shown["reason"], shown["args"]) == ("arguments_invalid", {"url": 7})
