"""Who is measured: the peers and the floor, each a program of `bench/peers` in the environment of its own."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.ourselves import Retriever
from bench.works import Place, Role, Work
from deploy.local.errors import ProgramMissing
from deploy.local.processes import run_control

ROOT = Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".run" / "peers" / "bin" / "python"
FILL_SECONDS = 300.0
# Celery takes some ten milliseconds for each delayed job on a quorum queue.
DELAY_SECONDS = 1_800.0
_QUEUE = "bench"


class Contender(Protocol):
    """A system that can be given jobs and then let loose on them."""

    @property
    def name(self) -> str:
        """What it is called in tables and on the command line."""

    @property
    def role(self) -> Role:
        """What it is there for."""

    @property
    def jobs_per_second(self) -> Mapping[Work, int]:
        """What it reached once on two cores; it sizes a run, so that each takes about as long."""

    @property
    def queue(self) -> str:
        """Where its jobs wait."""

    @property
    def jobs_per_message(self) -> int:
        """How many jobs a message of it carries."""

    @property
    def results_queue(self) -> str | None:
        """Where one report a job must be in the end; None: it records nothing."""

    async def fill(self, place: Place, jobs: int) -> None:
        """Enqueue so many jobs."""

    def command(self, place: Place) -> Sequence[str]:
        """Return the command line of its worker."""

    def environment(self, place: Place) -> Mapping[str, str]:
        """Return the variables of its worker."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program of `bench/peers`."""

    name: str
    module: str
    jobs_per_second: Mapping[Work, int]
    options: tuple[str, ...] = ()
    role: Role = Role.PEER
    queue: str = _QUEUE
    results_queue: str | None = None
    jobs_per_message: int = 1

    async def fill(self, place: Place, jobs: int) -> None:
        """Enqueue so many jobs with its own client.

        Raises:
            ControlFailed: it could not; the message ends with what it said.
        """
        await asyncio.to_thread(
            run_control,
            self._program("fill", str(jobs)),
            environment=self.environment(place),
            folder=ROOT,
            timeout_seconds=FILL_SECONDS,
        )

    def delay(self, place: Place, *, jobs: int, seconds: int, per_second: int) -> None:
        """Enqueue so many jobs a second, each due in so many seconds, at a URL below the place's. Blocks.

        Raises:
            ControlFailed: it could not; the message ends with what it said.
        """
        run_control(
            self._program("delay", str(jobs), str(seconds), str(per_second)),
            environment=self.environment(place),
            folder=ROOT,
            timeout_seconds=DELAY_SECONDS,
        )

    def command(self, _place: Place) -> Sequence[str]:
        """Return the command line of its worker."""
        return self._program("work", *self.options)

    def environment(self, place: Place) -> Mapping[str, str]:
        """Return the variables of its worker."""
        told = {"BENCH_AMQP_URL": place.amqp_url, "BENCH_QUEUE": self.queue, "BENCH_URL": place.url}
        return {**os.environ, **told}

    def _program(self, *arguments: str) -> list[str]:
        return [str(PEERS_PYTHON), "-m", f"bench.peers.{self.module}", *arguments]


def _rates(*, fast: int, slow: int, noop: int) -> Mapping[Work, int]:
    return {Work.FAST: fast, Work.SLOW: slow, Work.NOOP: noop}


CONTENDERS: tuple[Contender, ...] = (
    Retriever(sys.executable, _rates(fast=4_500, slow=3_000, noop=12_000)),
    Peer("FastStream", "faststream_worker", _rates(fast=3_200, slow=2_600, noop=6_000)),
    Peer("Taskiq", "taskiq_worker", _rates(fast=2_200, slow=2_400, noop=4_200)),
    Peer("Dramatiq", "dramatiq_worker", _rates(fast=1_900, slow=1_250, noop=5_000)),
    Peer("Celery, gevent", "celery_worker", _rates(fast=1_450, slow=1_300, noop=2_500), ("gevent",)),
    Peer("Celery, threads", "celery_worker", _rates(fast=1_450, slow=950, noop=3_300), ("threads",)),
    Peer(
        "aio-pika + aiohttp",
        "aio_pika_worker",
        _rates(fast=4_400, slow=3_600, noop=11_000),
        role=Role.FLOOR,
    ),
)


def chosen(names: Sequence[str]) -> tuple[Contender, ...]:
    """Return the contenders of which a name begins like one of these; all, if there are none.

    Raises:
        ProgramMissing: the environment of the peers is not there.
        ValueError: a name is nobody's.
    """
    for name in names:
        if not any(contender.name.lower().startswith(name.lower()) for contender in CONTENDERS):
            raise ValueError(f"nobody is named {name!r}; there are {'; '.join(c.name for c in CONTENDERS)}")
    wanted = tuple(name.lower() for name in names) or ("",)
    found = tuple(c for c in CONTENDERS if c.name.lower().startswith(wanted))
    if any(isinstance(contender, Peer) for contender in found) and not PEERS_PYTHON.exists():
        raise ProgramMissing("The environment of the peers is not there: run make bench-peers.")
    return found
