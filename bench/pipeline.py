"""Part (f): the whole way of a batch, from its POST to the last job recorded, with one worker and with two.

`make bench ARGS=pipeline`. Every round is one batch of so many checks of a local target that answers at once,
on the same running service: first the rounds of one worker, then the second worker starts. The end is the
time at which the recorder wrote down the last job, as the batch says, so that nobody polls for it faster than
the service works. The target, and PostgreSQL, take their share of the same cores and are not in the table.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

import click
import httpx

from bench.batch import submit_lines, wait_finished, warm_up_lines
from bench.cost import cpu_seconds, family
from bench.report import machine, write_report
from bench.rig import served_by
from bench.rounds import Round, summarize, table
from bench.system import API, LEDGER, POSTGRESQL, STORES, WORKERS, System, open_system
from deploy.local.errors import ControlFailed, LocalError

QUICK_LINES, QUICK_ROUNDS = 500, 1
DEADLINE_SECONDS = 1_800.0
REQUEST_SECONDS = 600.0


@click.command()
@click.option(
    "--quick", is_flag=True, help="One small batch each: shows that it works, its figures say nothing."
)
@click.option("--lines", default=20_000, show_default=True, type=click.IntRange(100), help="Of each batch.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--store", default=POSTGRESQL, show_default=True, type=click.Choice(STORES))
def pipeline(quick: bool, lines: int, rounds: int, store: str) -> None:
    """Jobs a second from POST to recorded, and what they cost each process."""
    lines, rounds = (QUICK_LINES, QUICK_ROUNDS) if quick else (lines, rounds)
    facts = {**machine(), "store": store, "lines": lines}
    try:
        with open_system(store, (API, LEDGER)) as system:
            measured = asyncio.run(_measure_all(system, lines, rounds))
    except (LocalError, TimeoutError) as error:
        print(f"bench pipeline: {error}", file=sys.stderr)
        sys.exit(1)
    rows = summarize(measured)
    print(f"\n### {lines:,} jobs, {store}\n\n{table(rows)}\n")
    report = {**facts, "rows": [asdict(row) for row in rows], "rounds": [asdict(each) for each in measured]}
    print(f"written to {write_report(f'pipeline-{store}-quick' if quick else f'pipeline-{store}', report)}")


async def _measure_all(system: System, lines: int, rounds: int) -> list[Round]:
    measured = []
    async with httpx.AsyncClient(base_url=system.api_url, timeout=REQUEST_SECONDS) as http:
        for workers, worker in enumerate(WORKERS, 1):
            await asyncio.to_thread(system.start, worker)
            # Caches, pools and the first connections to the target.
            await _run_batch(http, system.target_url, warm_up_lines(lines))
            for _ in range(rounds):
                measured.append(await _measure(http, system, lines, workers))
                print(measured[-1], flush=True)
    return measured


async def _measure(http: httpx.AsyncClient, system: System, lines: int, workers: int) -> Round:
    processes = {name: family(pid) for name, pid in system.pids.items()} | {"broker": system.broker_pids}
    served_before = await asyncio.to_thread(served_by, system.target_url)
    before = _cpu_seconds(processes)
    seconds = await _run_batch(http, system.target_url, lines)
    after = _cpu_seconds(processes)
    if await asyncio.to_thread(served_by, system.target_url) - served_before < lines:
        raise ControlFailed("jobs were recorded that never asked the target.")
    cost = {name: round((after[name] - before[name]) / lines * 1_000, 3) for name in processes}
    return Round(workers, lines, round(seconds, 2), round(lines / seconds, 1), cost)


async def _run_batch(http: httpx.AsyncClient, target_url: str, lines: int) -> float:
    """Submit a batch, wait until all is recorded, and return the seconds between, by the wall clock."""
    posted_at_seconds = time.time()
    submitted = await submit_lines(http, target_url, lines)
    done = await wait_finished(http, submitted["id"], deadline_seconds=DEADLINE_SECONDS)
    if done["counts"]["succeeded"] != lines:
        raise ControlFailed(f"of {lines} jobs, not all succeeded: {done['counts']}.")
    return datetime.fromisoformat(done["finished_at"]).timestamp() - posted_at_seconds


def _cpu_seconds(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: cpu_seconds(pids) for name, pids in processes.items()}
