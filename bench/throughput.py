"""Parts (a) and (b): how many jobs a second one worker process does, Retriever's and everybody else's.

`make bench ARGS=throughput`. All contenders use one private broker, one after another, never two at once;
each round begins with another of them, so that none always has the warm or the tired machine. Jobs are
enqueued before the clock runs. Targets, broker and bench are processes of the same machine and take their
share of its cores.

A run counts only if every job was acked, every job has asked the target, and, where results are recorded,
there is one for each job. The peers record none; Retriever publishes one a job and waits for its confirm. A
no-op is a sort of job that Retriever does not offer: see `bench/noop_worker.py`.
"""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import aio_pika
import click
from aio_pika.abc import AbstractChannel

from bench.contenders import PEERS_PYTHON, Contender, chosen
from bench.cost import family, peak_mebibytes
from bench.draining import Pace, count_waiting, pace_between, take_ends, wait_settled, watch_draining
from bench.report import machine, write_report
from bench.rig import ROOT, Rig, open_rig, running
from bench.summary import Run, rotated, summarize, table
from bench.works import Place, Work
from deploy.local.errors import ControlFailed, LocalError
from shared.broker.topology import declare_topology
from shared.kinds.registry import BROKERED_KINDS

# Twice what any contender takes at once, so that all are in their stride when the clock starts.
WARM_UP_JOBS = 400
QUICK_SECONDS = 1.0
# The slow target differs from the fast one in nothing but its figures.
QUICK_WORKS = (Work.FAST, Work.NOOP)
# A run is sized to take some seconds; one that takes so many times as long is stuck.
SLOWNESS = 20
START_SECONDS = 60.0
LOG_TAIL_CHARACTERS = 2_000


@click.command()
@click.option("--quick", is_flag=True, help="One short round: shows that all works, its figures say nothing.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, help="About how long each run is measured.")
@click.option("--only", multiple=True, help="A contender, by the beginning of its name; may be repeated.")
@click.option("--work", "works", multiple=True, type=click.Choice([work.name.lower() for work in Work]))
def throughput(quick: bool, rounds: int, seconds: float, only: Sequence[str], works: Sequence[str]) -> None:
    """Jobs a second of one worker process, beside those of the peers."""
    rounds, seconds = (1, QUICK_SECONDS) if quick else (rounds, seconds)
    facts = {**machine(), "rounds": rounds, "seconds": seconds}
    wanted = [Work[name.upper()] for name in works] or (QUICK_WORKS if quick else list(Work))
    try:
        contenders = chosen(only)
        with open_rig() as rig:
            runs = asyncio.run(_measure_all(rig, contenders, wanted, rounds=rounds, seconds=seconds))
    except (LocalError, ValueError) as error:
        print(f"bench throughput: {error}", file=sys.stderr)
        sys.exit(1)
    rows = summarize(runs)
    print(f"\n{table(rows)}\n")
    report = {**facts, "rows": [asdict(row) for row in rows], "runs": [asdict(run) for run in runs]}
    _draw(write_report("throughput-quick" if quick else "throughput", report))


async def _measure_all(
    rig: Rig, contenders: Sequence[Contender], works: Sequence[Work], *, rounds: int, seconds: float
) -> list[Run]:
    runs = []
    connection = await aio_pika.connect(rig.amqp_url)
    async with connection, connection.channel() as channel:
        await declare_topology(channel, BROKERED_KINDS)
        for number in range(1, rounds + 1):
            for work in works:
                for contender in rotated(contenders, number - 1):
                    run = await _measure(rig, channel, contender, work, number=number, seconds=seconds)
                    print(f"{number}/{rounds}  {run}", flush=True)
                    runs.append(run)
    return runs


async def _measure(
    rig: Rig, channel: AbstractChannel, contender: Contender, work: Work, *, number: int, seconds: float
) -> Run:
    place = rig.place(work)
    jobs = WARM_UP_JOBS + int(seconds * contender.jobs_per_second[work])
    served_before = await asyncio.to_thread(rig.served, work)
    await contender.fill(place, jobs)
    await _expect(
        channel, contender, contender.queue, -(-jobs // contender.jobs_per_message), "messages were enqueued"
    )
    pace, peak = await _work(rig, channel, contender, place, jobs)
    await _expect(channel, contender, contender.queue, 0, "jobs were left unacked")
    if place.url and await asyncio.to_thread(rig.served, work) - served_before < jobs:
        raise ControlFailed(f"{contender.name} acked jobs that never asked the target.")
    await _clean_up(channel, contender, jobs)
    return Run(
        work=work,
        contender=contender.name,
        role=contender.role,
        round=number,
        jobs=pace.jobs,
        seconds=pace.seconds,
        jobs_per_second=pace.jobs_per_second,
        worker_cpu_seconds_per_1000=pace.worker_cpu_seconds_per_1000,
        broker_cpu_seconds_per_1000=pace.broker_cpu_seconds_per_1000,
        peak_mebibytes=peak,
    )


async def _work(
    rig: Rig, channel: AbstractChannel, contender: Contender, place: Place, jobs: int
) -> tuple[Pace, float]:
    """Let a worker do all jobs, and return its pace and its peak of memory."""
    log = rig.logs / "worker.log"
    with running(contender.command(place), contender.environment(place), log) as process:
        try:
            looks = await watch_draining(
                channel,
                contender.queue,
                until_waiting=jobs - WARM_UP_JOBS,
                jobs_per_message=contender.jobs_per_message,
                worker_pid=process.pid,
                broker_pids=rig.broker_pids,
                is_alive=lambda: process.poll() is None,
                deadline_seconds=START_SECONDS + SLOWNESS * jobs / contender.jobs_per_second[place.work],
            )
            await wait_settled(rig.management_url, contender.queue)
        except ControlFailed as error:
            tail = log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
            raise ControlFailed(f"{contender.name}: {error}\n{tail}") from error
        return pace_between(looks), peak_mebibytes(family(process.pid))


async def _clean_up(channel: AbstractChannel, contender: Contender, jobs: int) -> None:
    if contender.results_queue is None:
        await channel.queue_delete(contender.queue)
        return
    recorded = await take_ends(channel, contender.results_queue)
    if recorded != jobs:
        raise ControlFailed(f"{contender.name}: {recorded} results were recorded, not {jobs}.")


async def _expect(channel: AbstractChannel, contender: Contender, queue: str, count: int, what: str) -> None:
    found = await count_waiting(channel, queue)
    if found != count:
        raise ControlFailed(f"{contender.name}: {found} {what}, not {count}.")


def _draw(report: Path) -> None:
    print(f"written to {report}")
    if PEERS_PYTHON.exists():
        subprocess.run([PEERS_PYTHON, "-m", "bench.peers.plot", report], cwd=ROOT, check=True)
        print(f"drawn in {report.with_suffix('.png')}")
