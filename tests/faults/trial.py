"""One fault, put to a running system that works: hand jobs in, hurt it, let it recover, count."""

import asyncio
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.fault import Fault
from tests.faults.oracle import Counts
from tests.faults.quiet import settle
from tests.faults.services import RUN
from tests.faults.workload import PAGES, Task, Workload
from tests.faults.world import World

_JOBS = 80
# Handing in may last as long as the fault, and the fault as long as its alarm.
_LONGEST_SECONDS = 240.0


def chosen_seed() -> int:
    """Return the seed of this run: SEED of the environment, or a new one."""
    return int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one fault: a row of the table in docs/reliability.md."""

    fault: str
    promise: str
    broker: str
    may_repeat: bool
    counts: Counts
    seconds: float
    seed: int
    timeline: str

    @property
    def is_kept(self) -> bool:
        """Whether the promise was kept; effects may come twice only where somebody died or lost his hold."""
        return self.counts.is_kept and (self.may_repeat or not self.counts.duplicated_effects)

    def report(self) -> str:
        """Return all that is needed to understand it and to do it again."""
        return f"{self.fault} (SEED={self.seed}): {self.counts}\n{self.timeline}"

    def save(self) -> None:
        """Add it to the results of this run, for the table."""
        RUN.mkdir(parents=True, exist_ok=True)
        path = RUN / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")


async def suffer(world: World, fault: Fault, *, broker: str, seed: int, jobs: int = _JOBS) -> Verdict:
    """Hand jobs in, do the fault in the middle, wait until all has ended; return what came of it."""
    rng = random.Random(f"{seed} {fault.name}")
    started_at, first_line, crashes = time.monotonic(), len(world.timeline.lines), len(world.crashes)
    traces = world.log_lines(*fault.traces)
    world.timeline.note(f"--- {fault.name}")
    workload = Workload(
        world,
        name=f"{rng.getrandbits(32):08x}",
        random=rng,
        jobs=jobs,
        spread_seconds=fault.spread_seconds,
        pages=fault.pages or PAGES,
        has_third_parties=fault.has_third_parties,
    )
    async with asyncio.timeout(_LONGEST_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(workload.run())
        await workload.wait_under_way()
        hurt_at = asyncio.get_running_loop().time()
        await fault.inject(world, rng)
    world.timeline.note("over; everything is acknowledged")
    counts = await settle(workload, deadline_seconds=fault.deadline_seconds)
    if fault.undo is not None:
        await fault.undo(world, rng)
    unexpected = note_crashes(world, crashes) + _unexplained(world, workload.tasks, hurt_at)
    if fault.traces and world.log_lines(*fault.traces) == traces:
        world.timeline.note(f"it did not hit: no process has logged any of {', '.join(fault.traces)}")
        unexpected += 1
    counts += Counts(unexpected=unexpected)
    return Verdict(
        fault=fault.name,
        promise=fault.promise,
        broker=broker,
        may_repeat=fault.may_repeat,
        counts=counts,
        seconds=round(time.monotonic() - started_at, 1),
        seed=seed,
        timeline=world.timeline.since(first_line),
    )


def note_crashes(world: World, before: int) -> int:
    """Put the ends of processes that nobody asked for into the timeline; return how many there were."""
    for crash in (new := world.crashes[before:]):
        world.timeline.note(crash)
    return len(new)


def _unexplained(world: World, tasks: Sequence[Task], hurt_at: float) -> int:
    """Return how many pages were asked for too often although nothing had happened yet."""
    expected = {"flaky": 3}
    early = [
        task
        for task in tasks
        if sum(effect.at < hurt_at for effect in world.target.effects[task.key]) > expected.get(task.page, 1)
    ]
    for task in early:
        world.timeline.note(f"{task.key} was done twice before anything happened")
    return len(early)


def read_verdicts(folder: Path = RUN) -> list[Verdict]:
    """Return the verdicts of the last run, in no order."""
    rows = [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    return [Verdict(**{**row, "counts": Counts(**row["counts"])}) for row in rows]
