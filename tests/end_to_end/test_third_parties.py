"""Jobs that somebody else publishes straight to the broker, through the whole service."""

import json
import uuid

from shared.broker.topology import JOBS, OUTCOMES
from shared.identity import new_id
from tests.support.client import Client, Json
from tests.support.waiting import eventually


def publish(client: Client, page: str, *, max_attempts: int = 5) -> str:
    """Publish a job with nothing of ours; return its id."""
    job_id = str(new_id())
    retry = {"max_attempts": max_attempts, "first_delay_seconds": 1, "jitter": False}
    body = {"id": job_id, "kind": "fetch", "args": {"url": client.site(page)}, "retry": retry}
    client.management.publish(client.system.vhost, JOBS, "fetch.interactive", json.dumps(body))
    return job_id


async def known(client: Client, job_id: str) -> Json:
    """Return the job once the API knows it."""

    async def look() -> Json | None:
        answer = await client.http.get(f"/jobs/{job_id}")
        return answer.json() if answer.status_code == 200 else None

    return await eventually(look)


async def test_a_job_of_a_third_party_is_found_runs_and_has_an_outcome(client: Client) -> None:
    page = f"/flaky/{uuid.uuid4()}"
    listener = client.management.bind_queue(client.system.vhost, OUTCOMES, "fetch.succeeded")
    job_id = publish(client, f"{page}?fail=1")

    await known(client, job_id)
    done = await client.job_in(job_id, "succeeded")

    assert [(each["number"], each["outcome"]) for each in done["attempts"]] == [
        (1, "failed_transient"),
        (2, "succeeded"),
    ]
    assert (await client.hits())[page] == 2

    async def outcomes() -> list[Json]:
        messages = client.management.messages(client.system.vhost, listener)
        return [each for each in messages if each["properties"]["message_id"] == job_id]

    (outcome,) = await eventually(outcomes)
    assert json.loads(outcome["payload"])["result"]["status"] == 200


async def test_a_parked_job_of_a_third_party_is_redriven_under_the_same_id(client: Client) -> None:
    page = str(uuid.uuid4())
    job_id = publish(client, f"/mendable/{page}", max_attempts=1)
    await known(client, job_id)
    parked = await client.job_in(job_id, "parked")
    assert parked["reason"] == "http_500" and job_id in await client.parked_job_ids()

    await client.mend(page)
    answer = await client.http.post(f"/jobs/{job_id}/redrive")

    assert answer.status_code == 202
    done = await client.job_in(job_id, "succeeded")
    assert [(each["run"], each["number"]) for each in done["attempts"]] == [(1, 1), (2, 1)]

    async def has_left_the_parking_queue() -> bool:
        return job_id not in await client.parked_job_ids()

    await eventually(has_left_the_parking_queue)
