"""Part (j): a soak of hostile targets, with innocent jobs among them.

`make bench ARGS=hostile`. First innocent checks alone, of a quiet site, then as many while jobs meet bad
servers and bad content of every kind (`bench.hostile_kinds`). The innocent are interactive, the hostile in
the bulk lane, as somebody's batch of the open web is. Their times are by the service's own documents: from
the submission to the end of the attempt. The run counts only if every job has ended, and truly.
"""

import asyncio
import base64
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import httpx
import orjson

from bench.attacked import asking, end_of, ended, submitted
from bench.batch import wait_finished
from bench.hostile_kinds import CHECK, HOSTILE, Hostile
from bench.hostile_site import HostileSite, open_hostile_site
from bench.memory import resident_bytes
from bench.prober import Answers, probing
from bench.report import machine, write_report
from bench.summary import Percentiles, percentiles
from bench.system import API, LANE_WORKERS, LEDGER, POSTGRESQL, STORES, System, open_system
from deploy.local.errors import ControlFailed, LocalError
from deploy.local.processes import descendants

# A worker for each lane, as docs/running.md says for who has people that wait.
PROCESSES = (API, LEDGER, *LANE_WORKERS)
SECRET = "whsec_" + base64.b64encode(b"the secret of this soak alone").decode()
SETTINGS = {"RETRIEVER_DNS_TIMEOUT_SECONDS": "2", "RETRIEVER_WEBHOOK_SECRETS": SECRET}
MAX_TIMES = 2.0
MAX_KEPT_MIB = 100.0
MAX_KEPT_BY_CHILDREN_MIB = 150.0
"""Two processes that look at answers, 28 MiB each at first, which end when they keep 32 MiB more."""

WARM_UP_JOBS = 50
EVERY_SECONDS = 0.1
SETTLE_SECONDS = 10.0
DEADLINE_SECONDS = 1_800.0
A_TURN = 7
CHILDREN = "'s children"
_MEBIBYTE = 1_048_576
_SPOKEN = (b"Traceback", b"handler_crashed", b'"ERROR"', b"Task exception was never retrieved")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """Some jobs of one kind, as a batch."""

    hostile: Hostile
    numbers: Sequence[int]

    def batch(self, site: HostileSite) -> Json:
        """Return it as it is submitted."""
        place = site.place(self.hostile)
        jobs = [self.hostile.job_at(place, number) for number in self.numbers]
        return {
            "kind": self.hostile.job["kind"],
            "lane": "bulk",
            "dedupe": False,
            "retry": {"max_attempts": 1},
            "items": [job["args"] for job in jobs],
        }


@dataclass(slots=True)
class Soak:
    """What a soak came to; memory is in MiB by process and moment, `ends` counts kinds with their ends."""

    hostile_jobs: int = 0
    seconds: float = 0.0
    quiet_ms: Percentiles | None = None
    among_hostile_ms: Percentiles | None = None
    innocent_ends: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    untrue: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lag_ms: Mapping[str, float] = field(default_factory=dict)
    ended: Sequence[str] = ()
    logged: Sequence[str] = ()

    @property
    def faults(self) -> list[str]:
        """What is not as it must be, in words."""
        assert self.quiet_ms is not None and self.among_hostile_ms is not None
        found = [f"{count} untrue ends: {end}" for end, count in self.untrue.items()]
        if set(self.innocent_ends) != {"ok"}:
            found.append(f"the innocent ended {dict(self.innocent_ends)}")
        if self.among_hostile_ms.p99 > MAX_TIMES * self.quiet_ms.p99:
            found.append(f"p99 of the innocent was {self.among_hostile_ms.p99 / self.quiet_ms.p99:.1f} times")
        for name, seen in self.memory.items():
            most = MAX_KEPT_BY_CHILDREN_MIB if name.endswith(CHILDREN) else MAX_KEPT_MIB
            if seen["after"] - seen["before"] >= most:
                found.append(f"{name} kept {seen['after'] - seen['before']:,.0f} MiB")
        return [
            *found,
            *(f"{name} ended" for name in self.ended),
            *(f"logged: {line}" for line in self.logged),
        ]


@click.command()
@click.option("--quick", is_flag=True, help="A job of each kind: shows that it works.")
@click.option("--jobs", default=2_000, show_default=True, type=click.IntRange(1))
@click.option("--innocent", default=200, show_default=True, type=click.IntRange(20))
@click.option("--store", default=POSTGRESQL, show_default=True, type=click.Choice(STORES))
def hostile(quick: bool, jobs: int, innocent: int, store: str) -> None:
    """Jobs that meet bad servers and bad content of every kind, innocent ones among them."""
    facts = {**machine(), "store": store, "kinds": len(HOSTILE)}
    with TemporaryDirectory(prefix="retriever-soak-") as folder:
        try:
            with open_hostile_site(Path(folder) / "site.log") as site:
                settings = {"RETRIEVER_DNS_SERVERS": site.dns_server, **SETTINGS}
                with open_system(store, PROCESSES, settings=settings) as system:
                    soak = asyncio.run(_soak(system, site, len(HOSTILE) if quick else jobs, innocent))
        except (LocalError, TimeoutError) as error:
            print(f"bench hostile: {error}", file=sys.stderr)
            sys.exit(1)
    report = {**facts, **asdict(soak), "faults": soak.faults}
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    print(f"written to {write_report(f'hostile-{store}-quick' if quick else f'hostile-{store}', report)}")
    if soak.faults:
        sys.exit(1)


def turns(jobs: int) -> list[Turn]:
    """Return at least so many jobs in turns of a few, so that all kinds are met at any time."""
    each = -(-jobs // len(HOSTILE))
    starts = range(0, each, A_TURN)
    return [Turn(kind, range(start, min(start + A_TURN, each))) for start in starts for kind in HOSTILE]


async def _soak(system: System, site: HostileSite, jobs: int, innocent: int) -> Soak:
    soak, memory = Soak(), _Memory(system)
    async with asking(system) as http:
        await _innocent(http, system.target_url, WARM_UP_JOBS)
        # Whoever looks takes of the machine too, so both times are taken while they look.
        with probing(system.health_urls, system.pids) as answers:
            watching = asyncio.create_task(memory.watch("peak"))
            soak.quiet_ms, _ = await _innocent(http, system.target_url, innocent)
            memory.note("before")
            began = time.monotonic()
            batches = await _submit(http, site, turns(jobs))
            soak.among_hostile_ms, ends = await _innocent(http, system.target_url, innocent)
            soak.innocent_ends = dict(ends)
            for batch_id in batches:
                await wait_finished(http, batch_id, deadline_seconds=DEADLINE_SECONDS)
            soak.seconds = round(time.monotonic() - began, 1)
            watching.cancel()
        await _innocent(http, system.target_url, WARM_UP_JOBS)
        await asyncio.sleep(SETTLE_SECONDS)
        memory.note("after")
        await _note_ends(http, batches, soak)
    soak.memory = memory.mebibytes
    soak.lag_ms = _lags(answers, system)
    soak.ended = [name for name, pid in system.pids.items() if resident_bytes(pid) == 0]
    soak.logged = _spoken(system)
    return soak


def _lags(answers: Answers, system: System) -> Mapping[str, float]:
    return {name: answers.lag_ms(name) for name in system.health_urls}


async def _submit(http: httpx.AsyncClient, site: HostileSite, planned: Sequence[Turn]) -> dict[str, Turn]:
    batches: dict[str, Turn] = {}
    for turn in planned:
        answer = await http.post("/batches", json=turn.batch(site))
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
            raise ControlFailed(f"a batch was refused: {answer.status_code} {answer.text[:500]}")
        document: Json = answer.raise_for_status().json()
        if document["rejected"]["count"]:
            raise ControlFailed(f"{turn.hostile.name}: {document['rejected']}")
        batches[document["id"]] = turn
    return batches


async def _innocent(http: httpx.AsyncClient, target_url: str, count: int) -> tuple[Percentiles, Counter[str]]:
    """Submit innocent checks at a steady pace; return how long they took, and how they ended."""
    ids = []
    for number in range(count):
        job = {**CHECK, "args": {**CHECK["args"], "url": f"{target_url}/innocent/{number}"}}
        ids.append(await submitted(http, job))
        await asyncio.sleep(EVERY_SECONDS)
    documents = [await ended(http, each, seconds=DEADLINE_SECONDS) for each in ids]
    return percentiles([_took_ms(each) for each in documents]), Counter(map(end_of, documents))


def _took_ms(job: Json) -> float:
    """Return the time from a job's submission to the end of its last attempt."""
    last = datetime.fromisoformat(job["attempts"][-1]["ended_at"])
    return (last - datetime.fromisoformat(job["created_at"])).total_seconds() * 1_000


async def _note_ends(http: httpx.AsyncClient, batches: Mapping[str, Turn], soak: Soak) -> None:
    ends: Counter[tuple[str, str]] = Counter()
    untrue: Counter[str] = Counter()
    for batch_id, turn in batches.items():
        async with http.stream("GET", f"/batches/{batch_id}/results?format=ndjson") as answer:
            async for line in answer.aiter_lines():
                end = end_of(orjson.loads(line))
                ends[turn.hostile.name, end] += 1
                if not turn.hostile.is_true(end):
                    untrue[f"{turn.hostile.name}: {end}"] += 1
    soak.hostile_jobs = sum(ends.values())
    soak.ends = {f"{name}: {end}": count for (name, end), count in sorted(ends.items())}
    soak.untrue = dict(untrue)


def _spoken(system: System) -> list[str]:
    """Return the lines of logs that tell of what nobody handled."""
    return [
        f"{log.name}: {line[:300].decode(errors='replace')}"
        for log in system.logs.glob("*.log")
        for line in log.read_bytes().splitlines()
        if any(word in line for word in _SPOKEN)
    ][:50]


class _Memory:
    """Resident memory of each process and of its children together, by moment."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.mebibytes: dict[str, dict[str, float]] = {}

    def note(self, moment: str) -> None:
        """Note what is now, unless more was noted of that moment."""
        for name, pid in self._system.pids.items():
            children = sum(resident_bytes(child) for child in descendants(pid))
            for whose, found in ((name, resident_bytes(pid)), (f"{name}{CHILDREN}", children)):
                noted = self.mebibytes.setdefault(whose, {})
                noted[moment] = max(noted.get(moment, 0.0), round(found / _MEBIBYTE, 1))

    async def watch(self, moment: str) -> None:
        """Note the highest of a while."""
        while True:
            await asyncio.to_thread(self.note, moment)
            await asyncio.sleep(EVERY_SECONDS)
