"""Two API and two ledger processes on one store: what was asked for once is done once."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.support.client import Client, Json
from tests.support.system import System
from tests.support.waiting import eventually

SUBMITS = 1_000
KEYS = 100
RUNS = 10


@pytest.fixture(scope="module")
def api_urls(system: System) -> Iterator[tuple[str, str]]:
    """Yield the addresses of both APIs, while a second of each process runs."""
    with system.second_pair() as other_url:
        yield system.api_url, other_url


@pytest.fixture(scope="module")
def schedule(system: System, api_urls: tuple[str, str]) -> Json:
    """Return a schedule that makes a job every second, while the tests go on."""
    starts_at = datetime.now(UTC) + timedelta(seconds=2)
    job = {"kind": "check", "args": {"url": f"{system.site_url}/ok/{uuid.uuid4()}"}}
    submission = {"every_seconds": 1, "starts_at": starts_at.isoformat(), "overlap": "allow", "job": job}
    answer = httpx.post(f"{api_urls[0]}/schedules", json=submission, headers=system.headers, timeout=30)
    assert answer.status_code == 201, answer.text
    return {**answer.json(), "starts_at": starts_at}


@pytest.mark.usefixtures("schedule")
async def test_a_thousand_submits_with_a_hundred_keys_make_a_hundred_jobs(
    client: Client, api_urls: tuple[str, str]
) -> None:
    run = uuid.uuid4()
    # The client's own pool slows down with the square of the requests that wait for it.
    turns = asyncio.Semaphore(64)

    async def submit(number: int) -> tuple[int, str]:
        # Each key comes to either API, five times in a row.
        url, name = f"{api_urls[number // KEYS % 2]}/jobs", number % KEYS
        job = {
            "kind": "check",
            "args": {"url": client.site(f"/ok/{run}-{name}")},
            "labels": {"run": str(run)},
        }
        async with turns:
            answer = await client.http.post(url, json=job, headers={"Idempotency-Key": f"{run} {name}"})
        return answer.status_code, answer.json()["id"]

    answers = await asyncio.gather(*(submit(number) for number in range(SUBMITS)))

    assert Counter(status for status, _ in answers) == {202: SUBMITS}
    ids = {job_id for _, job_id in answers}
    assert len(ids) == KEYS
    stored = [job for job in await newest_jobs(client) if job["labels"] == {"run": str(run)}]
    assert {job["id"] for job in stored} == ids and len(stored) == KEYS

    async def all_run() -> bool:
        return all(job["state"] == "succeeded" for job in await newest_jobs(client) if job["id"] in ids)

    await eventually(all_run, deadline_seconds=60)
    # And each was done once.
    hits = await client.hits()
    assert [hits[f"/ok/{run}-{name}"] for name in range(KEYS)] == [1] * KEYS


async def test_a_schedule_every_second_makes_one_job_for_each_second(
    client: Client, api_urls: tuple[str, str], schedule: Json
) -> None:
    path = f"/schedules/{schedule['id']}"

    async def has_made_its_runs() -> bool:
        return bool((await client.http.get(f"{api_urls[1]}{path}")).json()["runs"] >= RUNS)

    await eventually(has_made_its_runs, deadline_seconds=60)
    paused = (await client.http.post(f"{api_urls[1]}{path}/pause")).json()

    async def finished_jobs() -> list[Json] | None:
        query = {"schedule": schedule["id"], "limit": 1_000}
        jobs: list[Json] = (await client.http.get("/jobs", params=query)).json()["items"]
        return jobs if all(job["state"] == "succeeded" for job in jobs) else None

    jobs = await eventually(finished_jobs)
    # One run for each second, none left out and none made twice.
    last_run_at = datetime.fromisoformat(paused["last_run"]["run_at"])
    assert last_run_at == schedule["starts_at"] + timedelta(seconds=paused["runs"] - 1)
    assert len(jobs) == paused["runs"]
    assert (paused["skipped"], paused["last_error"]) == (0, None)


async def newest_jobs(client: Client) -> list[Json]:
    """Return the newest thousand jobs."""
    return list((await client.http.get("/jobs?limit=1000")).json()["items"])
