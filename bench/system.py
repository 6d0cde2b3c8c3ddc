"""The real processes, started for a measurement: api, ledger, workers, a target, on a private broker."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

from bench.rig import erlang_pids, passing_broker
from deploy.local.broker import Broker
from deploy.local.errors import ControlFailed
from deploy.local.ports import LOOPBACK, free_port, free_ports
from deploy.local.postgres import open_postgres
from deploy.local.postgres_server import DURABLE_SETTINGS
from deploy.local.processes import end, sigterm_as_exit, wait_until_ready

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
POSTGRESQL, SQLITE = "postgresql", "sqlite"
STORES = (POSTGRESQL, SQLITE)
LOG_TAIL = 3_000
API, LEDGER = "api", "ledger"
WORKERS = ("worker-1", "worker-2")
# One for each lane, in place of those.
LANE_WORKERS = {"worker-interactive": "interactive", "worker-bulk": "bulk"}
EVERYTHING = (API, LEDGER, *WORKERS)


@dataclass(frozen=True, slots=True)
class System:
    """Where the service is, and the ids of its running processes by their names."""

    api_url: str
    amqp_url: str
    target_url: str
    database_url: str
    broker_pids: Sequence[int]
    pids: Mapping[str, int]
    health_urls: Mapping[str, str]
    """Where each running process says how it is, by its name."""
    logs: Path
    """The folder in which each process has its log."""
    start: Callable[..., None]
    """Starts processes that do not run yet, by their names, and returns when all are ready."""
    restart_broker: Callable[[], None]
    """Ends the broker in order, and starts it again on the same data."""


@contextmanager
def open_system(
    store: str, processes: Sequence[str] = EVERYTHING, *, settings: Mapping[str, str] | None = None
) -> Iterator[System]:
    """Yield the service, ready, on a fresh store; everything is ended and removed afterwards.

    Args:
        store: `sqlite` or `postgresql`, a private one that syncs what it commits.
        processes: What runs from the start: some of EVERYTHING.
        settings: Variables that all of them have beside the usual.

    Raises:
        LocalError: something did not start, or what was measured failed; the message ends with the logs.
    """
    with sigterm_as_exit(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retriever-bench-")))
        broker = stack.enter_context(passing_broker(folder))
        database_url = _open_store(stack, folder, store)
        system = _prepare(
            stack,
            folder,
            broker.amqp_url,
            database_url,
            settings or {},
            restart_broker=partial(_restart, broker),
        )
        system.start(*processes)
        try:
            yield system
        except ControlFailed as error:
            raise ControlFailed(f"{error}\n{_last_words(folder, system.pids)}") from error


@contextmanager
def open_store(store: str, *, settings: Mapping[str, str] | None = None) -> Iterator[System]:
    """Yield a service of which only the store is there, without a broker; its API can be started.

    Raises:
        LocalError: something did not start; the message ends with its log.
    """
    with sigterm_as_exit(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retriever-bench-")))
        nowhere = f"amqp://{LOOPBACK}:{free_port()}/"
        yield _prepare(stack, folder, nowhere, _open_store(stack, folder, store), settings or {})


def worker_environment(amqp_url: str) -> dict[str, str]:
    """Return the variables of a worker that is measured: guard on, no limit for any host, no line a job."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RETRIEVER_")},
        "RETRIEVER_AMQP_URL": amqp_url,
        "RETRIEVER_EGRESS_ALLOW": "127.0.0.0/8",
        "RETRIEVER_WORKER_GRACE_SECONDS": "1",
        # One local target stands for all hosts there are.
        "RETRIEVER_HOST_CONCURRENCY": "2000",
        "RETRIEVER_HOST_RATE_PER_SECOND": "0",
        "RETRIEVER_HOST_FAILURES": "0",
        # They send all that they can.
        "RETRIEVER_KEY_RATE_PER_SECOND": "0",
        # A line a change of state would measure the disk.
        "RETRIEVER_LOG_LEVEL": "WARNING",
    }


def _last_words(folder: Path, pids: Mapping[str, int]) -> str:
    """Return which processes still run, and the end of what each has logged."""
    running = [name for name, pid in pids.items() if Path(f"/proc/{pid}/exe").exists()]
    tails = [f"{log.name}: {log.read_text(errors='replace')[-LOG_TAIL:]}" for log in folder.glob("*.log")]
    return "\n".join([f"running: {', '.join(running)}", *tails])


def _open_store(stack: ExitStack, folder: Path, store: str) -> str:
    """Open a private store, to be removed with the stack; return its URL."""
    if store == POSTGRESQL:
        return stack.enter_context(open_postgres(settings=DURABLE_SETTINGS)).url
    return f"sqlite:///{folder / 'retriever.db'}"


def _restart(broker: Broker) -> None:
    broker.stop()
    broker.start()


def _prepare(
    stack: ExitStack,
    folder: Path,
    amqp_url: str,
    database_url: str,
    settings: Mapping[str, str],
    *,
    restart_broker: Callable[[], None] = lambda: None,
) -> System:
    """Return a system of which only the store and the target are there."""
    api_port, target_port = free_ports(2)
    environment = {
        **worker_environment(amqp_url),
        "RETRIEVER_DATABASE_URL": database_url,
        "RETRIEVER_API_PORT": str(api_port),
        **settings,
    }
    subprocess.run([sys.executable, "-m", "producer", "migrate"], cwd=ROOT, env=environment, check=True)
    starting = _Starting(stack, folder, environment)
    starting.start("target", "bench.target", "--port", str(target_port))
    started: dict[str, subprocess.Popen[bytes]] = {}
    pids: dict[str, int] = {}
    health_urls: dict[str, str] = {}

    def start(*names: str) -> None:
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        if API in ports:
            ports[API] = api_port
        for name, port in ports.items():
            started[name] = starting.start(name, *_command(name), ready_port=port)
            pids[name] = started[name].pid
            health_urls[name] = f"http://{LOOPBACK}:{port}"
        for name, port in ports.items():
            starting.wait_until_ready(name, started[name], port)

    return System(
        api_url=f"http://{LOOPBACK}:{api_port}",
        amqp_url=amqp_url,
        target_url=f"http://{LOOPBACK}:{target_port}",
        database_url=database_url,
        broker_pids=erlang_pids(folder),
        pids=pids,
        health_urls=health_urls,
        logs=folder,
        start=start,
        restart_broker=restart_broker,
    )


def _command(name: str) -> tuple[str, ...]:
    if name in LANE_WORKERS:
        return "consumer", "worker", "--lanes", LANE_WORKERS[name]
    # Of several, `worker-2` is the second.
    sort = name.partition("-")[0]
    return ("consumer", "worker") if sort == "worker" else ("producer", sort)


@dataclass(frozen=True, slots=True)
class _Starting:
    stack: ExitStack
    folder: Path
    environment: Mapping[str, str]

    def start(self, name: str, module: str, *arguments: str, ready_port: int = 0) -> subprocess.Popen[bytes]:
        """Start a process, to be ended with the stack."""
        with self._log(name).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**self.environment, "RETRIEVER_HEALTH_PORT": str(ready_port)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.stack.callback(end, process, by=signal.SIGTERM, grace_seconds=STOP_SECONDS)
        return process

    def wait_until_ready(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        """Return when a process says that it is ready."""
        wait_until_ready(
            lambda: _is_ready(port),
            name=name,
            deadline_seconds=READY_SECONDS,
            is_alive=lambda: process.poll() is None,
            read_log=lambda: self._log(name).read_text(errors="replace"),
        )

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False
