"""One large batch, from one streamed request to its streamed results: seconds, counts, memory.

`.venv/bin/python -m bench.batch --lines 200000 --store sqlite` prints a report, also into bench/results/.
"""

import asyncio
import platform
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import httpx
import orjson

from bench.completions import Completions, counted_completions
from bench.memory import MemoryWatch
from bench.system import System, open_system
from deploy.local.errors import LocalError

RESULTS = Path(__file__).parent / "results"
WARM_UP_LINES = 500
LINES_A_CHUNK = 2_000
POLL_SECONDS = 0.5
FIRST_COMPLETION_SECONDS = 30.0
MORE_COMPLETIONS_SECONDS = 3.0
REQUEST_SECONDS = 900.0

Json = dict[str, Any]


@click.command()
@click.option("--lines", default=200_000, show_default=True, type=click.IntRange(1))
@click.option("--store", default="postgresql", show_default=True, type=click.Choice(["postgresql", "sqlite"]))
@click.option("--deadline-seconds", default=3_600.0, show_default=True)
def main(lines: int, store: str, deadline_seconds: float) -> None:
    """Measure one batch of so many lines."""
    try:
        with open_system(store) as system:
            report = asyncio.run(_measure(system, lines, deadline_seconds))
    except LocalError as error:
        print(f"bench.batch: {error}", file=sys.stderr)
        sys.exit(1)
    _publish({"store": store, "lines": lines, **_machine(), **report})


async def _measure(system: System, lines: int, deadline_seconds: float) -> Json:
    async with (
        httpx.AsyncClient(base_url=system.api_url, timeout=REQUEST_SECONDS) as http,
        counted_completions(system.amqp_url) as completions,
    ):
        # The first batch pays for caches and pools; what comes after must not grow with the number of lines.
        warm_up = await submit_lines(http, system.target_url, WARM_UP_LINES)
        await _finished(http, warm_up["id"], deadline_seconds)
        return await _measure_batch(system, http, completions, lines, deadline_seconds)


async def _measure_batch(
    system: System, http: httpx.AsyncClient, completions: Completions, lines: int, deadline_seconds: float
) -> Json:
    memory, began = MemoryWatch(system.pids), time.monotonic()
    with memory.phase("submit"):
        batch = await submit_lines(http, system.target_url, lines)
    accepted = time.monotonic()
    with memory.phase("run"):
        done = await _finished(http, batch["id"], deadline_seconds)
    finished = time.monotonic()
    with memory.phase("results"):
        states, ids = await _recount(http, batch["id"])
    streamed = time.monotonic()
    counts = {state: number for state, number in done["counts"].items() if number}
    told = await completions.settled(
        batch["id"], first_seconds=FIRST_COMPLETION_SECONDS, more_seconds=MORE_COMPLETIONS_SECONDS
    )
    return {
        "seconds_to_202": round(accepted - began, 2),
        "seconds_to_finished": round(finished - began, 2),
        "seconds_of_results": round(streamed - finished, 2),
        "jobs_per_second": round(lines / (finished - began), 1),
        "total": done["total"],
        "rejected": done["rejected"]["count"],
        "counts": counts,
        "recount_agrees": states == counts and ids == done["total"] == lines,
        "completion_messages": told,
        "memory_mebibytes": memory.report(),
    }


async def submit_lines(http: httpx.AsyncClient, target_url: str, lines: int) -> Json:
    """Submit a batch of so many lines as one streamed request, and return it as it was accepted."""

    async def body() -> AsyncIterator[bytes]:
        for first in range(0, lines, LINES_A_CHUNK):
            numbers = range(first, min(lines, first + LINES_A_CHUNK))
            yield "".join(f"{target_url}/{number}\n" for number in numbers).encode()

    headers = {"Content-Type": "text/plain"}
    answer = await http.post("/batches?kind=check&lane=bulk", content=body(), headers=headers)
    answer.raise_for_status()
    return dict(answer.json())


async def _finished(http: httpx.AsyncClient, batch_id: str, deadline_seconds: float) -> Json:
    async with asyncio.timeout(deadline_seconds):
        while True:
            batch = (await http.get(f"/batches/{batch_id}")).raise_for_status().json()
            if batch["finished_at"]:
                return dict(batch)
            await asyncio.sleep(POLL_SECONDS)


async def _recount(http: httpx.AsyncClient, batch_id: str) -> tuple[Json, int]:
    """Return how many jobs the results show in each state, and how many ids."""
    states: Counter[str] = Counter()
    ids: set[str] = set()
    async with http.stream("GET", f"/batches/{batch_id}/results?format=ndjson") as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            job = orjson.loads(line)
            states[job["state"]] += 1
            ids.add(job["id"])
    return dict(states), len(ids)


def _machine() -> Json:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _publish(report: Json) -> None:
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2).decode()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"batch-{report['store']}-{report['lines']}.json"
    path.write_text(text + "\n")
    print(text)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
