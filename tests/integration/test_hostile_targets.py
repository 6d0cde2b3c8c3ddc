"""Bad servers and bad content of all kinds at once: jobs end truly, and the worker stays quick and small."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import uvloop
from pydantic import BaseModel, SecretStr

from bench.hostile_kinds import CHECK, HOSTILE, Hostile, Json
from bench.hostile_site import HostileSite, open_hostile_site
from bench.memory import resident_bytes
from bench.rig import serving_target
from consumer.executor import BoundHandler, Executor
from consumer.handlers.registry import HANDLERS, Handler
from consumer.http.client import Client
from consumer.politeness.host_limiters import FirstPermit
from consumer.secrets import Signer
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import command_line, descendants
from shared.identity import new_id
from shared.messages import JobMessage
from shared.outcomes import Failed, Outcome
from tests.support.factories import make_webhook_secret
from tests.support.http_servers import client_that_reaches_loopback

KINDS = 40
INNOCENTS = 20
TICK_SECONDS = 0.01
# What was seen before there were bounds: 26 s and 5 GB.
MAX_LAG_SECONDS = 2.5
MAX_GROWTH_BYTES = 400_000_000
MAX_SECONDS = 150.0


@dataclass(slots=True)
class Seen:
    """What the jobs came to, and how the process that ran them fared.

    Attributes:
        lag_seconds: The longest that its loop did one thing.
        growth_bytes: How much memory it took at any moment.
        computing: The compute processes that there were before: those of a service that other tests use.
    """

    ends: dict[str, str] = field(default_factory=dict)
    innocent: list[str] = field(default_factory=list)
    lag_seconds: float = 0.0
    growth_bytes: int = 0
    computing: set[int] = field(default_factory=set)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder, port = tmp_path_factory.mktemp("hostile"), free_port()
    with open_hostile_site(folder / "site.log") as site, serving_target(port, folder / "quiet.log"):
        yield uvloop.run(all_at_once(site, f"http://{LOOPBACK}:{port}"))


async def all_at_once(site: HostileSite, quiet_url: str) -> Seen:
    """Run a job of each kind, and innocent ones, in one worker's parts."""
    seen = Seen(computing=compute_processes())
    innocent = [{**CHECK, "args": {**CHECK["args"], "url": f"{quiet_url}/{n}"}} for n in range(INNOCENTS)]
    async with client_that_reaches_loopback(dns_servers=[site.dns_server]) as client:
        signing = replace(client, signer=Signer([SecretStr(make_webhook_secret())]))
        executor = Executor({kind: bound(handler, signing) for kind, handler in HANDLERS.items()})
        async with asyncio.timeout(MAX_SECONDS), watched(seen):
            ends, seen.innocent = await asyncio.gather(
                asyncio.gather(*(run(executor, kind.job_at(site.place(kind), 1)) for kind in HOSTILE)),
                asyncio.gather(*(run(executor, job) for job in innocent)),
            )
    seen.ends = {kind.name: end for kind, end in zip(HOSTILE, ends, strict=True)}
    return seen


def bound(handler: Handler, client: Client) -> BoundHandler:
    def run(args: BaseModel, job: JobMessage, first_permit: FirstPermit) -> asyncio.Future[Outcome]:
        return asyncio.ensure_future(handler(args, client.for_job(job, first_permit)))

    return run


async def run(executor: Executor, job: Json) -> str:
    """Return the reason with which a job ends, or `ok`."""
    message = JobMessage(id=new_id(), kind=job["kind"], args=dict(job["args"]))
    outcome = (await executor.execute(message)).outcome
    if isinstance(outcome, Failed):
        return outcome.reason
    return str((outcome.result or {}).get("reason", "ok"))


@asynccontextmanager
async def watched(seen: Seen) -> AsyncIterator[None]:
    """Watch the loop and the memory of this process while inside."""
    gc.collect()
    before = resident_bytes(os.getpid())

    async def watch() -> None:
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            seen.lag_seconds = max(seen.lag_seconds, time.monotonic() - due)
            seen.growth_bytes = max(seen.growth_bytes, resident_bytes(os.getpid()) - before)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def test_there_are_forty_kinds_of_hostile_targets_with_names_of_their_own() -> None:
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE) >= KINDS


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_job_that_meets_a_hostile_target_ends_truly(seen: Seen, hostile: Hostile) -> None:
    assert hostile.is_true(seen.ends[hostile.name])


def test_innocent_jobs_among_hostile_ones_are_well(seen: Seen) -> None:
    assert seen.innocent == ["ok"] * INNOCENTS


def test_the_loop_of_the_worker_is_never_held_for_long(seen: Seen) -> None:
    assert seen.lag_seconds < MAX_LAG_SECONDS


def test_the_worker_stays_small_and_ends_its_processes(seen: Seen) -> None:
    assert seen.growth_bytes < MAX_GROWTH_BYTES
    assert compute_processes() <= seen.computing


def compute_processes() -> set[int]:
    return {each for each in descendants(os.getpid()) if "consumer.compute" in command_line(each)}
