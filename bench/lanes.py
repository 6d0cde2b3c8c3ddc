"""Part (k): one interactive check at a time, alone and while a batch of the bulk lane runs.

`make bench ARGS=lanes`. Each is measured from its POST to the first look that finds its end recorded,
and to the start of its attempt, as its document says. A worker for each lane, as docs/running.md
says for who has people that wait. What the ledger and the workers spend on the batch is told beside it.
"""

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import click
import httpx

from bench.batch import Json, submit_lines, wait_finished, warm_up_lines
from bench.cost import cpu_seconds, family
from bench.report import machine, write_report
from bench.system import API, LANE_WORKERS, LEDGER, POSTGRESQL, STORES, System, open_system
from deploy.local.errors import ControlFailed, LocalError

PROCESSES = (API, LEDGER, *LANE_WORKERS)
MAX_TIMES = 2.5
"""How much longer nine of ten may take under load than half of them do alone."""

LONGEST_PAUSE_SECONDS = 0.1
POLL_SECONDS = 0.02
REQUEST_SECONDS = 120.0
DEADLINE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds from the POST, of how many checks."""

    checks: int
    start_p50: float
    start_p90: float
    recorded_p50: float
    recorded_p90: float
    recorded_p99: float


@click.command()
@click.option("--quick", is_flag=True, help="A small batch: shows that it works, its figures say nothing.")
@click.option("--batch", "lines", default=60_000, show_default=True, type=click.IntRange(1_000))
@click.option("--checks", default=100, show_default=True, type=click.IntRange(10), help="Alone.")
@click.option("--store", default=POSTGRESQL, show_default=True, type=click.Choice(STORES))
def lanes(quick: bool, lines: int, checks: int, store: str) -> None:
    """One interactive check at a time while a batch of the bulk lane runs."""
    lines, checks = (1_000, 10) if quick else (lines, checks)
    try:
        with open_system(store, PROCESSES) as system:
            report = {**machine(), "store": store, "lines": lines}
            report |= asyncio.run(_measure(system, lines, checks))
    except (LocalError, TimeoutError) as error:
        print(f"bench lanes: {error}", file=sys.stderr)
        sys.exit(1)
    print(report)
    print(f"written to {write_report(f'lanes-{store}-quick' if quick else f'lanes-{store}', report)}")


async def _measure(system: System, lines: int, checks: int) -> Json:
    async with httpx.AsyncClient(base_url=system.api_url, timeout=REQUEST_SECONDS) as http:
        warm_up = await submit_lines(http, system.target_url, warm_up_lines(lines))
        await wait_finished(http, warm_up["id"], deadline_seconds=DEADLINE_SECONDS)
        alone = [await _check(http, system.target_url) for _ in range(checks)]
        batch = await submit_lines(http, system.target_url, lines)
        began, spent = time.monotonic(), _spent(system)
        running = asyncio.create_task(wait_finished(http, batch["id"], deadline_seconds=DEADLINE_SECONDS))
        during = []
        while not running.done():
            during.append(await _check(http, system.target_url))
        seconds = time.monotonic() - began
        if (done := await running)["counts"]["succeeded"] != lines:
            raise ControlFailed(f"of {lines} jobs, not all succeeded: {done['counts']}.")
    after = _spent(system)
    times = _times(alone), _times(during)
    return {
        "alone_ms": asdict(times[0]),
        "during_ms": asdict(times[1]),
        "p90_times_lone_p50": round(times[1].recorded_p90 / times[0].recorded_p50, 2),
        "jobs_per_second": round(lines / seconds, 1),
        "cpu_seconds_per_1000": {
            name: round((after[name] - before) / lines * 1_000, 3) for name, before in spent.items()
        },
    }


def _spent(system: System) -> dict[str, float]:
    pids = {name: family(pid) for name, pid in system.pids.items()} | {"broker": system.broker_pids}
    return {name: cpu_seconds(each) for name, each in pids.items()}


async def _check(http: httpx.AsyncClient, target_url: str) -> tuple[float, float]:
    """Return how long a check took to the start of its attempt, and until it was known to be recorded."""
    await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS))
    body = {"kind": "check", "args": {"url": f"{target_url}/page", "method": "GET"}}
    sent_at = time.time()
    submitted = (await http.post("/jobs", json=body)).raise_for_status().json()
    async with asyncio.timeout(DEADLINE_SECONDS):
        job = await _ended(http, submitted["id"])
    recorded_at = time.time()
    if job["state"] != "succeeded":
        raise ControlFailed(f"a check has {job['state']}: {job}")
    started_at = datetime.fromisoformat(job["attempts"][0]["started_at"]).timestamp()
    return (started_at - sent_at) * 1_000, (recorded_at - sent_at) * 1_000


async def _ended(http: httpx.AsyncClient, job_id: str) -> Json:
    while True:
        job: Json = (await http.get(f"/jobs/{job_id}")).raise_for_status().json()
        if job["finished_at"]:
            return job
        await asyncio.sleep(POLL_SECONDS)


def _times(found: Sequence[tuple[float, float]]) -> Times:
    starts, records = (sorted(each) for each in zip(*found, strict=True))
    return Times(
        len(found),
        *(_part(starts, part) for part in (0.5, 0.9)),
        *(_part(records, part) for part in (0.5, 0.9, 0.99)),
    )


def _part(ordered: Sequence[float], part: float) -> float:
    return round(ordered[min(int(len(ordered) * part), len(ordered) - 1)], 1)
