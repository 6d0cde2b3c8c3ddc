"""Callbacks through the whole service, to a receiver that verifies with a library of the standard."""

import uuid

import httpx
from standardwebhooks import Webhook

from tests.support.client import QUICK_RETRY, Client, Json
from tests.support.stores import on_one_store
from tests.support.waiting import eventually

DELIVERY_SECONDS = 40.0


async def calls_of(client: Client, key: str, *, at_least: int) -> list[Json]:
    """Return the calls that a receiver got, once there are so many."""

    async def look() -> list[Json] | None:
        calls = await client.webhook_calls(key)
        return calls if len(calls) >= at_least else None

    return await eventually(look, deadline_seconds=DELIVERY_SECONDS)


async def webhooks_of(client: Client, of: str) -> list[Json]:
    """Return the webhook jobs that tell of a job or batch."""
    jobs = (await client.http.get("/jobs", params={"kind": "webhook", "limit": 1000})).json()["items"]
    return [job for job in jobs if job["labels"].get("callback_of") == of]


@on_one_store
async def test_a_receiver_that_fails_three_times_gets_the_same_call_a_fourth_time(client: Client) -> None:
    key = str(uuid.uuid4())
    callback_url = client.site(f"/hooks/{key}?fail=3")

    job = await client.submit("fetch", "/ok", callback_url=callback_url)

    calls = await calls_of(client, key, at_least=4)
    assert len(calls) == 4
    [webhook] = await webhooks_of(client, f"job/{job['id']}")
    assert {call["headers"]["webhook-id"] for call in calls} == {webhook["id"]}
    last = calls[-1]
    for secret in client.system.webhook_secrets:
        body = Webhook(secret).verify(last["body"], last["headers"])
        assert body["type"] == "job.succeeded" and body["data"]["job_id"] == job["id"]
    done = await client.job_in(webhook["id"], "succeeded")
    assert [each["reason"] for each in done["attempts"]] == ["http_503"] * 3 + [None]
    assert done["result"]["status"] == 204


async def test_parked_and_cancelled_jobs_and_batches_call_back_once(client: Client) -> None:
    key = str(uuid.uuid4())
    callback_url = client.site(f"/hooks/{key}")
    parked = await client.submit(
        "fetch", "/missing", retry={**QUICK_RETRY, "max_attempts": 1}, callback_url=callback_url
    )
    cancelled = await client.submit("fetch", "/ok", delay_seconds=600, callback_url=callback_url)
    await client.http.post(f"/jobs/{cancelled['id']}/cancel")
    batch = await submit_batch(client, ["/ok/1", "/missing"], callback_url)

    calls = await calls_of(client, key, at_least=3)

    secret = client.system.webhook_secrets[0]
    told = [Webhook(secret).verify(call["body"], call["headers"]) for call in calls]
    assert sorted(
        (body["type"], body["data"].get("job_id") or body["data"]["id"]) for body in told
    ) == sorted(
        [
            ("job.parked", parked["id"]),
            ("job.cancelled", cancelled["id"]),
            ("batch.completed", batch["id"]),
        ]
    )
    assert len(await webhooks_of(client, f"batch/{batch['id']}")) == 1


async def test_a_receiver_that_is_gone_parks_the_webhook_at_once(client: Client) -> None:
    key = str(uuid.uuid4())
    args = {
        "url": client.site(f"/hooks/{key}?fail=99&status=410"),
        "type": "test.gone",
        "timestamp": "2026-01-02T12:00:00Z",
        "data": {},
    }

    answer = await client.http.post("/jobs", json={"kind": "webhook", "args": args})

    parked = await client.job_in(answer.json()["id"], "parked")
    assert (parked["reason"], len(parked["attempts"])) == ("http_410", 1)


async def submit_batch(client: Client, paths: list[str], callback_url: str) -> Json:
    answer: httpx.Response = await client.http.post(
        "/batches",
        json={
            "kind": "fetch",
            "lane": "interactive",
            "retry": {"max_attempts": 1},
            "items": [{"url": client.site(path)} for path in paths],
            "callback_url": callback_url,
        },
    )
    assert answer.status_code == 202, answer.text
    return dict(answer.json())
