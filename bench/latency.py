"""Part (d): how long an idle service takes from the POST of a job to the start of its first attempt.

`make bench ARGS=latency`. One job at a time, with a pause of no fixed length between, so that no poll of
ours and none of the service beat in step. Both ends are read off the clock of this machine: just before the
request is sent, and when the worker began the attempt, as the job's own document tells.
"""

import asyncio
import random
import sys
import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click
import httpx

from bench.report import machine, write_report
from bench.summary import percentiles
from bench.system import API, LEDGER, WORKERS, System, open_system
from deploy.local.errors import LocalError

WARM_UP_JOBS = 20
QUICK_JOBS = 20
LONGEST_PAUSE_SECONDS = 0.1
POLL_SECONDS = 0.02
DEADLINE_SECONDS = 30.0


@click.command()
@click.option("--quick", is_flag=True, help="Twenty jobs: shows that it works, its figures say nothing.")
@click.option("--jobs", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--store", default="postgresql", show_default=True, type=click.Choice(["postgresql", "sqlite"]))
def latency(quick: bool, jobs: int, store: str) -> None:
    """Time from POST to the start of the attempt, one job at a time."""
    facts = {**machine(), "store": store}
    try:
        with open_system(store, (API, LEDGER, WORKERS[0])) as system:
            waits_ms = asyncio.run(_measure(system, QUICK_JOBS if quick else jobs))
    except (LocalError, TimeoutError) as error:
        print(f"bench latency: {error}", file=sys.stderr)
        sys.exit(1)
    found = percentiles(waits_ms)
    print(f"POST to attempt, {len(waits_ms)} jobs, {store}, milliseconds: {found}")
    name = f"latency-{store}-quick" if quick else f"latency-{store}"
    print(f"written to {write_report(name, {**facts, 'milliseconds': asdict(found)})}")


async def _measure(system: System, jobs: int) -> list[float]:
    async with httpx.AsyncClient(base_url=system.api_url) as http:
        for _ in range(WARM_UP_JOBS):
            await _wait_ms(http, system.target_url)
        waits_ms = []
        for _ in range(jobs):
            await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS))
            waits_ms.append(await _wait_ms(http, system.target_url))
        return waits_ms


async def _wait_ms(http: httpx.AsyncClient, target_url: str) -> float:
    """Submit a job, let it end, and return how long it waited for its attempt."""
    body = {"kind": "check", "args": {"url": f"{target_url}/page", "method": "GET"}}
    sent_at_seconds = time.time()
    submitted = (await http.post("/jobs", json=body)).raise_for_status().json()
    async with asyncio.timeout(DEADLINE_SECONDS):
        started_at = await _first_start(http, submitted["id"])
    return (started_at.timestamp() - sent_at_seconds) * 1_000


async def _first_start(http: httpx.AsyncClient, job_id: str) -> datetime:
    while True:
        job: dict[str, Any] = (await http.get(f"/jobs/{job_id}")).raise_for_status().json()
        if job["attempts"]:
            return datetime.fromisoformat(job["attempts"][0]["started_at"])
        await asyncio.sleep(POLL_SECONDS)
