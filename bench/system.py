"""The real processes, started for a measurement: api, ledger, two workers, a target, on a private broker."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from deploy.local.broker import open_broker
from deploy.local.database import open_postgres
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.processes import end, sigterm_as_exit, wait_until_ready

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
WORKERS = ("worker-1", "worker-2")


@dataclass(frozen=True, slots=True)
class System:
    """Where the running service is."""

    api_url: str
    amqp_url: str
    target_url: str
    pids: Mapping[str, int]


@contextmanager
def open_system(store: str) -> Iterator[System]:
    """Yield the service, ready, on a fresh store; everything is ended and removed afterwards.

    Args:
        store: `sqlite` or `postgresql`. PostgreSQL is the private one of the tests, which does not sync.

    Raises:
        LocalError: something did not start; the message ends with its log.
    """
    with sigterm_as_exit(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retriever-bench-")))
        broker = stack.enter_context(open_broker(environment={}))
        database_url = (
            stack.enter_context(open_postgres()).url
            if store == "postgresql"
            else f"sqlite:///{folder / 'retriever.db'}"
        )
        yield _start_all(stack, folder, broker.amqp_url, database_url)


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
        # A line a change of state would measure the disk.
        "RETRIEVER_LOG_LEVEL": "WARNING",
    }


def _start_all(stack: ExitStack, folder: Path, amqp_url: str, database_url: str) -> System:
    api_port, ledger_port, target_port, *worker_ports = free_ports(3 + len(WORKERS))
    environment = {
        **worker_environment(amqp_url),
        "RETRIEVER_DATABASE_URL": database_url,
        "RETRIEVER_API_PORT": str(api_port),
    }
    subprocess.run([sys.executable, "-m", "producer", "migrate"], cwd=ROOT, env=environment, check=True)
    starting = _Starting(stack, folder, environment)
    starting.start("target", "bench.target", "--port", str(target_port))
    pids = {
        "api": starting.start("api", "producer", "api", ready_port=api_port),
        "ledger": starting.start("ledger", "producer", "ledger", ready_port=ledger_port),
    }
    for name, port in zip(WORKERS, worker_ports, strict=True):
        pids[name] = starting.start(name, "consumer", "worker", ready_port=port)
    return System(f"http://{LOOPBACK}:{api_port}", amqp_url, f"http://{LOOPBACK}:{target_port}", pids)


@dataclass(frozen=True, slots=True)
class _Starting:
    stack: ExitStack
    folder: Path
    environment: Mapping[str, str]

    def start(self, name: str, module: str, *arguments: str, ready_port: int = 0) -> int:
        """Start a process, to be ended with the stack; wait until it is ready, and return its id."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**self.environment, "RETRIEVER_HEALTH_PORT": str(ready_port)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.stack.callback(end, process, by=signal.SIGTERM, grace_seconds=STOP_SECONDS)
        if ready_port:
            wait_until_ready(
                lambda: _is_ready(ready_port),
                name=name,
                deadline_seconds=READY_SECONDS,
                is_alive=lambda: process.poll() is None,
                read_log=lambda: log.read_text(errors="replace"),
            )
        return process.pid


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False
