"""The processes of the product, each kept running as a supervisor would, and the ways to hurt them."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deploy.local.processes import run_control

ROOT = Path(__file__).resolve().parents[2]
# What a run leaves behind: verdicts, and the logs of every process. The next one begins by removing it.
RUN = ROOT / ".run" / "faults"
# With settings at their defaults, a dead link is noticed after half a minute.
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class Service:
    """One process. When it ends for whatever reason it is started again, unless it is kept down."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    port: int
    log: Path
    extra: dict[str, str] = field(default_factory=dict)
    """Variables of its next start."""
    crashes: list[str] = field(default_factory=list)
    """Ends that nobody here asked for."""
    is_kept_down: bool = False
    _process: subprocess.Popen[bytes] | None = None
    _writer: subprocess.Popen[bytes] | None = None
    _is_hurt: bool = False

    @property
    def url(self) -> str:
        """Where `/readyz` is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The id of the process that runs now."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it; returns at once."""
        if self._writer is None:
            # What it says goes by a pipe: a process whose files are full must still be heard.
            with self.log.open("ab") as log:
                self._writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self.command],
            cwd=ROOT,
            env={**self.environment, **self.extra},
            stdout=self._writer.stdin,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._is_hurt = False

    def watch(self) -> None:
        """Start it again if it has ended."""
        if self._process is None or (status := self._process.poll()) is None:
            return
        if not self._is_hurt:
            self.crashes.append(f"{self.name} ended with status {status}")
        if not self.is_kept_down:
            self.start()

    def republish(self) -> str:
        """Send all unfinished jobs again, as a person does, with this process's settings; return its word.

        Raises:
            LocalError: it failed, or took longer than half a minute.
        """
        command = [sys.executable, "-m", "producer", "republish"]
        said = run_control(command, environment=self.environment, folder=ROOT, timeout_seconds=30)
        return said.splitlines()[-1]

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; an end that follows is one that was asked for."""
        if self._process is not None and self._process.poll() is None:
            self._is_hurt = self._is_hurt or number in {signal.SIGKILL, signal.SIGTERM}
            self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop its clockwork with SIGSTOP; its connections stay."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    async def terminate(self, *, deadline_seconds: float = 40.0) -> None:
        """Send SIGTERM, and return when that process has ended."""
        process = self._process
        self.send(signal.SIGTERM)
        if process is not None:
            await asyncio.to_thread(process.wait, deadline_seconds)

    def end(self) -> None:
        """End it for good."""
        self.is_kept_down = True
        self.thaw()
        self.kill()
        if self._process is not None:
            self._process.wait(timeout=10)
        if self._writer is not None:
            self._writer.communicate(timeout=10)

    async def wait_ready(self) -> None:
        """Return once `/readyz` says 200.

        Raises:
            AssertionError: it did not within two minutes; ends with the last answer and the end of the log.
        """
        ends_at, seen = time.monotonic() + _READY_SECONDS, "no answer"
        async with httpx.AsyncClient(timeout=2.0) as http:
            while True:
                try:
                    answer = await http.get(f"{self.url}/readyz")
                except httpx.TransportError as error:
                    seen = repr(error)
                else:
                    if answer.status_code == 200:
                        return
                    seen = answer.text
                if time.monotonic() > ends_at:
                    tail = self.log.read_text(errors="replace")[-3_000:]
                    raise AssertionError(f"{self.name} is not ready: {seen}\n{tail}")
                await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def running(services: Sequence[Service]) -> AsyncIterator[None]:
    """Keep the services running while inside."""
    watching = asyncio.create_task(_watch(services))
    try:
        for service in services:
            service.start()
        await asyncio.gather(*(service.wait_ready() for service in services))
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        for service in services:
            service.end()


async def _watch(services: Sequence[Service]) -> None:
    while True:
        for service in services:
            service.watch()
        await asyncio.sleep(_POLL_SECONDS)
