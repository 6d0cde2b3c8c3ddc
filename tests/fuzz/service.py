"""The whole service as processes, and what may never happen to it: errors, ends, growth."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.local.ports import free_port
from tests.support.environment import clean_environment
from tests.support.system import ROOT, LocalSystem, is_ready, wait_until

# A message that costs its reader the connection, or one report that costs others their transaction.
_EVENT = re.compile(
    r'"(broker_connection_lost|consumer_lost|delivery_lost|subscription_failed|recording_singly)"'
)
_SERVICES = ("api", "ledger", "worker-1", "worker-2")


class FuzzedSystem(LocalSystem):
    """API, ledger, two workers and one for commands; their logs are JSON."""

    def start(self) -> None:
        """Migrate the store and start everything; returns when all of it is ready."""
        super().start()
        self._start("commands", "consumer", "worker", "--kinds", "command", "--concurrency", "8")

    @property
    def database_url(self) -> str:
        """Its store."""
        return self._environment["RETRIEVER_DATABASE_URL"]

    def ended(self) -> list[str]:
        """Return the names of the processes that have ended."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def end_in_order(self) -> dict[str, int]:
        """Tell every process to stop; return the statuses with which they ended."""
        statuses = {}
        for name, process in self._processes.items():
            process.send_signal(signal.SIGTERM)
            statuses[name] = process.wait(timeout=60)
        return statuses

    def errors(self) -> list[str]:
        """Return the lines of all logs that tell of what must not happen."""
        return [
            f"{path.stem}: {line[:3_000]}"
            for path in sorted(self._logs.glob("*.log"))
            if path.stem != "site"
            for line in path.read_text(errors="replace").splitlines()
            if _is_error(line) or _EVENT.findall(line)
        ]

    def growing(self) -> dict[str, int]:
        """Return the resident memory of each process, in bytes."""
        return {
            name: _resident_bytes(process.pid)
            for name, process in self._processes.items()
            if name in (*_SERVICES, "commands")
        }


class FuzzedApi:
    """The API alone, as a process on a migrated store."""

    def __init__(self, database_url: str, folder: Path) -> None:
        """Describe one; `start` starts it."""
        self.port = free_port()
        self._log = folder / "api.log"
        self._environment = {
            **clean_environment(),
            "PYTHONUNBUFFERED": "1",
            "RETRIEVER_DATABASE_URL": database_url,
            "RETRIEVER_API_PORT": str(self.port),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it is ready."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "producer", "api"],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        url = f"http://127.0.0.1:{self.port}"
        wait_until(lambda: is_ready(url), what=url)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        return _resident_bytes(self.process.pid)

    def errors(self) -> list[str]:
        """Return the lines of its log that tell of what must not happen."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line[:3_000] for line in lines if _is_error(line)]

    def end_in_order(self) -> int:
        """Tell it to stop; return the status with which it ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def stop(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait(timeout=30)


def _is_error(line: str) -> bool:
    try:
        entry: Any = json.loads(line)
    except ValueError:
        # Whatever is written past the logs: a traceback of the interpreter's, a warning.
        return bool(line.strip())
    return entry.get("level") in {"ERROR", "CRITICAL"} or "exc_info" in entry


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
