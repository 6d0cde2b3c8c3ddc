"""The whole service in Docker, started by `make e2e`. The same tests run against it."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.keys import bearer

PROJECT = "retriever-e2e"
_PROFILES = ("--profile", "commands", "--profile", "agents")
_FILES = ("docker-compose.yml", "tests/end_to_end/docker-compose.e2e.yml")


class ComposeSystem:
    """The compose stack of `make e2e`."""

    vhost = "/"
    # The broker there is stock: its figures are renewed every five seconds.
    seen_after_seconds = 12

    def __init__(self) -> None:
        """Read where everything is from the environment that `make e2e` made."""
        self.api_url = os.environ["E2E_API_URL"]
        self.site_url = os.environ["E2E_TARGET_URL"]
        self.control_url = os.environ["E2E_CONTROL_URL"]
        self.management_url = os.environ["RETRIEVER_MANAGEMENT_URL"]
        self.amqp_url = os.environ["RETRIEVER_AMQP_URL"]
        self.headers: Mapping[str, str] = bearer(os.environ["E2E_API_KEY"])
        self.webhook_secrets: tuple[str, ...] = tuple(os.environ["E2E_WEBHOOK_SECRETS"].split())

    def kill_workers(self) -> None:
        """SIGKILL every worker, then start them again."""
        _compose("kill", "--signal", "SIGKILL", "worker")
        _compose("start", "worker")

    def drain_workers(self) -> None:
        """SIGTERM one worker after the other, wait until each has ended, and start it again."""
        for worker in self._containers("worker"):
            _docker("stop", "--time", "40", worker)
            _docker("start", worker)

    def stop_broker(self) -> None:
        """Stop the broker in order."""
        _compose("stop", "rabbitmq")

    def kill_broker(self) -> None:
        """SIGKILL the broker."""
        _compose("kill", "--signal", "SIGKILL", "rabbitmq")

    def start_broker(self) -> None:
        """Start the broker again; returns when it is healthy."""
        _compose("up", "--detach", "--no-recreate", "--wait", "rabbitmq")

    def settle_broker(self) -> None:
        """Do nothing: the stack is older than what a broker forgets."""

    def memory_bytes(self, process: str) -> int:
        """Return the resident memory of the first process of `api` or `ledger`."""
        container = self._containers(process)[0]
        statm = _docker("exec", container, "cat", "/proc/1/statm")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @contextmanager
    def second_pair(self) -> Iterator[str]:
        """Run a second ledger while inside; yield the only API, whose port of the host nobody can share."""
        scale = ("up", "--detach", "--no-recreate", "--wait", "--scale")
        _compose(*scale, "ledger=2", "ledger")
        try:
            yield self.api_url
        finally:
            _compose(*scale, "ledger=1", "ledger")

    @contextmanager
    def executor(self) -> Iterator[None]:
        """Run the worker of the kind `command` while inside."""
        _compose("--profile", "commands", "up", "--detach", "--no-recreate", "--wait", "executor")
        try:
            yield
        finally:
            _compose("--profile", "commands", "rm", "--force", "--stop", "executor")

    @contextmanager
    def three_agents(self) -> Iterator[None]:
        """Run three agents while inside, as `make` starts them."""
        self.make("scale-agents", "num=3")
        try:
            yield
        finally:
            _compose("--profile", "agents", "rm", "--force", "--stop", "agent")

    def drain_tasks(self, *arguments: str) -> None:
        """Run an agent that ends when there is no task."""
        run = ("--profile", "agents", "run", "--rm", "--no-TTY", "--no-deps", "agent")
        agent = ("python", "-m", "consumer", "agent", "--api", "http://agent-api:8081")
        _compose(*run, *agent, *arguments)

    def make(self, *arguments: str) -> str:
        """Run a command of `make` on the stack; return what it printed."""
        stack = {"COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_FILE": ":".join(_FILES)}
        return _run(["make", "--no-print-directory", *arguments], environment=stack)

    def execute(self, service: str, *command: str) -> str:
        """Run a command in the container of a service; return what it printed."""
        return _compose(*_PROFILES, "exec", "--no-TTY", service, *command)

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what Docker says of a container of a service."""
        container, *_ = _compose(*_PROFILES, "ps", "--quiet", service).split()
        return dict(json.loads(_docker("inspect", container))[0])

    def count(self, service: str) -> int:
        """Return how many containers of a service run."""
        return len(_compose(*_PROFILES, "ps", "--quiet", service).split())

    @contextmanager
    def third_worker(self) -> Iterator[None]:
        """Run a third worker while inside."""
        scale = ("up", "--detach", "--no-recreate", "--wait", "--scale")
        _compose(*scale, "worker=3", "worker")
        try:
            yield
        finally:
            _compose(*scale, "worker=2", "worker")

    def run_python(self, script: Path, *arguments: str) -> str:
        """Run a script in a container of its own beside the others; return what it printed."""
        folder = f"{script.parent}:/script:ro"
        run = ("run", "--rm", "--no-TTY", "--no-deps", "--volume", folder, "worker")
        return _compose(*run, "python", f"/script/{script.name}", *arguments)

    def _containers(self, service: str) -> list[str]:
        return _compose("ps", "--quiet", service).split()


def _compose(*arguments: str) -> str:
    files = [part for name in _FILES for part in ("--file", name)]
    return _run(["docker", "compose", "--project-name", PROJECT, *files, *arguments])


def _docker(*arguments: str) -> str:
    return _run(["docker", *arguments])


def _run(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{json.dumps(command)}: {done.stderr[-500:]}"
    return done.stdout
