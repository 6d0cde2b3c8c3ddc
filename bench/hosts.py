"""Part (i): what hosts get of what they allow, over the whole fleet, and how batches share it.

`make bench ARGS="hosts --part one-host"`. The site counts: who asks a host harder than its limit is found
there, and not by us. Hosts are addresses of 127.0.0.0/8, so that each is a host and a machine by itself.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click
import httpx

from bench.batch import POLL_SECONDS, progress, wait_finished
from bench.polite_site import PoliteSite, most_within
from bench.report import machine, write_report
from bench.summary import percentiles
from bench.system import API, LEDGER, POSTGRESQL, STORES, System, open_system
from deploy.local.errors import ControlFailed, LocalError
from deploy.local.ports import free_port
from producer.hosts import HostLimits
from producer.store import outbox
from producer.store.database import Database
from producer.store.hosts import HostTurns
from shared.clock import utc_now
from shared.hosts import HostLimit

CONCURRENCY, RATE = 8, 20
LIMITS = {
    "RETRIEVER_HOST_CONCURRENCY": str(CONCURRENCY),
    "RETRIEVER_HOST_RATE_PER_SECOND": str(RATE),
    "RETRIEVER_HOST_FAILURES": "10",
}
REQUEST_SECONDS = 600.0
DEADLINE_SECONDS = 900.0
KILL_EVERY_SECONDS = 10.0
HELD_QUESTIONS = 200
NAMES = ("one-host", "slow-hosts", "small-batch", "paused", "held")

Figures = dict[str, Any]


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the jobs: its figures say nothing.")
@click.option("--store", default=POSTGRESQL, show_default=True, type=click.Choice(STORES))
@click.option(
    "--part", "parts", multiple=True, help="Some of: one-host, slow-hosts, small-batch, paused, held."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 4))
@click.option("--ledgers", default=1, show_default=True, type=click.IntRange(1, 2))
@click.option("--faults", is_flag=True, help="A worker is killed every 10 s, the broker restarted once.")
@click.option("--jobs", default=0, type=click.IntRange(0), help="Instead of those of the part.")
def hosts(  # noqa: PLR0917 - options, by name
    quick: bool, store: str, parts: Sequence[str], workers: int, ledgers: int, faults: bool, jobs: int
) -> None:
    """What hosts get of what they allow, and how batches share the fleet."""
    processes = [API, LEDGER, *(["ledger-2"] if ledgers > 1 else [])]
    processes += [f"worker-{number}" for number in range(1, workers + 1)]
    for part in parts or PARTS:
        report: Figures = {**machine(), "store": store, "workers": workers, "ledgers": ledgers, "part": part}
        try:
            with (
                _serving() as (site, port),
                open_system(store, processes, settings=LIMITS) as system,
                _faults(system, processes if faults else ()),
            ):
                report |= asyncio.run(PARTS[part](system, site, port, jobs, 10 if quick else 1))
        except (LocalError, TimeoutError) as error:
            print(f"bench hosts: {error}", file=sys.stderr)
            sys.exit(1)
        print(report, flush=True)
        write_report(f"hosts-{part}-{store}{'-quick' if quick else ''}", report)


async def _one_host(system: System, site: PoliteSite, port: int, jobs: int, divisor: int) -> Figures:
    """One host, of whose URLs each tenth answers 503 twice."""
    jobs = jobs or 3_000 // divisor
    seconds = await _timed(system, [f"http://127.0.0.1:{port}/flaky/{number}" for number in range(jobs)])
    host = site.hosts["127.0.0.1"]
    return {
        "jobs": jobs,
        "seconds": seconds,
        "requests": len(host.asked_at),
        "most_at_once": host.most_at_once,
        "most_in_a_second": most_within(host.asked_at),
        "a_second": round(len(host.asked_at) / (host.asked_at[-1] - host.asked_at[0]), 2),
    }


async def _slow_hosts(system: System, site: PoliteSite, port: int, jobs: int, divisor: int) -> Figures:
    """Five hundred hosts in turn, and again with ten slow ones."""
    jobs = jobs or 50_000 // divisor
    figures: Figures = {"jobs": jobs}
    for name, slow in (("without", 0), ("with", 10)):
        lines = [
            f"http://127.{1 if slow else 2}.{number % 500 // 250}.{number % 250 + 1}:{port}"
            f"/{'slow' if number % 500 < slow else 'fast'}/{number}"
            for number in range(jobs)
        ]
        fast = jobs // 500 * (500 - slow)
        began = time.time()
        async with _http(system) as http:
            batch = await _submit(http, lines)
            async for now in progress(http, batch["id"]):
                if now["counts"].get("succeeded", 0) >= fast:
                    figures[f"{name}_seconds_of_the_others"] = round(time.time() - began, 1)
                    await http.post(f"/batches/{batch['id']}/cancel")
                    break
    return figures


async def _small_batch(system: System, _: PoliteSite, port: int, jobs: int, divisor: int) -> Figures:
    """A small batch alone, and ten seconds after a large one; all hosts distinct."""
    large, small = jobs or 200_000 // divisor, 1_000
    await _timed(system, _distinct(port, 0, small))
    alone = [await _timed(system, _distinct(port, 1 + number, small)) for number in range(3)]
    async with _http(system) as http:
        batch = await _submit(http, _distinct(port, 8, large))
        await asyncio.sleep(10 / divisor)
        behind = [await _timed(system, _distinct(port, 4 + number, small)) for number in range(3)]
        await http.post(f"/batches/{batch['id']}/cancel")
    return {"large": large, "alone_seconds": alone, "behind_seconds": behind}


async def _paused(system: System, site: PoliteSite, port: int, jobs: int, divisor: int) -> Figures:
    """A host that says 429 with `Retry-After: 30`."""
    jobs = jobs or 400
    seconds = await _timed(system, [f"http://127.0.0.1:{port}/limited/{number}" for number in range(jobs)])
    host = site.hosts["127.0.0.1"]
    assert host.limited_at is not None
    after = [at - host.limited_at for at in host.asked_at if at > host.limited_at]
    return {
        "jobs": jobs,
        "seconds": seconds,
        "asked_within_30_s": [round(each, 3) for each in after if each < 30],
        "asked_from": round(min(each for each in after if each >= 30), 2),
        "in_the_10_s_after": sum(30 <= each < 40 for each in after),
        "in_the_10_s_after_those": sum(40 <= each < 50 for each in after),
    }


async def _held(system: System, _: PoliteSite, port: int, jobs: int, divisor: int) -> Figures:
    """Very many jobs of one host: what a ledger claims of them, what is told of them, and their end."""
    jobs = jobs or 1_000_000 // divisor
    database = Database.open(system.database_url)
    began = time.monotonic()
    async with _http(system) as http:
        batch = await _submit(http, [f"http://127.0.0.1:{port}/fast/{number}" for number in range(jobs)])
        stored = time.monotonic() - began
        await _until_held(http, jobs * 0.98)
        held = time.monotonic() - began
        page = await _get(http, f"/jobs?batch_id={batch['id']}&state=accepted&limit=1000")
        some = [job["id"] for job in page["items"]]
        asked = {
            "job": [f"/jobs/{some[7 * number % len(some)]}" for number in range(HELD_QUESTIONS)],
            "list": [f"/jobs?batch_id={batch['id']}&state=accepted&limit=50"] * HELD_QUESTIONS,
            "hosts": ["/hosts"] * HELD_QUESTIONS,
        }
        figures: Figures = {"jobs": jobs, "stored_seconds": round(stored, 1), "held_seconds": round(held, 1)}
        for name, paths in asked.items():
            figures[f"{name}_ms"] = asdict(percentiles([await _asked_ms(http, path) for path in paths]))
        claims = await asyncio.to_thread(_claims_ms, database)
        figures["claims_ms"] = asdict(percentiles(claims))
        began = time.monotonic()
        (await http.post(f"/batches/{batch['id']}/cancel")).raise_for_status()
        figures["cancel_seconds"] = round(time.monotonic() - began, 1)
    return figures


async def _until_held(http: httpx.AsyncClient, jobs: float) -> None:
    """Return when hosts hold as many jobs."""
    while True:
        if sum(host["waiting"] for host in (await _get(http, "/hosts"))["items"]) >= jobs:
            return
        await asyncio.sleep(POLL_SECONDS)


def _claims_ms(database: Database) -> list[float]:
    """Claim as one more ledger does, when there is room; what it gets is published by another, later."""
    turns = HostTurns(HostLimits(HostLimit(CONCURRENCY, RATE)))
    took: list[float] = []
    while len(took) < HELD_QUESTIONS:
        began = time.perf_counter()
        database.write(outbox.claim_held, turns, limit=1_000, lease_seconds=1.0, now=utc_now())
        took.append((time.perf_counter() - began) * 1_000)
        time.sleep(0.02)
    return took


async def _asked_ms(http: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    await _get(http, path)
    return (time.perf_counter() - began) * 1_000


async def _get(http: httpx.AsyncClient, path: str) -> Figures:
    return dict((await http.get(path)).raise_for_status().json())


_RUNS = (_one_host, _slow_hosts, _small_batch, _paused, _held)
PARTS: Mapping[str, Callable[..., Any]] = dict(zip(NAMES, _RUNS, strict=True))


def _distinct(port: int, net: int, count: int) -> list[str]:
    return [
        f"http://127.{16 * net + number // 65_025}.{number // 255 % 255}.{number % 255}:{port}/fast/{number}"
        for number in range(1, count + 1)
    ]


def _http(system: System) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=system.api_url, timeout=REQUEST_SECONDS)


async def _timed(system: System, lines: Sequence[str]) -> float:
    """Return how many seconds a batch took, from its POST until its last job was recorded."""
    began = time.time()
    async with _http(system) as http:
        batch = await _submit(http, lines)
        done = await wait_finished(http, batch["id"], deadline_seconds=DEADLINE_SECONDS)
    if done["counts"]["succeeded"] != len(lines):
        raise ControlFailed(f"of {len(lines)} jobs, not all succeeded: {done['counts']}.")
    return round(datetime.fromisoformat(done["finished_at"]).timestamp() - began, 2)


async def _submit(http: httpx.AsyncClient, lines: Sequence[str]) -> Figures:
    async def body() -> AsyncIterator[bytes]:
        for first in range(0, len(lines), 2_000):
            yield "".join(f"{line}\n" for line in lines[first : first + 2_000]).encode()

    headers = {"Content-Type": "text/plain"}
    answer = await http.post("/batches?kind=check&lane=bulk", content=body(), headers=headers)
    return dict(answer.raise_for_status().json())


@contextmanager
def _serving() -> Iterator[tuple[PoliteSite, int]]:
    """Serve the site in a thread."""
    site, port = PoliteSite(), free_port()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(site.connect, "0.0.0.0", port, backlog=4_096))  # noqa: S104 - as every address of 127.0.0.0/8
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield site, port
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


@contextmanager
def _faults(system: System, processes: Sequence[str]) -> Iterator[None]:
    """Kill one worker after another, and restart the broker once, while inside."""
    over = threading.Event()
    workers = [name for name in processes if name.startswith("worker")]

    def make() -> None:
        number = 0
        while workers and not over.wait(KILL_EVERY_SECONDS):
            name = workers[number % len(workers)]
            os.killpg(system.pids[name], signal.SIGKILL)
            system.start(name)
            number += 1
            if number == 4:
                system.restart_broker()

    thread = threading.Thread(target=make)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
