"""The whole service as a person or a fault sees it, run here as processes."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeVar

import httpx

from deploy.local.broker import Broker
from deploy.local.ports import free_port
from producer.store.migrate import migrate
from tests.support.environment import clean_environment
from tests.support.factories import make_webhook_secret
from tests.support.management import Management

ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 180.0


class System(Protocol):
    """A running service, the site it works on, and the ways to hurt it."""

    api_url: str
    site_url: str
    """The flaky site as workers reach it."""
    control_url: str
    """The flaky site as the tests reach it."""
    management_url: str
    vhost: str
    amqp_url: str
    """The broker as the service's own processes reach it."""
    headers: Mapping[str, str]
    """What each request to the API brings: its key, where it asks for one."""
    webhook_secrets: tuple[str, ...]
    """The secrets that sign webhooks, the newest first."""
    seen_after_seconds: int
    """How long a message must wait to be seen by the management API, whose figures are old by then."""

    def kill_workers(self) -> None:
        """SIGKILL every worker, then start as many, as a supervisor does."""

    def drain_workers(self) -> None:
        """SIGTERM one worker after the other, wait until each has ended, and start it again: a deploy."""

    def stop_broker(self) -> None:
        """Stop the broker in order."""

    def kill_broker(self) -> None:
        """SIGKILL the broker."""

    def start_broker(self) -> None:
        """Start the broker again; returns when it answers."""

    def settle_broker(self) -> None:
        """Let the queues reach the disk: RabbitMQ forgets those declared a moment before a SIGKILL."""

    def memory_bytes(self, process: str) -> int:
        """Return the resident memory of `api` or `ledger`."""

    def second_pair(self) -> AbstractContextManager[str]:
        """Run a second api and a second ledger while inside; yield the address of an API."""

    def third_worker(self) -> AbstractContextManager[None]:
        """Run a third worker while inside."""

    def three_agents(self) -> AbstractContextManager[None]:
        """Run three agents of the queue `default` while inside, which may use the shell."""

    def drain_tasks(self, *arguments: str) -> None:
        """Run an agent that ends when there is no task."""

    def run_python(self, script: Path, *arguments: str) -> str:
        """Run a script where the service's own processes run; return what it printed."""


AnySystem = TypeVar("AnySystem", bound="LocalSystem")


class LocalSystem:
    """API, ledger and two workers as processes on this machine."""

    headers: Mapping[str, str] = MappingProxyType({})
    webhook_secrets: tuple[str, ...] = (make_webhook_secret(), make_webhook_secret())
    seen_after_seconds = 3

    def __init__(
        self,
        *,
        broker: Broker,
        vhost: str,
        amqp_url: str,
        database_url: str,
        logs: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a system; `start` starts it. `settings` are variables that it has beside the usual."""
        self._broker = broker
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._is_settled = False
        # The folder whose code a process runs, where that is not ours.
        self._roots: dict[str, Path] = {}
        self.vhost = vhost
        self.amqp_url = amqp_url
        self.management_url = str(broker.management_url)
        ports = {"api": free_port(), "ledger": free_port(), "site": free_port()}
        self.api_url = f"http://127.0.0.1:{ports['api']}"
        self.site_url = self.control_url = f"http://127.0.0.1:{ports['site']}"
        self._worker_ports = {"worker-1": free_port(), "worker-2": free_port()}
        self._ledger_url = f"http://127.0.0.1:{ports['ledger']}"
        self._environment = {
            **clean_environment(),
            "PYTHONUNBUFFERED": "1",
            "RETRIEVER_AMQP_URL": amqp_url,
            "RETRIEVER_DATABASE_URL": database_url,
            "RETRIEVER_API_PORT": str(ports["api"]),
            "RETRIEVER_EGRESS_ALLOW": "127.0.0.0/8",
            "RETRIEVER_WORKER_GRACE_SECONDS": "1",
            "RETRIEVER_COMMAND_SHELL": "true",
            # An agent is told of an abort within a third of it.
            "RETRIEVER_AGENT_LEASE_SECONDS": "9",
            "RETRIEVER_WEBHOOK_SECRETS": ",".join(self.webhook_secrets),
            # One local site stands for all hosts there are.
            "RETRIEVER_HOST_CONCURRENCY": "2000",
            "RETRIEVER_HOST_RATE_PER_SECOND": "0",
            "RETRIEVER_HOST_FAILURES": "0",
            **(settings or {}),
        }
        self._site_port, self._ledger_port = ports["site"], ports["ledger"]

    def start(self) -> None:
        """Migrate the store and start everything; returns when all of it is ready."""
        # Not by the command: it takes a second to start, for a twentieth of work.
        migrate(self._environment["RETRIEVER_DATABASE_URL"])
        self._start("site", "deploy.local.target_site", "--port", str(self._site_port))
        self._start("api", "producer", "api")
        self._start("ledger", "producer", "ledger", health_port=self._ledger_port)
        for name in self._worker_ports:
            self._start_worker(name)
        for url in (self.api_url, self._ledger_url, *self._worker_urls()):
            wait_until(lambda url=url: is_ready(url), what=url)  # type: ignore[misc]

    def stop(self) -> None:
        """End everything that was started."""
        for name in list(self._processes):
            self._end(name, signal.SIGKILL)

    def kill_workers(self) -> None:
        """SIGKILL every worker, then start as many."""
        for name in self._worker_ports:
            self._end(name, signal.SIGKILL)
        for name in self._worker_ports:
            self._start_worker(name)

    def kill_api(self) -> None:
        """SIGKILL the API, then start it again; returns when it is ready."""
        self._end("api", signal.SIGKILL)
        self._start("api", "producer", "api")
        wait_until(lambda: is_ready(self.api_url), what="api")

    def drain_workers(self) -> None:
        """SIGTERM one worker after the other, wait until each has ended, and start it again."""
        for name in self._worker_ports:
            self._end(name, signal.SIGTERM)
            self._start_worker(name)

    def stop_broker(self) -> None:
        """Stop the broker in order."""
        self._broker.stop()
        self._is_settled = True

    def kill_broker(self) -> None:
        """SIGKILL the broker."""
        self._broker.kill()

    def start_broker(self) -> None:
        """Start the broker again."""
        self._broker.start()

    def settle_broker(self) -> None:
        """Stop and start the broker in order, unless that has been done since the queues were declared."""
        if not self._is_settled:
            self.stop_broker()
            self.start_broker()

    def memory_bytes(self, process: str) -> int:
        """Return the resident memory of `api` or `ledger`."""
        pages = int(Path(f"/proc/{self._processes[process].pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @contextmanager
    def second_pair(self) -> Iterator[str]:
        """Run a second api and a second ledger while inside; yield the second API's address."""
        api_port, ledger_port = free_port(), free_port()
        api_url = f"http://127.0.0.1:{api_port}"
        self._start("api-2", "producer", "api", api_port=api_port)
        self._start("ledger-2", "producer", "ledger", health_port=ledger_port)
        try:
            for url in (api_url, f"http://127.0.0.1:{ledger_port}"):
                wait_until(lambda url=url: is_ready(url), what=url)  # type: ignore[misc]
            yield api_url
        finally:
            self._end("api-2", signal.SIGTERM)
            self._end("ledger-2", signal.SIGTERM)

    @contextmanager
    def third_worker(self) -> Iterator[None]:
        """Run a third worker while inside."""
        port = free_port()
        self._start("worker-3", "consumer", "worker", health_port=port)
        try:
            wait_until(lambda: is_ready(f"http://127.0.0.1:{port}"), what="worker-3")
            yield
        finally:
            self._end("worker-3", signal.SIGTERM)

    @contextmanager
    def three_agents(self) -> Iterator[None]:
        """Run three agents of the queue `default` while inside, which may use the shell."""
        ports = {f"agent-{number}": free_port() for number in range(1, 4)}
        for name, port in ports.items():
            self._start(name, "consumer", "agent", "--api", self.api_url, health_port=port)
        try:
            for name, port in ports.items():
                wait_until(lambda port=port: is_ready(f"http://127.0.0.1:{port}"), what=name)  # type: ignore[misc]
            yield
        finally:
            for name in ports:
                self._end(name, signal.SIGTERM)

    def drain_tasks(self, *arguments: str) -> None:
        """Run an agent that ends when there is no task."""
        self._start("drain", "consumer", "agent", "--api", self.api_url, *arguments)
        assert self._processes.pop("drain").wait(timeout=60) == 0

    def run_python(self, script: Path, *arguments: str) -> str:
        """Run a script with our Python; return what it printed."""
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _worker_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._worker_ports.values()]

    def _start_worker(self, name: str) -> None:
        self._start(name, "consumer", "worker", health_port=self._worker_ports[name])

    def _start(
        self, name: str, module: str, *arguments: str, health_port: int = 0, api_port: int | None = None
    ) -> None:
        environment = {**self._environment, "RETRIEVER_HEALTH_PORT": str(health_port)}
        if api_port is not None:
            environment["RETRIEVER_API_PORT"] = str(api_port)
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self._roots.get(name, ROOT),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _end(self, name: str, by: signal.Signals) -> None:
        process = self._processes.pop(name)
        process.send_signal(by)
        process.wait(timeout=30)


def is_ready(url: str) -> bool:
    """Return whether a process says that it is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running_system(
    made: type[AnySystem],
    broker: Broker,
    database_url: str,
    logs: Path,
    *,
    name: str,
    settings: Mapping[str, str] | None = None,
) -> Iterator[AnySystem]:
    """Run a system on a virtual host of its own while inside.

    Args:
        made: Of which class.
        broker: Where the virtual host is made, and deleted afterwards.
        database_url: Its store.
        logs: The folder of its logs.
        name: What the virtual host's name begins with.
        settings: Variables that it has beside the usual.
    """
    assert broker.management_url is not None
    management = Management(broker.management_url)
    vhost = f"{name}-{uuid.uuid4().hex[:12]}"
    management.create_vhost(vhost)
    system = made(
        broker=broker,
        vhost=vhost,
        amqp_url=f"{broker.amqp_url.rsplit('/', maxsplit=1)[0]}/{vhost}",
        database_url=database_url,
        logs=logs,
        settings=settings,
    )
    try:
        system.start()
        yield system
    finally:
        system.stop()
        management.delete_vhost(vhost)
        management.close()


def wait_until(is_so: Callable[[], bool], *, what: str) -> None:
    """Return once something is so.

    Raises:
        AssertionError: it was not within three minutes; names `what` is not ready.
    """
    ends_at = time.monotonic() + _READY_SECONDS
    while not is_so():
        if time.monotonic() > ends_at:
            raise AssertionError(f"{what} is not ready after {_READY_SECONDS:g} s")
        time.sleep(0.05)
