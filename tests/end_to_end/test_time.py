"""Times, end to end: not before, and not after."""

import uuid
from datetime import datetime, timedelta

from tests.support.client import Client
from tests.support.stores import on_one_store
from tests.support.waiting import eventually


@on_one_store
async def test_a_job_with_a_time_is_not_run_before_it(client: Client) -> None:
    job = await client.submit("check", f"/ok/{uuid.uuid4()}", delay_seconds=2)

    assert job["state"] == "scheduled"
    done = await client.job_in(job["id"], "succeeded")
    assert len(done["attempts"]) == 1
    late = _moment(done["attempts"][0]["started_at"]) - _moment(job["due_at"])
    assert timedelta(0) <= late < timedelta(seconds=10)


@on_one_store
async def test_a_job_whose_retry_would_come_too_late_is_parked_as_expired(client: Client) -> None:
    retry = {"first_delay_seconds": 4, "jitter": False}
    page = f"/flaky/{uuid.uuid4()}"
    job = await client.submit("fetch", page, retry=retry, expires_after_seconds=2)

    parked = await client.job_in(job["id"], "parked")

    assert parked["reason"] == "expired"
    assert [(each["number"], each["reason"]) for each in parked["attempts"]] == [(1, "http_503")]

    async def is_in_the_parking_queue() -> bool:
        return job["id"] in await client.parked_job_ids()

    # Its message comes out of the delay queue to a worker, which does no work for it.
    await eventually(is_in_the_parking_queue)
    after = await client.job(job["id"])
    assert (after["state"], after["attempts"]) == ("parked", parked["attempts"])
    assert (await client.hits())[page] == 1


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
