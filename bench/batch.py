"""One large batch: handed in as one streamed request, waited for, and counted again by its results."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson

from shared.states import JobState

LINES_A_CHUNK = 2_000
POLL_SECONDS = 0.25
_WARM_UP_LINES = 500

Json = dict[str, Any]


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


def warm_up_lines(lines: int) -> int:
    """Return how many lines a first batch has, that pays for caches, pools and connections."""
    return min(_WARM_UP_LINES, lines // 10)


async def progress(http: httpx.AsyncClient, batch_id: str) -> AsyncIterator[Json]:
    """Yield a batch as it is, again and again, the last time finished."""
    while True:
        batch: Json = (await http.get(f"/batches/{batch_id}")).raise_for_status().json()
        yield batch
        if batch["finished_at"]:
            return
        await asyncio.sleep(POLL_SECONDS)


async def wait_finished(http: httpx.AsyncClient, batch_id: str, *, deadline_seconds: float) -> Json:
    """Return a batch when all its jobs are recorded.

    Raises:
        TimeoutError: they were not in time.
    """
    async with asyncio.timeout(deadline_seconds):
        last = {}
        async for batch in progress(http, batch_id):
            last = batch
        return last


def ended(batch: Json) -> int:
    """Return how many jobs of a batch have ended."""
    return sum(number for state, number in batch["counts"].items() if JobState(state).is_final)


async def recount(http: httpx.AsyncClient, batch_id: str) -> tuple[Json, int]:
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


async def check_bare(api_url: str, target_url: str, lines: int, *, deadline_seconds: float) -> None:
    """Check so many URLs and read what became of them, as a script of a few lines does.

    Raises:
        RuntimeError: not all of them were good.
    """
    async with httpx.AsyncClient(base_url=api_url, timeout=deadline_seconds) as http:
        batch = await submit_lines(http, target_url, lines)
        await wait_finished(http, batch["id"], deadline_seconds=deadline_seconds)
        states, ids = await recount(http, batch["id"])
    if ids != lines or states.get("succeeded") != lines:
        raise RuntimeError(f"of {lines} URLs {ids} were checked: {states}")


if __name__ == "__main__":
    # `python -m bench.batch API TARGET URLS SECONDS`: a process of its own.
    asyncio.run(check_bare(sys.argv[1], sys.argv[2], int(sys.argv[3]), deadline_seconds=float(sys.argv[4])))
