"""Part (h): does any process grow with the number of jobs? One large batch, and the memory of each process.

`make bench ARGS=memory`. A batch of many lines is one streamed request; api, ledger, two workers and the
broker are sampled from before it until its results have been streamed back. "Flat" is judged by the slope of
a line fitted to the second half. The run counts only if every job succeeded, the results have each job once
and with its count, and the broker was told once that the batch is complete.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict

import click
import httpx

from bench.batch import Json, ended, progress, recount, submit_lines, wait_finished, warm_up_lines
from bench.completions import counted_completions
from bench.growth import Sample, growths, table
from bench.memory import resident_bytes
from bench.report import machine, write_report
from bench.system import POSTGRESQL, STORES, System, open_system
from deploy.local.errors import ControlFailed, LocalError
from shared.states import JobState

QUICK_LINES = 1_000
SAMPLE_SECONDS = 0.1
FIRST_COMPLETION_SECONDS = 30.0
MORE_COMPLETIONS_SECONDS, QUICK_MORE_SECONDS = 3.0, 0.5
REQUEST_SECONDS = 900.0
DEADLINE_SECONDS = 3_600.0


@click.command()
@click.option("--quick", is_flag=True, help="A small batch: shows that it works, its figures say nothing.")
@click.option("--lines", default=200_000, show_default=True, type=click.IntRange(1_000))
@click.option("--store", default=POSTGRESQL, show_default=True, type=click.Choice(STORES))
def memory(quick: bool, lines: int, store: str) -> None:
    """Memory of each process over one large batch, and its growth per 10,000 jobs."""
    lines, more_seconds = (QUICK_LINES, QUICK_MORE_SECONDS) if quick else (lines, MORE_COMPLETIONS_SECONDS)
    facts = {**machine(), "store": store, "lines": lines}
    try:
        with open_system(store) as system:
            samples, figures = asyncio.run(_measure(system, lines, more_seconds))
        found = growths(samples)
    except (LocalError, TimeoutError) as error:
        print(f"bench memory: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"\n### {lines:,} jobs, {store}: {figures}\n\n{table(found)}\n")
    report = {**facts, **figures, "mebibytes": {name: asdict(each) for name, each in found.items()}}
    print(f"written to {write_report(f'memory-{store}-quick' if quick else f'memory-{store}', report)}")


async def _measure(system: System, lines: int, more_seconds: float) -> tuple[list[Sample], Json]:
    async with (
        httpx.AsyncClient(base_url=system.api_url, timeout=REQUEST_SECONDS) as http,
        counted_completions(system.amqp_url) as completions,
    ):
        # The first batch pays for caches and pools; what comes after must not grow with the number of lines.
        warm_up = await submit_lines(http, system.target_url, warm_up_lines(lines))
        await wait_finished(http, warm_up["id"], deadline_seconds=DEADLINE_SECONDS)
        began, sampling = time.monotonic(), _Sampling(system)
        async with sampling.going_on():
            batch = await submit_lines(http, system.target_url, lines)
            accepted = time.monotonic()
            async with asyncio.timeout(DEADLINE_SECONDS):
                async for now in progress(http, batch["id"]):
                    sampling.ended = ended(now)
            finished = time.monotonic()
            states, ids = await recount(http, batch["id"])
            streamed = time.monotonic()
        told = await completions.settled(
            batch["id"], first_seconds=FIRST_COMPLETION_SECONDS, more_seconds=more_seconds
        )
    if states != {JobState.SUCCEEDED: lines} or ids != lines or told != 1:
        raise ControlFailed(f"of {lines} jobs, {ids} came to {states}; completion was told {told} times.")
    return sampling.samples, {
        "seconds_to_202": round(accepted - began, 2),
        "seconds_to_finished": round(finished - began, 2),
        "seconds_of_results": round(streamed - finished, 2),
        "jobs_per_second": round(lines / (finished - began), 1),
    }


class _Sampling:
    """Samples of the processes of a system; `ended` is what is known of the batch when one is taken."""

    def __init__(self, system: System) -> None:
        broker = {"broker": system.broker_pids[0]} if system.broker_pids else {}
        self._pids: Mapping[str, int] = {**system.pids, **broker}
        self.ended = 0
        self.samples = [self._take()]

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Take samples for as long as this is open."""
        task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.samples.append(self._take())

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self.samples.append(self._take())

    def _take(self) -> Sample:
        return Sample(self.ended, {name: resident_bytes(pid) for name, pid in self._pids.items()})
