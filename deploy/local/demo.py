"""`make demo`: the whole service at work on a small site that is flaky on purpose, in half a minute.

It checks its own claims: when a job ends in another way than it must, the exit status is 1.
"""

import asyncio
import io
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

import click
from rich.console import Console

from deploy.local.broker import open_broker
from deploy.local.data_folder import held_folder, private_folder
from deploy.local.demo_cases import (
    FINE_TOTAL,
    MAX_ATTEMPTS,
    MENDABLE,
    Case,
    difficult_checks,
    fetches,
    fine_urls,
    surprises,
    surprises_after_redrive,
    surprises_among_fine,
)
from deploy.local.demo_client import DemoClient, open_client
from deploy.local.demo_screen import PLAIN_WIDTH, Moment, Screen, row_of, row_of_fine
from deploy.local.errors import LocalError
from deploy.local.ports import LOOPBACK
from deploy.local.stack import ROOT, Stack, open_service
from deploy.local.target_site import TargetSite, open_target
from producer.api.documents import Batch, Job
from shared.broker.topology import PARKED_QUEUE

DATA_DIR = ROOT / ".run" / "demo"
LOG = DATA_DIR / "services.log"
OPEN_NETWORK = "127.0.0.0/8"
DEADLINE_SECONDS = 60.0
REDRIVE_SECONDS = 20.0
POLL_SECONDS = 0.2


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
        screen.complain(f"make demo: not every job ended as it must. The log of the services: {_shown(LOG)}")
        return 1
    screen.gap()
    screen.say(f"Every job ended as it must, in {time.monotonic() - started_at:.0f} s from start to stop.")
    screen.say("Next: `make run` serves until Ctrl-C, with a dashboard at http://127.0.0.1:8080/dashboard/.")
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
        except LocalError as error:
            raise LocalError(f"{error} The services' log is {_shown(LOG)}.") from error
        finally:
            # A second, impatient Ctrl-C must not stop the clearing up.
            _on_interruption(signal.SIG_IGN)
            screen.gap()
            with screen.step("Stop everything"):
                running.close()


async def _show(screen: Screen, stack: Stack, *, stay: bool) -> list[str]:
    with _refused_url() as refused_url:
        async with open_target() as site, open_client(stack) as service:
            wrong = await _play(screen, service, site, refused_url)
            if stay and not wrong:
                screen.gap()
                screen.say("Everything stays up, the target site too, until Ctrl-C.")
                await _stay(service)
            return wrong


async def _play(screen: Screen, service: DemoClient, site: TargetSite, refused_url: str) -> list[str]:
    checks, fetched = difficult_checks(site.url, refused_url), fetches(site.url)
    _announce(screen, site, checks, fetched)
    fine = await service.submit_urls(fine_urls(site.url))
    difficult = await service.submit_cases("check", checks)
    picked = await service.submit_cases("fetch", fetched)

    screen.head("3  Watch them")
    peaks = await _follow(screen, service, [fine, difficult, picked])

    screen.head("4  How they ended")
    fine_jobs = await service.summaries(fine)
    check_jobs, fetch_jobs = await service.jobs(difficult), await service.jobs(picked)
    named = [*zip(checks, check_jobs, strict=False), *zip(fetched, fetch_jobs, strict=False)]
    screen.table([row_of_fine(fine_jobs), *(row_of(case.name, job) for case, job in named)])
    screen.explain(peaks, fetch_jobs)
    wrong = surprises_among_fine(fine_jobs) + surprises(checks, check_jobs) + surprises(fetched, fetch_jobs)
    if wrong:
        return wrong

    screen.head("5  Repair the target, send the parked job back")
    (parked,) = [job for case, job in named if case.name == f"/mendable/{MENDABLE}"]
    site.state.mended.add(MENDABLE)
    screen.say(f"/mendable/{MENDABLE} answers 200 from now on.")
    return await _redrive(screen, service, parked)


def _announce(screen: Screen, site: TargetSite, checks: Sequence[Case], fetched: Sequence[Case]) -> None:
    screen.head("2  Submit jobs")
    screen.facts(
        [
            (f"{FINE_TOTAL:3} checks", "text/plain, one URL a line: good pages"),
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
        f"addresses; RETRIEVER_EGRESS_ALLOW={OPEN_NETWORK} opens them for this demo alone. The limits for "
        "each host (8 at once, 20 a second) are lifted for its site by RETRIEVER_HOST_LIMITS, and the "
        "circuit breaker is off (RETRIEVER_HOST_FAILURES=0)."
    )
    screen.say(f"A job has {MAX_ATTEMPTS} attempts, and waits 1, 2 and up to 4 s between them.")


async def _follow(screen: Screen, service: DemoClient, batches: Sequence[Batch]) -> dict[str, int]:
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
                raise LocalError(f"not all jobs ended within {DEADLINE_SECONDS:g} s.")
            await asyncio.sleep(POLL_SECONDS)


async def _redrive(screen: Screen, service: DemoClient, parked: Job) -> list[str]:
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


async def _stay(service: DemoClient) -> None:
    asked: list[int] = []
    _on_interruption(lambda number, _frame: asked.append(number))
    while not asked:
        service.insist_it_runs()
        await asyncio.sleep(POLL_SECONDS)


def _addresses(stack: Stack) -> list[tuple[str, str]]:
    return [
        ("API", stack.api_url),
        ("dashboard", f"{stack.api_url}/dashboard/"),
        ("Swagger UI", f"{stack.api_url}/ui/"),
        ("RabbitMQ console", stack.console()),
        ("Log of the services", _shown(LOG)),
    ]


def _environment() -> Mapping[str, str]:
    """Return the environment without settings of another Retriever, except for which broker to use."""
    kept = {"RETRIEVER_AMQP_URL", "RETRIEVER_MANAGEMENT_URL"}
    ours = {
        "RETRIEVER_EGRESS_ALLOW": OPEN_NETWORK,
        "RETRIEVER_LOG_FORMAT": "console",
        # One site that fails on purpose stands for all hosts there are; it may be asked without a limit.
        "RETRIEVER_HOST_LIMITS": f"{LOOPBACK}=2000:0",
        "RETRIEVER_HOST_FAILURES": "0",
    }
    theirs = {
        name: value for name, value in os.environ.items() if name in kept or not name.startswith("RETRIEVER_")
    }
    return theirs | ours


@contextmanager
def _private_folder() -> Iterator[None]:
    """Hold the data folder for this demo alone, emptied of what an earlier one left."""
    with private_folder(DATA_DIR), held_folder(DATA_DIR):
        for stale in (*DATA_DIR.glob("retriever.db*"), LOG):
            stale.unlink(missing_ok=True)
        yield


@contextmanager
def _refused_url() -> Iterator[str]:
    """Yield a URL that refuses connections: its port is held, so nobody else can come to listen there."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        yield f"http://{LOOPBACK}:{held.getsockname()[1]}"


def _on_interruption(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Choose what Ctrl-C, SIGTERM and a closed terminal do, unless whoever started us ignores them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
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
