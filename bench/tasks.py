"""Part (i): how many tasks a second agents pick and finish, and what agents cost that wait for one.

`make bench ARGS=tasks`. One API process, and one ledger, which tells RabbitMQ of every end. 1 agent and
50, each with a connection that stays open, pick a task, do nothing, and finish it. Beside it
Procrastinate, another queue in PostgreSQL, on the same server: once its own functions that fetch and
finish a job, once its worker with a task that does nothing. Tasks are stored before the clock runs, for
each run afresh; the store is asked at both ends of the time that counts how many have ended. Rounds are
interleaved. At the end all agents of an API wait.

Procrastinate talks to the database itself; our agents reach it through the API, as they must who may not
have the database's password. Fifty agents are in two processes, so that no client is the bottleneck.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from bench.contenders import PEERS_PYTHON
from bench.cost import cpu_seconds, family
from bench.report import machine, write_report
from bench.rig import running
from bench.summary import rotated
from bench.system import API, LEDGER, POSTGRESQL, STORES, System, open_system
from bench.task_figures import TaskRun, summarize, table
from bench.task_systems import OURS, PEERS, Filled, TaskSystem, agents_command, port_of, postgres_pids
from bench.works import Role
from deploy.local.errors import ControlFailed, LocalError

AGENTS = (1, 50)
PROCESSES = 2
WARM_UP_SECONDS, QUICK_SECONDS = 2.0, 1.0
# More than any of them does, or a run says that its tasks ran out.
TASKS_PER_SECOND = {1: 500, 50: 1_500}
IDLE_AGENTS, IDLE_WAIT_SECONDS = 100, 60
IDLE_QUEUE = "bench-idle"
LOG_TAIL_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Idle:
    """How much of one core the processes take while so many agents wait, in per cent."""

    agents: int
    seconds: float
    cpu_percent: Mapping[str, float]

    def __str__(self) -> str:
        cost = ", ".join(f"{name} {percent:.2f} %" for name, percent in self.cpu_percent.items())
        return f"{self.agents} agents wait, {self.seconds:.0f} s: {cost}"


@click.command()
@click.option("--quick", is_flag=True, help="One short round: shows that all works, its figures say nothing.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=8.0, show_default=True, help="How long each run is measured.")
@click.option("--idle-seconds", default=70.0, show_default=True, help="How long waiting agents are watched.")
@click.option("--store", "stores", multiple=True, type=click.Choice(STORES), help="Both, if none is named.")
def tasks(quick: bool, rounds: int, seconds: float, idle_seconds: float, stores: Sequence[str]) -> None:
    """Picks and finishes a second, beside Procrastinate, and what waiting agents cost."""
    if quick:
        rounds, seconds, idle_seconds = 1, QUICK_SECONDS, QUICK_SECONDS
    for name in stores or STORES:
        facts = {**machine(), "store": name, "rounds": rounds, "seconds": seconds}
        try:
            with open_system(name, (API, LEDGER)) as system:
                runs = asyncio.run(_measure_all(system, _systems(name), rounds=rounds, seconds=seconds))
                idle = [_watch_idle(system, agents, idle_seconds) for agents in (0, IDLE_AGENTS)]
        except* (LocalError, ConnectionError, TimeoutError) as errors:
            print(f"bench tasks: {errors.exceptions[0]}", file=sys.stderr)
            sys.exit(1)
        rows = summarize(runs)
        print(f"\n### {name}\n\n{table(rows)}\n\n" + "\n".join(str(each) for each in idle) + "\n")
        report: dict[str, Any] = {**facts, "rows": [asdict(row) for row in rows]}
        report |= {"runs": [asdict(run) for run in runs], "idle": [asdict(each) for each in idle]}
        print(f"written to {write_report(f'tasks-{name}-quick' if quick else f'tasks-{name}', report)}")


def _systems(store: str) -> Sequence[TaskSystem]:
    if store != POSTGRESQL:
        return OURS
    if not PEERS_PYTHON.exists():
        raise ControlFailed("The environment of the peers is not there: run make bench-peers.")
    return [*OURS, *PEERS]


async def _measure_all(
    system: System, contenders: Sequence[TaskSystem], *, rounds: int, seconds: float
) -> list[TaskRun]:
    runs = []
    for number in range(1, rounds + 1):
        for agents in AGENTS:
            for contender in rotated(contenders, number - 1):
                run = await _measure(system, contender, agents=agents, number=number, seconds=seconds)
                print(f"{number}/{rounds}  {run}", flush=True)
                runs.append(run)
    return runs


async def _measure(
    system: System, contender: TaskSystem, *, agents: int, number: int, seconds: float
) -> TaskRun:
    stored = int(TASKS_PER_SECOND[agents] * (WARM_UP_SECONDS + seconds))
    filled = await contender.fill(system, tasks=stored, agents=agents, processes=PROCESSES)
    with _at_work(filled) as pids:
        await asyncio.sleep(WARM_UP_SECONDS)
        counted_at, before, cost_before = (
            time.monotonic(),
            filled.count_ended(),
            _cost(system, pids, contender.role),
        )
        await asyncio.sleep(seconds)
        cost_after = _cost(system, pids, contender.role)
        measured, after = time.monotonic() - counted_at, filled.count_ended()
        ended = after - before
    if ended <= 0 or after >= stored:
        raise ControlFailed(f"{contender.name}: {after} of {stored} tasks ended, {ended} of them in time.")
    return TaskRun(
        system=contender.name,
        role=contender.role,
        agents=agents,
        round=number,
        tasks=ended,
        seconds=round(measured, 3),
        tasks_per_second=round(ended / measured, 1),
        cpu_seconds_per_1000={
            name: round((cost_after[name] - cost_before[name]) / ended * 1_000, 3) for name in cost_before
        },
    )


def _watch_idle(system: System, agents: int, seconds: float) -> Idle:
    """Let so many agents wait for a task that never comes, and return what that costs."""
    port = port_of(system)
    command = agents_command(port, IDLE_QUEUE, agents, wait_seconds=IDLE_WAIT_SECONDS)
    with _at_work(Filled([command] if agents else [], {}, lambda: 0)) as pids:
        time.sleep(WARM_UP_SECONDS)
        began, before = time.monotonic(), _cost(system, pids, Role.OURS)
        time.sleep(seconds)
        after, watched = _cost(system, pids, Role.OURS), time.monotonic() - began
    cost = {name: round((after[name] - before[name]) / watched * 100, 2) for name in before}
    return Idle(agents, round(watched, 1), cost)


@contextmanager
def _at_work(filled: Filled) -> Iterator[Sequence[int]]:
    """Yield the ids of the processes that work on the tasks; they are killed afterwards.

    Raises:
        ControlFailed: one has ended; the message ends with its log.
    """
    with TemporaryDirectory(prefix="retriever-bench-tasks-") as folder, ExitStack() as stack:
        logs = [Path(folder, f"{number}.log") for number in range(len(filled.commands))]
        processes = [
            stack.enter_context(running(command, filled.environment or None, log))
            for command, log in zip(filled.commands, logs, strict=True)
        ]
        yield [process.pid for process in processes]
        for process, log in zip(processes, logs, strict=True):
            if process.poll() is not None:
                said = log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
                raise ControlFailed(f"{' '.join(process.args)} has ended:\n{said}")  # type: ignore[arg-type]


def _cost(system: System, pids: Sequence[int], role: Role) -> dict[str, float]:
    """Return the CPU seconds so far: of the agents, of PostgreSQL, and for ours of what is around it."""
    processes: dict[str, Sequence[int]] = {"agents": [member for pid in pids for member in family(pid)]}
    if postgres := postgres_pids(system.database_url):
        processes["postgres"] = postgres
    if role is Role.OURS:
        processes |= {name: family(pid) for name, pid in system.pids.items()}
        processes["broker"] = system.broker_pids
    return {name: cpu_seconds(members) for name, members in processes.items()}
