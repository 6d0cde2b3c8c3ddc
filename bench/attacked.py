"""A service under attack: what of it goes deaf, what grows, and whether the innocent are served."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.hostile_kinds import CHECK
from bench.memory import resident_bytes
from bench.prober import Answers, probing
from bench.summary import percentiles
from bench.system import System
from deploy.local.processes import descendants
from shared.states import JobState

MAX_LAG_MS = 100.0
MAX_GROWTH_MIB = 100.0
MAX_INNOCENT_SECONDS = 10.0
"""Far above what an innocent takes, also on a machine that is at work for others."""

QUIET_SECONDS = 1.5
AFTER_SECONDS = 2.0
REQUEST_SECONDS = 120.0
POLL_SECONDS = 0.25
MOST_INNOCENTS = 40
_SAMPLE_SECONDS = 0.1
_MEBIBYTE = 1_048_576
_MACHINE = "machine"

Json = dict[str, Any]


@dataclass(slots=True)
class Memory:
    """How much more memory a process took than before, with and without its children, in MiB.

    Attributes:
        peak: Of the process itself at any moment, as it was sampled.
        kept: Of the process itself some time after the attack.
        children: Of all its children together, at any moment.
    """

    peak: float = 0.0
    kept: float = 0.0
    children: float = 0.0


@dataclass(frozen=True, slots=True)
class Harm:
    """What an attack did to the processes, by their names.

    Attributes:
        lag_ms: By how much the slowest answer to /livez was slower than the usual one in a quiet moment.
        machine_lag_ms: That of the innocents' site, which nobody attacks: what the machine itself adds, when
            others are at work on it.
        unanswered: How many probes had no answer.
        ended: Processes that have ended.
    """

    lag_ms: Mapping[str, float] = field(default_factory=dict)
    machine_lag_ms: float = 0.0
    memory: Mapping[str, Memory] = field(default_factory=dict)
    unanswered: int = 0
    ended: Sequence[str] = ()

    @property
    def is_bounded(self) -> bool:
        """Whether nobody went deaf, grew or ended."""
        grown = any(max(each.peak, each.children) >= MAX_GROWTH_MIB for each in self.memory.values())
        is_deaf = any(lag - self.machine_lag_ms >= MAX_LAG_MS for lag in self.lag_ms.values())
        return not (grown or is_deaf or self.unanswered or self.ended)


class Measuring:
    """The measurement of one attack; `harm` is there when it is over."""

    def __init__(self, system: System) -> None:
        """Measure the processes that run now."""
        self._system = system
        self.harm = Harm()

    @asynccontextmanager
    async def attack(self) -> AsyncIterator[None]:
        """Measure what happens inside, against a quiet moment before."""
        urls = {**self._system.health_urls, _MACHINE: self._system.target_url}
        with probing(urls, self._system.pids) as quiet:
            await asyncio.sleep(QUIET_SECONDS)
        with _sampling(self._system.pids) as memory, probing(urls, self._system.pids) as answers:
            yield
            await asyncio.sleep(AFTER_SECONDS)
        self.harm = self._harm(quiet, answers, memory)

    def _harm(self, quiet: Answers, answers: Answers, memory: Mapping[str, Memory]) -> Harm:
        return Harm(
            lag_ms={name: answers.lag_ms(name, usual=quiet) for name in self._system.health_urls},
            machine_lag_ms=answers.lag_ms(_MACHINE, usual=quiet),
            memory=memory,
            unanswered=sum(answers.unanswered.values()),
            ended=[name for name, pid in self._system.pids.items() if resident_bytes(pid) == 0],
        )


@contextmanager
def _sampling(pids: Mapping[str, int]) -> Iterator[Mapping[str, Memory]]:
    start = {name: resident_bytes(pid) for name, pid in pids.items()}
    start_of_children = {name: _of_children(pid) for name, pid in pids.items()}
    memory, over = {name: Memory() for name in pids}, threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            for name, pid in pids.items():
                seen = memory[name]
                seen.kept = round((resident_bytes(pid) - start[name]) / _MEBIBYTE, 1)
                seen.peak = max(seen.peak, seen.kept)
                more = (_of_children(pid) - start_of_children[name]) / _MEBIBYTE
                seen.children = max(seen.children, round(more, 1))

    thread = threading.Thread(target=sample, name="memory")
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def _of_children(pid: int) -> int:
    return sum(resident_bytes(child) for child in descendants(pid))


@asynccontextmanager
async def asking(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the API that is patient."""
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=system.api_url, timeout=REQUEST_SECONDS, limits=limits) as http:
        yield http


async def submitted(http: httpx.AsyncClient, job: Mapping[str, Any]) -> str:
    """Submit a job that has one attempt, and return its id."""
    body = {"retry": {"max_attempts": 1}, **job}
    answer: Json = (await http.post("/jobs", json=body)).raise_for_status().json()
    return str(answer["id"])


async def ended(http: httpx.AsyncClient, job_id: str, *, seconds: float) -> Json:
    """Return a job's document when it has ended.

    Raises:
        TimeoutError: it has not within so many seconds.
    """
    async with asyncio.timeout(seconds):
        while True:
            job: Json = (await http.get(f"/jobs/{job_id}")).raise_for_status().json()
            if JobState(job["state"]).is_final:
                return job
            await asyncio.sleep(POLL_SECONDS)


def end_of(job: Mapping[str, Any]) -> str:
    """Return in one word how a job has ended: the reason of its result, that of its failure, or `ok`."""
    if job["state"] == "succeeded":
        return str((job["result"] or {}).get("reason", "ok"))
    return str(job["reason"])


@dataclass(slots=True)
class Innocents:
    """Checks of a quiet site that somebody else submits meanwhile: seconds to the end of each."""

    seconds: list[float] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    @property
    def are_served(self) -> bool:
        """Whether there are some, and all are well, and soon."""
        return set(self.ends) == {"ok"} and max(self.seconds) < MAX_INNOCENT_SECONDS

    def __str__(self) -> str:
        found = percentiles([seconds * 1_000 for seconds in self.seconds] or [0.0])
        return f"{self.ends.count('ok')} of {len(self.ends)} innocents, ms: {found}"


@asynccontextmanager
async def innocents(
    http: httpx.AsyncClient,
    target_url: str,
    *,
    args: Mapping[str, Any] = CHECK["args"],
    every_seconds: float = 0.25,
    at_least: int = 8,
    longest_seconds: float = 120.0,
) -> AsyncIterator[Innocents]:
    """Let an innocent submit a check every so often while inside, and then wait for all of them."""
    found, over = Innocents(), asyncio.Event()

    async def one(number: int) -> None:
        began = time.monotonic()
        try:
            job = {"kind": "check", "args": {**args, "url": f"{target_url}/innocent/{number}"}}
            end = end_of(await ended(http, await submitted(http, job), seconds=longest_seconds))
        except TimeoutError:
            end = "never ended"
        except httpx.HTTPError as error:
            end = type(error).__name__
        found.seconds.append(time.monotonic() - began)
        found.ends.append(end)

    async def some(group: asyncio.TaskGroup) -> None:
        number = 0
        while number < at_least or (number < MOST_INNOCENTS and not over.is_set()):
            group.create_task(one(number))
            number += 1
            await asyncio.sleep(every_seconds)

    async with asyncio.TaskGroup() as group:
        going_on = group.create_task(some(group))
        try:
            yield found
        finally:
            over.set()
            await going_on
