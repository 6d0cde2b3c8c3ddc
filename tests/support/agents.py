"""Agents as processes: the shipped one, and that of examples/shell-agent."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local.packages import require
from tests.support.environment import clean_environment
from tests.support.system import ROOT

_SETTINGS = {"RETRIEVER_COMMAND_PROGRAMS": "*", "RETRIEVER_WORKER_GRACE_SECONDS": "5"}


@contextmanager
def agent_process(
    api_url: str, logs: Path, *options: str, settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m consumer agent`; end it at the end if it still runs."""
    command = [sys.executable, "-m", "consumer", "agent", "--api", api_url, *options]
    with _running(command, logs / "agents.log", {**_SETTINGS, **(settings or {})}) as process:
        yield process


@contextmanager
def shell_agent(api_url: str, logs: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run examples/shell-agent/agent.sh; end it at the end."""
    for program in ("curl", "jq"):
        require(program, program)
    command = ["sh", str(ROOT / "examples" / "shell-agent" / "agent.sh"), api_url, *options]
    with _running(command, logs / "shell-agent.log", {}) as process:
        yield process


@contextmanager
def _running(
    command: Sequence[str], log: Path, settings: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean_environment(), **settings},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGCONT, signal.SIGTERM):
            if process.poll() is None:
                # As Ctrl-C does: what the one in shell waits for need not end first.
                os.killpg(process.pid, number)
        process.wait(timeout=60)
