"""Batches of fetches that a fault submits itself, because it must know what they do and when they end."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.faults.oracle import FINAL_STATES
from tests.faults.world import World, http_client

_AGAIN_SECONDS = 0.2
_POLL_SECONDS = 0.5
_SHOWN = 5
# Endless pages end by an order, not by themselves.
_LIMITS = {"endless": {"timeout_seconds": 120}}

Json = dict[str, Any]


def quick_retry(*, seconds: int = 1) -> Json:
    """Return a retry policy of five attempts that are always so many seconds apart."""
    return {
        "max_attempts": 5,
        "first_delay_seconds": seconds,
        "factor": 1,
        "max_delay_seconds": max(seconds, 60),
        "jitter": False,
    }


@dataclass(frozen=True, slots=True)
class OwnBatch:
    """One batch of fetches, acknowledged."""

    batch_id: str
    keys: Sequence[str]
    """Of the pages that it asks for, by which the target counts."""


async def submit(
    world: World, pages: Sequence[tuple[str, str]], *, retry: Json | None = None, lane: str = "bulk"
) -> OwnBatch:
    """Submit a batch that fetches pages, given by kind and key; ask again until it is accepted."""
    body = {
        "kind": "fetch",
        "lane": lane,
        "retry": retry or quick_retry(),
        "items": [{"url": world.target.page(kind, key), **_LIMITS.get(kind, {})} for kind, key in pages],
    }
    headers = {"Idempotency-Key": pages[0][1]}
    document = await call(world, "POST", "/batches", body=body, headers=headers)
    return OwnBatch(document["id"], [key for _, key in pages])


async def call(
    world: World, method: str, path: str, *, body: Json | None = None, headers: dict[str, str] | None = None
) -> Json:
    """Return what an API answers, asking again while it has no store or is away.

    Raises:
        httpx.HTTPStatusError: it refuses.
    """
    async with http_client(world) as http:
        while True:
            try:
                answer = await http.request(method, path, json=body, headers=headers)
            except httpx.TransportError:
                pass
            else:
                if answer.status_code != 503:
                    answer.raise_for_status()
                    return dict(answer.json())
            await asyncio.sleep(_AGAIN_SECONDS)


async def wait_until_done(world: World, batches: Sequence[OwnBatch], *, deadline_seconds: float) -> None:
    """Return once all jobs of the batches have succeeded.

    Raises:
        AssertionError: they have not before the deadline, or one ended otherwise or undone; names some.
    """
    ends_at = time.monotonic() + deadline_seconds
    for batch in batches:
        while (document := await call(world, "GET", f"/batches/{batch.batch_id}"))["finished_at"] is None:
            if time.monotonic() > ends_at:
                raise AssertionError(await _open_jobs(world, batch, document))
            await asyncio.sleep(_POLL_SECONDS)
        counts = document["counts"]
        assert counts["succeeded"] == len(batch.keys), f"batch {batch.batch_id} ended with {counts}"
        idle = [key for key in batch.keys if not world.target.effects[key]]
        assert not idle, f"succeeded without having been done: {idle[:_SHOWN]}"


async def _open_jobs(world: World, batch: OwnBatch, document: Json) -> str:
    async with http_client(world) as http:
        answer = await http.get(f"/batches/{batch.batch_id}/results", params={"format": "ndjson"})
    rows = [json.loads(line) for line in answer.text.splitlines()]
    open_ids = [row["id"] for row in rows if row["state"] not in FINAL_STATES]
    jobs = [await call(world, "GET", f"/jobs/{job_id}") for job_id in open_ids[:_SHOWN]]
    lines = [f"{job['state']}: {job['id']} {job['attempts']} {job['explanation']}" for job in jobs]
    return "\n".join([f"batch {batch.batch_id} stands still: {document['counts']}", *lines])
