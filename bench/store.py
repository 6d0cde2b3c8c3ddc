"""Part (g): what a person waits for at a store with a million jobs: lists, searches, counts, a redrive.

`make bench ARGS=store`. Every question goes to a real API process by HTTP, on a connection that is open
already, and has other arguments each time; one of each question is asked in turn, so that what else happens
on the machine meets all of them. A redrive is the request that orders it, and the pages in which a ledger
does it, without the pauses of its rate.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import click
import httpx

from bench.filling import copy_hour, write_hour
from bench.questions import QUESTIONS, Asker
from bench.report import machine, write_report
from bench.stock import HOUR, make_hour
from bench.summary import Percentiles, percentiles
from bench.system import API, STORES, System, open_store
from deploy.local.errors import LocalError
from producer.parking import OperationState
from producer.store import batches, bulk_actions
from producer.store.database import Database

JOBS_AN_HOUR, QUICK_JOBS_AN_HOUR = 10_000, 500
QUICK_HOURS, QUICK_REQUESTS, QUICK_REDRIVES = 4, 5, 3
REDRIVES = 40
WARM_UP_REQUESTS = 2
REQUEST_SECONDS = 60.0
# The highest that there is: a page of it is 500 jobs.
RATE_PER_SECOND = 1_000
TARGET_MS = 50.0


@dataclass(frozen=True, slots=True)
class Redrives:
    """What the redrives of whole groups came to."""

    groups: int
    jobs: int
    order_ms: Percentiles
    seconds_per_1000: float


@click.command()
@click.option("--quick", is_flag=True, help="Two thousand jobs, a few requests: its figures say nothing.")
@click.option("--jobs", default=1_000_000, show_default=True, type=click.IntRange(JOBS_AN_HOUR))
@click.option("--requests", default=300, show_default=True, type=click.IntRange(1), help="Of each question.")
@click.option("--store", "stores", multiple=True, type=click.Choice(STORES), help="Both, if none is named.")
def store(quick: bool, jobs: int, requests: int, stores: Sequence[str]) -> None:
    """How long questions to a store of a million jobs take, and a redrive."""
    hours, an_hour = (QUICK_HOURS, QUICK_JOBS_AN_HOUR) if quick else (jobs // JOBS_AN_HOUR, JOBS_AN_HOUR)
    requests, redrives = (QUICK_REQUESTS, QUICK_REDRIVES) if quick else (requests, REDRIVES)
    for name in stores or STORES:
        report: dict[str, Any] = {**machine(), "store": name, "jobs": hours * an_hour, "requests": requests}
        try:
            with open_store(name) as system:
                asker = _fill(system, hours, an_hour)
                report["filled_and_ready_at"] = datetime.now(UTC).isoformat(timespec="seconds")
                system.start(API)
                found = _ask_all(system, asker, requests)
                redriven = _redrive(system, redrives)
        except LocalError as error:
            print(f"bench store: {error}", file=sys.stderr)
            sys.exit(1)
        print(f"\n{table(name, hours * an_hour, found)}\n\n{redriven}\n")
        report |= {"ms": {question: asdict(each) for question, each in found.items()}}
        path = write_report(
            f"store-{name}-quick" if quick else f"store-{name}", {**report, "redrive": asdict(redriven)}
        )
        print(f"written to {path}")


def table(store: str, jobs: int, found: Mapping[str, Percentiles]) -> str:
    """Return the milliseconds as a Markdown table, in the order asked; what is too slow is bold."""
    head = (
        f"### {store}, {jobs:,} jobs",
        "",
        "| question | p50 ms | p99 ms | highest |",
        "| --- | ---: | ---: | ---: |",
    )
    lines = (
        f"| {question} | {each.p50:.1f} | {_marked(each.p99)} | {each.highest:.1f} |"
        for question, each in found.items()
    )
    return "\n".join([*head, *lines])


def _marked(p99_ms: float) -> str:
    return f"**{p99_ms:.1f}**" if p99_ms > TARGET_MS else f"{p99_ms:.1f}"


def _fill(system: System, hours: int, jobs_an_hour: int) -> Asker:
    began = time.monotonic()
    hour = make_hour(datetime.now(UTC) - HOUR, jobs_an_hour)
    job_store = Database.open(system.database_url)
    try:
        write_hour(job_store, hour)
        copy_hour(system.database_url, hour, copies=hours - 1)
        if wrong := job_store.read(batches.wrong_counts, hour.biggest):
            raise AssertionError(f"the store was filled with wrong counts: {wrong}")
    finally:
        job_store.close()
    print(f"{hours * jobs_an_hour:,} jobs in {time.monotonic() - began:.0f} s", flush=True)
    return Asker(Random(hours), hour, hours)


def _ask_all(system: System, asker: Asker, requests: int) -> dict[str, Percentiles]:
    waits_ms: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    with httpx.Client(base_url=system.api_url, timeout=REQUEST_SECONDS) as http:
        for number in range(WARM_UP_REQUESTS + requests):
            for name, question in QUESTIONS.items():
                wait_ms = _timed_ms(http, "GET", question(asker))
                if number >= WARM_UP_REQUESTS:
                    waits_ms[name].append(wait_ms)
    return {name: percentiles(each) for name, each in waits_ms.items()}


def _redrive(system: System, groups: int) -> Redrives:
    """Redrive the largest groups, one after another, each in the pages of a ledger."""
    orders_ms, jobs, seconds = [], 0, 0.0
    job_store = Database.open(system.database_url)
    with httpx.Client(base_url=system.api_url, timeout=REQUEST_SECONDS) as http:
        largest = http.get("/parked", params={"limit": groups}).raise_for_status().json()["items"]
        for group in largest:
            body = {"filter": {"group": group["group"]}, "rate_per_second": RATE_PER_SECOND}
            orders_ms.append(_timed_ms(http, "POST", "/parked/redrive", json=body))
            began = time.monotonic()
            jobs += _make_pages(job_store)
            seconds += time.monotonic() - began
    job_store.close()
    return Redrives(len(largest), jobs, percentiles(orders_ms), round(seconds / jobs * 1_000, 3))


def _make_pages(job_store: Database) -> int:
    """Do the one operation there is, and return how many jobs it moved."""
    now, moved = datetime.now(UTC), 0
    while page := job_store.write(bulk_actions.make_page, now=now):
        moved += len(page.moved)
        if page.operation.state is OperationState.DONE:
            break
        now += timedelta(seconds=1)
    return moved


def _timed_ms(http: httpx.Client, method: str, path: str, **body: Any) -> float:
    began = time.perf_counter()
    http.request(method, path, **body).raise_for_status()
    return (time.perf_counter() - began) * 1_000
