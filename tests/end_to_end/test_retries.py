"""A job's way through failures: the delay ladder, many retries, the parking queue and back."""

import uuid

from shared.broker.topology import WORK_DELIVERY_LIMIT, delay_queue
from tests.support.client import QUICK_RETRY, Client
from tests.support.stores import on_one_store
from tests.support.waiting import eventually


@on_one_store
async def test_a_job_that_fails_twice_succeeds_at_its_third_attempt(client: Client) -> None:
    wait_seconds = client.system.seen_after_seconds
    retry = {
        "first_delay_seconds": wait_seconds,
        "factor": 1,
        "max_delay_seconds": wait_seconds,
        "jitter": False,
    }
    job = await client.submit("fetch", f"/flaky/{uuid.uuid4()}", retry=retry)

    async def is_waiting_in_the_broker() -> int:
        return await client.queue_length(delay_queue(wait_seconds))

    assert await eventually(is_waiting_in_the_broker) == 1
    delayed = await client.job_in(job["id"], "delayed")
    assert delayed["reason"] == "http_503" and delayed["due_at"]

    done = await client.job_in(job["id"], "succeeded", deadline_seconds=60)
    seen = [
        (each["number"], each["outcome"], each["reason"], each["wait_seconds"]) for each in done["attempts"]
    ]
    assert seen == [
        (1, "failed_transient", "http_503", wait_seconds),
        (2, "failed_transient", "http_503", wait_seconds),
        (3, "succeeded", None, None),
    ]
    assert all(each["started_at"] <= each["ended_at"] for each in done["attempts"])


async def test_a_job_that_always_fails_is_parked_and_redriven_under_the_same_id(client: Client) -> None:
    page = str(uuid.uuid4())
    job = await client.submit("fetch", f"/mendable/{page}", retry={**QUICK_RETRY, "max_attempts": 2})
    parked = await client.job_in(job["id"], "parked")
    assert (parked["reason"], parked["attempt"], len(parked["attempts"])) == ("http_500", 2, 2)
    assert job["id"] in await client.parked_job_ids()

    await client.mend(page)
    answer = await client.http.post(f"/jobs/{job['id']}/redrive")

    assert answer.status_code == 202 and answer.json()["id"] == job["id"]
    done = await client.job_in(job["id"], "succeeded")
    assert (done["run"], done["attempt"]) == (2, 1)
    assert [(each["run"], each["number"]) for each in done["attempts"]] == [(1, 1), (1, 2), (2, 1)]

    async def has_left_the_parking_queue() -> bool:
        return job["id"] not in await client.parked_job_ids()

    await eventually(has_left_the_parking_queue)
    assert (await client.http.post(f"/jobs/{job['id']}/redrive")).status_code == 409


@on_one_store
async def test_a_target_that_asks_to_wait_is_not_asked_earlier(client: Client) -> None:
    job = await client.submit(
        "fetch", f"/limited/{uuid.uuid4()}", retry={"first_delay_seconds": 0.5, "jitter": False}
    )

    done = await client.job_in(job["id"], "succeeded")

    assert [(each["reason"], each["wait_seconds"]) for each in done["attempts"]] == [
        ("http_429", 2.0),
        (None, None),
    ]


@on_one_store
async def test_more_retries_in_a_row_than_a_queue_allows_deliveries_lose_nothing(client: Client) -> None:
    attempts = WORK_DELIVERY_LIMIT + 4
    page = f"/flaky/{uuid.uuid4()}"
    job = await client.submit(
        "fetch", f"{page}?fail={attempts - 1}", retry={**QUICK_RETRY, "max_attempts": attempts}
    )

    done = await client.job_in(job["id"], "succeeded", "parked", deadline_seconds=150)

    assert done["state"] == "succeeded"
    assert [each["number"] for each in done["attempts"]] == list(range(1, attempts + 1))
    assert (await client.hits())[page] == attempts
