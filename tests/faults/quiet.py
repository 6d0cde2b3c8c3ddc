"""Waiting until everything that was acknowledged has ended, and gathering what strangers saw of it."""

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

import httpx

from tests.faults.oracle import FINAL_STATES, Counts, Evidence, count
from tests.faults.workload import Batch, Task, Workload
from tests.faults.world import World, http_client

_POLL_SECONDS = 0.2
_AT_ONCE = 20

Json = dict[str, Any]


async def settle(workload: Workload, *, deadline_seconds: float) -> Counts:
    """Wait until all jobs have ended and were told, at most until the deadline; return the counters."""
    ends_at = time.monotonic() + deadline_seconds
    async with http_client(workload.world) as http:
        reader = _Reader(http)
        await _until(lambda: reader.batches_ended(workload.batches), ends_at)
        for batch in workload.batches:
            await reader.name_jobs(batch)
        await _until(lambda: reader.jobs_ended(workload.tasks), ends_at)
        await _until(lambda: _all_told(workload), ends_at)
        faults = [*workload.server_errors, *await reader.batch_faults(workload)]
        evidence = [_evidence(workload.world, task, reader.jobs.get(task.key)) for task in workload.tasks]
    counts = count(evidence, unexpected=len(faults))
    for line in [*faults, *_suspects(workload.tasks, evidence)]:
        workload.world.timeline.note(f"{workload.name}: {line}")
    return counts


class _Reader:
    """Reads jobs and batches from an API, patiently: it may be away for a moment."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.jobs: dict[str, Json] = {}

    async def jobs_ended(self, tasks: Iterable[Task]) -> bool:
        open_tasks = [task for task in tasks if self.jobs.get(task.key, {}).get("state") not in FINAL_STATES]
        await asyncio.gather(*(self._read_job(task) for task in open_tasks))
        return all(self.jobs.get(task.key, {}).get("state") in FINAL_STATES for task in open_tasks)

    async def batches_ended(self, batches: Iterable[Batch]) -> bool:
        documents = [await self._get(f"/batches/{batch.batch_id}") for batch in batches]
        return all(document is not None and document["finished_at"] for document in documents)

    async def name_jobs(self, batch: Batch) -> None:
        """Learn the ids of a batch's jobs, by the page that each asks for."""
        answer = await self._http.get(f"/batches/{batch.batch_id}/results", params={"format": "ndjson"})
        rows = [json.loads(line) for line in answer.text.splitlines()]
        ids = {row["args"]["url"].rpartition("/")[2]: row["id"] for row in rows}
        for task in batch.tasks:
            task.job_id = ids.get(task.key)

    async def batch_faults(self, workload: Workload) -> list[str]:
        """Return what is wrong with the batches: their counts, their callbacks."""
        faults = []
        for batch in workload.batches:
            document = await self._get(f"/batches/{batch.batch_id}") or {}
            succeeded = document.get("counts", {}).get("succeeded")
            if succeeded != len(batch.tasks) or document.get("total") != len(batch.tasks):
                faults.append(f"batch {batch.batch_id} of {len(batch.tasks)} counts {document.get('counts')}")
            if len(workload.world.target.calls[batch.key]) != 1:
                faults.append(
                    f"batch {batch.batch_id}: {len(workload.world.target.calls[batch.key])} callbacks"
                )
        return faults

    async def _read_job(self, task: Task) -> None:
        async with self._slots:
            document = await self._get(f"/jobs/{task.job_id}")
        if document is not None:
            self.jobs[task.key] = document

    async def _get(self, path: str) -> Json | None:
        try:
            answer = await self._http.get(path)
        except httpx.TransportError:
            return None
        return dict(answer.json()) if answer.status_code == 200 else None


async def _all_told(workload: Workload) -> bool:
    world = workload.world
    told = all(world.listener.was_told(task.job_id or "?") for task in workload.tasks)
    return told and all(world.target.calls[batch.key] for batch in workload.batches)


async def _until(is_so: Any, ends_at: float) -> None:
    while not await is_so() and time.monotonic() < ends_at:
        await asyncio.sleep(_POLL_SECONDS)


def _evidence(world: World, task: Task, document: Json | None) -> Evidence:
    job_id = task.job_id or "?"
    return Evidence(
        job_id=job_id,
        state=document["state"] if document else None,
        attempts=tuple((each["run"], each["number"]) for each in (document or {}).get("attempts", [])),
        effects=len(world.target.effects[task.key]),
        ends=max(
            (len(ends) for key, ends in world.listener.ends.items() if key.startswith(job_id)), default=0
        ),
        expected=task.expected,
    )


def _suspects(tasks: Iterable[Task], evidence: Iterable[Evidence]) -> list[str]:
    """Return a line for each job that broke the promise."""
    return [
        f"{task.kind} {task.page} {seen}"
        for task, seen in zip(tasks, evidence, strict=True)
        if not count([seen]).is_kept
    ]
