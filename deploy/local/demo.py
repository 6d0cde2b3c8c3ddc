"""`make demo`: the whole service at work on a small site that is flaky on purpose, in half a minute.

It checks its own claims: when a job ends in another way than it must, the exit status is 1.
"""

import asyncio
import fcntl
import io
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aio_pika
import click
import httpx
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError
from rich.console import Console

from deploy.local.broker import open_broker
from deploy.local.demo_cases import (
    FINE_TOTAL,
    MAX_ATTEMPTS,
    MENDABLE,
    RETRY,
    Case,
    difficult_checks,
    fetches,
    fine_urls,
    surprises,
    surprises_after_redrive,
    surprises_among_fine,
)
from deploy.local.demo_screen import PLAIN_WIDTH, Moment, Screen, row_of, row_of_fine
from deploy.local.errors import LocalError
from deploy.local.ports import LOOPBACK
from deploy.local.stack import ROOT, Stack, open_service
from deploy.local.target_site import TargetSite, open_target
from producer.api.models import Batch, Job, JobSummary
from shared.broker.topology import PARKED_QUEUE, delay_queue, work_queue
from shared.kinds.registry import Lane

DATA_DIR = ROOT / ".run" / "demo"
LOG = DATA_DIR / "services.log"
OPEN_NETWORK = "127.0.0.0/8"
DEADLINE_SECONDS = 60.0
REDRIVE_SECONDS = 20.0
POLL_SECONDS = 0.2
HTTP_TIMEOUT_SECONDS = 10.0
AMQP_TIMEOUT_SECONDS = 5.0
QUEUES = (
    work_queue("check", Lane.BULK),
    work_queue("check", Lane.INTERACTIVE),
    work_queue("fetch", Lane.INTERACTIVE),
    *(delay_queue(step) for step in (1, 2, 3, 4)),
    PARKED_QUEUE,
)


@click.command()
@click.option("--stay", is_flag=True, help="Keep everything running after the demo, until Ctrl-C.")
def main(*, stay: bool) -> None:
    """Show Retriever at work on a small site that is flaky on purpose."""
    # A terminal or a log that cannot take a character must not end the demo.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    console = Console(width=None if on_terminal else PLAIN_WIDTH)
    sys.exit(run_demo(Screen(console, is_live=on_terminal), stay=stay))


def run_demo(screen: Screen, *, stay: bool) -> int:
    """Run the demo, end every process that it started however it ends, and return the exit status."""
    started_at = time.monotonic()
    _on_interruption(_interrupt)
    try:
        with _private_folder():
            wrong = _start_and_show(screen, stay=stay)
    except LocalError as error:
        screen.complain(f"make demo: {error}")
        return 1
    except SystemExit as interruption:
        screen.complain("make demo: interrupted; every process that it started has ended.")
        return int(interruption.code or 0)
    for sentence in wrong:
        screen.complain(f"make demo: {sentence}")
    if wrong:
        screen.complain(f"make demo: not what should have happened. The services' log: {_shown(LOG)}")
        return 1
    screen.gap()
    screen.say(f"Every job ended as it must, in {time.monotonic() - started_at:.0f} s from start to stop.")
    screen.say("Next: `make run` serves until Ctrl-C, with Swagger UI at http://127.0.0.1:8080/ui/.")
    return 0


def _start_and_show(screen: Screen, *, stay: bool) -> list[str]:
    environment = _environment()
    screen.head("1  Start the service")
    with ExitStack() as running:
        with screen.step("RabbitMQ"):
            # No data folder: the broker begins empty and leaves nothing behind.
            broker = running.enter_context(open_broker(environment=environment))
        with screen.step("API, ledger and worker, on SQLite"):
            stack = running.enter_context(open_service(broker, DATA_DIR, environment, log=LOG))
        screen.gap()
        screen.facts(_addresses(stack))
        try:
            return asyncio.run(_show(screen, stack, stay=stay))
        finally:
            # A second, impatient Ctrl-C must not stop the clearing up.
            _on_interruption(signal.SIG_IGN)
            screen.gap()
            with screen.step("Stop everything"):
                running.close()


async def _show(screen: Screen, stack: Stack, *, stay: bool) -> list[str]:
    with _refused_url() as refused_url:
        async with (
            open_target() as site,
            httpx.AsyncClient(timeout=HTTP_TIMEOUT_SECONDS, trust_env=False) as http,
            await _connect(stack) as amqp,
        ):
            service = _Service(stack, http, amqp)
            wrong = await _play(screen, service, site, refused_url)
            if stay and not wrong:
                screen.gap()
                screen.say("Everything stays up, the target site too, until Ctrl-C.")
                await _stay(service)
            return wrong


async def _play(screen: Screen, service: "_Service", site: TargetSite, refused_url: str) -> list[str]:
    checks, fetched = difficult_checks(site.url, refused_url), fetches(site.url)
    screen.head("2  Hand in jobs")
    screen.facts(
        [
            (f"{FINE_TOTAL:3} checks", "text/plain, one URL a line: nothing is wrong with them"),
            (f"{len(checks):3} checks", "JSON: one for everything that can be wrong with a URL"),
            (
                f"{len(fetched):3} fetches",
                "JSON: an API with an extract, a page, a flaky one, one that is gone",
            ),
        ]
    )
    screen.gap()
    screen.say(
        f"They go to {site.url}, a site that is flaky on purpose. The egress guard refuses loopback "
        f"addresses; RETRIEVER_EGRESS_ALLOW={OPEN_NETWORK} opens them for this demo alone."
    )
    screen.say(f"A job has {MAX_ATTEMPTS} attempts, and waits 1, 2 and up to 4 s in between.")
    fine = await service.submit_urls(fine_urls(site.url))
    difficult = await service.submit_cases("check", checks)
    picked = await service.submit_cases("fetch", fetched)

    screen.head("3  Watch them")
    peaks = await _follow(screen, service, [fine, difficult, picked])

    screen.head("4  What became of them")
    fine_jobs = await service.summaries(fine)
    check_jobs, fetch_jobs = await service.jobs(difficult), await service.jobs(picked)
    named = [*zip(checks, check_jobs, strict=False), *zip(fetched, fetch_jobs, strict=False)]
    screen.table([row_of_fine(fine_jobs), *(row_of(case.name, job) for case, job in named)])
    screen.explain(peaks, fetch_jobs)
    wrong = surprises_among_fine(fine_jobs) + surprises(checks, check_jobs) + surprises(fetched, fetch_jobs)
    if wrong:
        return wrong

    screen.head("5  Mend the target, send the parked job back")
    (parked,) = [job for case, job in named if case.name == f"/mendable/{MENDABLE}"]
    site.state.mended.add(MENDABLE)
    return await _redrive(screen, service, parked)


async def _follow(screen: Screen, service: "_Service", batches: Sequence[Batch]) -> dict[str, int]:
    """Show the batches until all their jobs have ended; return the greatest length of each queue."""
    started_at = time.monotonic()
    peaks: Counter[str] = Counter()
    with screen.following() as show:
        while True:
            latest = [await service.batch(batch) for batch in batches]
            queues = await service.queue_lengths()
            counts = sum((Counter(batch.counts) for batch in latest), Counter[Any]())
            took_seconds = time.monotonic() - started_at
            show(Moment(took_seconds, counts, queues))
            peaks |= Counter(queues)
            if all(batch.finished_at for batch in latest):
                return dict(peaks)
            service.insist_it_runs()
            if took_seconds > DEADLINE_SECONDS:
                raise LocalError(f"not all jobs ended within {DEADLINE_SECONDS:g} s; see {_shown(LOG)}.")
            await asyncio.sleep(POLL_SECONDS)


async def _redrive(screen: Screen, service: "_Service", parked: Job) -> list[str]:
    """Send a job back, follow it to its end, and see its message leave the parking queue."""
    started_at = time.monotonic()
    in_queue = (await service.queue_lengths()).get(PARKED_QUEUE, 0)
    job, still_in_queue = await service.redrive(parked), in_queue
    while not (job.state.is_final and still_in_queue < in_queue):
        if time.monotonic() - started_at > REDRIVE_SECONDS:
            break
        await asyncio.sleep(POLL_SECONDS)
        job = await service.job(job.id)
        still_in_queue = (await service.queue_lengths()).get(PARKED_QUEUE, 0)
    screen.say(f"POST /jobs/{job.id}/redrive")
    screen.facts(
        [
            (
                "State",
                f"{job.state}: the same id, run {job.run}, {len(job.attempts)} attempts over both runs",
            ),
            (PARKED_QUEUE, f"{in_queue} messages before, {still_in_queue} now"),
        ]
    )
    return surprises_after_redrive(parked, job, left_queue=still_in_queue < in_queue)


async def _stay(service: "_Service") -> None:
    asked: list[int] = []
    _on_interruption(lambda number, _frame: asked.append(number))
    while not asked:
        service.insist_it_runs()
        await asyncio.sleep(POLL_SECONDS)


class _Service:
    """Speaks to the running service as a customer does, and to RabbitMQ's console."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, amqp: AbstractConnection) -> None:
        self._stack = stack
        self._http = http
        self._amqp = amqp

    async def submit_urls(self, urls: Sequence[str]) -> Batch:
        """Hand in URLs to check, one a line."""
        answer = await self._ask("POST", "/batches", content="\n".join(urls), media_type="text/plain")
        return Batch.model_validate_json(answer)

    async def submit_cases(self, kind: str, cases: Sequence[Case]) -> Batch:
        """Hand in cases of one kind, in the lane that does not wait behind the many URLs."""
        document = {
            "kind": kind,
            "lane": Lane.INTERACTIVE,
            "retry": RETRY,
            "items": [dict(case.args) for case in cases],
        }
        answer = await self._ask("POST", "/batches", content=json.dumps(document))
        return Batch.model_validate_json(answer)

    async def batch(self, batch: Batch) -> Batch:
        """Return the batch as it is now."""
        return Batch.model_validate_json(await self._ask("GET", f"/batches/{batch.id}"))

    async def summaries(self, batch: Batch) -> list[JobSummary]:
        """Return the jobs of a batch in the order of its items, without attempts."""
        lines = (await self._ask("GET", f"/batches/{batch.id}/results")).splitlines()
        return [JobSummary.model_validate_json(line) for line in lines]

    async def jobs(self, batch: Batch) -> list[Job]:
        """Return the jobs of a batch in the order of its items."""
        return [await self.job(summary.id) for summary in await self.summaries(batch)]

    async def job(self, job_id: UUID) -> Job:
        """Return a job as it is now."""
        return Job.model_validate_json(await self._ask("GET", f"/jobs/{job_id}"))

    async def redrive(self, job: Job) -> Job:
        """Send a parked job back."""
        return Job.model_validate_json(await self._ask("POST", f"/jobs/{job.id}/redrive"))

    async def queue_lengths(self) -> dict[str, int]:
        """Return how many messages wait in each of `QUEUES` now; empty before they are declared."""
        try:
            # Asked of the broker itself: the management API can be five seconds behind. A channel for each
            # time, because asking for a queue that is not there yet closes it.
            async with asyncio.timeout(AMQP_TIMEOUT_SECONDS), self._amqp.channel() as channel:
                queues = [await channel.declare_queue(name, passive=True) for name in QUEUES]
        except (AMQPError, OSError, TimeoutError):
            return {}
        return {queue.name: queue.declaration_result.message_count or 0 for queue in queues}

    def insist_it_runs(self) -> None:
        """Raise a LocalError if the service has ended by itself."""
        if self._stack.processes.poll() is not None:
            raise LocalError(f"the service ended by itself; see {_shown(LOG)}.")

    async def _ask(
        self, method: str, path: str, *, content: str | None = None, media_type: str = "application/json"
    ) -> str:
        headers = {"Content-Type": media_type} if content is not None else None
        try:
            answer = await self._http.request(
                method, f"{self._stack.api_url}{path}", content=content, headers=headers
            )
        except httpx.HTTPError as error:
            self.insist_it_runs()
            raise LocalError(f"{method} {path} had no answer ({error!r}); see {_shown(LOG)}.") from error
        if answer.is_error:
            raise LocalError(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.text


async def _connect(stack: Stack) -> AbstractConnection:
    try:
        return await aio_pika.connect(stack.amqp_url, timeout=AMQP_TIMEOUT_SECONDS)
    except (AMQPError, OSError, TimeoutError) as error:
        raise LocalError(f"RabbitMQ took no connection: {error!r}.") from error


def _addresses(stack: Stack) -> list[tuple[str, str]]:
    console = "not known: set RETRIEVER_MANAGEMENT_URL"
    if stack.management_url:
        parts = urlsplit(stack.management_url)
        login = f"   user {parts.username}, password {parts.password}" if stack.broker.is_ours else ""
        console = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{login}"
    return [
        ("API", stack.api_url),
        ("Swagger UI", f"{stack.api_url}/ui/"),
        ("RabbitMQ console", f"{console}   ({stack.broker.kind})"),
        ("Log of the services", _shown(LOG)),
    ]


def _environment() -> Mapping[str, str]:
    """Return the environment without settings of another Retriever, except for which broker to use."""
    kept = {"RETRIEVER_AMQP_URL", "RETRIEVER_MANAGEMENT_URL"}
    ours = {"RETRIEVER_EGRESS_ALLOW": OPEN_NETWORK, "RETRIEVER_LOG_FORMAT": "console"}
    theirs = {
        name: value for name, value in os.environ.items() if name in kept or not name.startswith("RETRIEVER_")
    }
    return theirs | ours


@contextmanager
def _private_folder() -> Iterator[None]:
    """Hold the data folder for this demo alone, emptied of what an earlier one left."""
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    # A file of its own: migrations lock the folder.
    lock = os.open(DATA_DIR / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for stale in (*DATA_DIR.glob("retriever.db*"), LOG):
            stale.unlink(missing_ok=True)
        yield
    except BlockingIOError:
        raise LocalError(f"another demo runs in {_shown(DATA_DIR)}; wait until it has ended.") from None
    finally:
        os.close(lock)


@contextmanager
def _refused_url() -> Iterator[str]:
    """Yield a URL that refuses connections: its port is held, so nobody else can come to listen there."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        yield f"http://{LOOPBACK}:{held.getsockname()[1]}"


def _on_interruption(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Choose what Ctrl-C, SIGTERM and a closed terminal do, unless whoever started us ignores them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Unwind the program, so that every `finally` does its work; once is enough."""
    _on_interruption(signal.SIG_IGN)
    raise SystemExit(128 + number)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
