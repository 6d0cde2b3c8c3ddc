"""What measurements stand on: a private broker with nothing on it, and targets, all gone afterwards."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.works import Place, Work
from deploy.local.broker import Broker, open_broker
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.processes import kill_group, sigterm_as_exit, wait_until_ready

ROOT = Path(__file__).resolve().parents[1]
DELAYS_MS = {Work.FAST: 0, Work.SLOW: 50}
PAGE_BYTES = 1_024
READY_SECONDS = 20.0
ASK_SECONDS = 5.0
_BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Rig:
    """What all runs share; `logs` is a folder. Of a broker in Docker no process is known."""

    amqp_url: str
    management_url: str
    broker_pids: Sequence[int]
    targets: Mapping[Work, str]
    logs: Path

    def place(self, work: Work) -> Place:
        """Return where jobs of a sort find what they need."""
        return Place(self.amqp_url, work, f"{self.targets[work]}/page" if work in self.targets else "")

    def served(self, work: Work) -> int:
        """Return how many requests the target of a sort of job has heard so far; 0 if it has none. Blocks."""
        return served_by(self.targets[work]) if work in self.targets else 0


def served_by(target: str) -> int:
    """Return how many requests a target has heard so far. Blocks."""
    with urllib.request.urlopen(f"{target}/served", timeout=ASK_SECONDS) as answer:  # noqa: S310 - our own
        return int(answer.read())


def lateness_ms(target: str) -> Mapping[str, float]:
    """Return how late a target was asked for what was due: p50, p99 and the highest. Blocks."""
    with urllib.request.urlopen(f"{target}/lateness", timeout=ASK_SECONDS) as answer:  # noqa: S310 - our own
        found: Mapping[str, float] = json.loads(answer.read())
        return {name: round(late_ms, 1) for name, late_ms in found.items()}


@contextmanager
def open_rig() -> Iterator[Rig]:
    """Yield a fresh broker and the targets; all are ended and removed afterwards.

    Raises:
        LocalError: something did not start; the message ends with its log.
    """
    with sigterm_as_exit(), ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="retriever-bench-")))
        broker = stack.enter_context(passing_broker(folder))
        ports = dict(zip(DELAYS_MS, free_ports(len(DELAYS_MS)), strict=True))
        for work, delay_ms in DELAYS_MS.items():
            stack.enter_context(
                serving_target(ports[work], folder / f"target-{work.name}.log", delay_ms=delay_ms)
            )
        yield Rig(
            amqp_url=broker.amqp_url,
            management_url=broker.management_url or "",
            broker_pids=erlang_pids(folder),
            targets={work: f"http://{LOOPBACK}:{port}" for work, port in ports.items()},
            logs=folder,
        )


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str] | None, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that writes to a log; it and all that it started are killed afterwards.

    Killed, because all it did is measured and acked by then, and some take seconds to say goodbye.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill_group(process)


@contextmanager
def serving_target(port: int, log: Path, *, delay_ms: int = 0) -> Iterator[None]:
    """Run a target that answers everything with 200, and is ready, while inside.

    Raises:
        StartFailed: it did not start; the message ends with its log.
    """
    arguments = ["--port", str(port), "--delay-ms", str(delay_ms), "--body-bytes", str(PAGE_BYTES)]
    with running([sys.executable, "-m", "bench.target", *arguments], None, log) as process:
        wait_until_ready(
            lambda: _is_served(port),
            name="the target",
            deadline_seconds=READY_SECONDS,
            is_alive=lambda: process.poll() is None,
            read_log=lambda: log.read_text(errors="replace"),
        )
        yield


@contextmanager
def passing_broker(folder: Path) -> Iterator[Broker]:
    """Yield a private broker with its data below a folder; it is killed afterwards.

    Killed, because in order it takes six seconds, for data that nobody wants any more.

    Raises:
        LocalError: it did not start; the message ends with its log.
    """
    with open_broker(folder / _BROKER, environment={}) as broker:
        try:
            yield broker
        finally:
            broker.kill()


def erlang_pids(folder: Path) -> Sequence[int]:
    """Return the Erlang machine of a passing broker; nothing of one in Docker, whose CPU then counts as 0."""
    pid_file = folder / _BROKER / "node.pid"
    return [int(pid_file.read_text())] if pid_file.exists() else []


def _is_served(port: int) -> bool:
    try:
        return served_by(f"http://{LOOPBACK}:{port}") >= 0
    except OSError:
        return False
