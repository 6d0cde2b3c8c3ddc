"""Times, end to end: not before, not after, and every second, with two of each process."""

import uuid
from datetime import UTC, datetime, timedelta

import httpx

from tests.support.client import Client, Json
from tests.support.waiting import eventually

RUNS = 20


async def test_a_job_with_a_time_is_not_run_before_it(client: Client) -> None:
    job = await client.submit("check", f"/ok/{uuid.uuid4()}", delay_seconds=2)

    assert job["state"] == "scheduled"
    done = await client.job_in(job["id"], "succeeded")
    assert len(done["attempts"]) == 1
    late = _moment(done["attempts"][0]["started_at"]) - _moment(job["due_at"])
    assert timedelta(0) <= late < timedelta(seconds=10)


async def test_a_job_whose_retry_would_come_too_late_is_parked_as_expired(client: Client) -> None:
    retry = {"first_delay_seconds": 8, "jitter": False}
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


async def test_a_schedule_every_second_makes_each_run_once_with_two_ledgers(client: Client) -> None:
    with client.system.second_pair() as other_url:
        async with httpx.AsyncClient(base_url=other_url, timeout=30.0) as other:
            starts_at = datetime.now(UTC) + timedelta(seconds=2)
            schedule = await _create_schedule(client, starts_at)
            path = f"/schedules/{schedule['id']}"

            async def has_made_its_runs() -> bool:
                return bool((await other.get(path)).json()["runs"] >= RUNS)

            await eventually(has_made_its_runs, deadline_seconds=60)
            paused = (await other.post(f"{path}/pause")).json()

            jobs = await eventually(lambda: _finished_jobs(client, schedule["id"], paused["runs"]))

    last_run_at = _moment(paused["last_run"]["run_at"])
    # One run for each second, none left out and none made twice.
    assert last_run_at == starts_at + timedelta(seconds=paused["runs"] - 1)
    assert len(jobs) == len({job["id"] for job in jobs}) == paused["runs"]
    assert (paused["skipped"], paused["last_error"]) == (0, None)


async def _create_schedule(client: Client, starts_at: datetime) -> Json:
    job = {"kind": "check", "args": {"url": client.site(f"/ok/{uuid.uuid4()}")}}
    submission = {"every_seconds": 1, "starts_at": starts_at.isoformat(), "overlap": "allow", "job": job}
    answer = await client.http.post("/schedules", json=submission)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def _finished_jobs(client: Client, schedule_id: str, at_least: int) -> list[Json] | None:
    page = (await client.http.get("/jobs", params={"schedule": schedule_id, "limit": 1_000})).json()
    jobs: list[Json] = page["items"]
    is_done = len(jobs) >= at_least and all(job["state"] == "succeeded" for job in jobs)
    return jobs if is_done else None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
