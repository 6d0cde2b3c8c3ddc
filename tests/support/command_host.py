"""A process that runs commands as a worker does, held by a test: of another user, say, or to be killed.

Started as a program it reads orders, one a line, and writes how each command ended.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from consumer.commands.descendants import Process, descendants, list_processes
from consumer.commands.policy import CommandPolicy
from consumer.commands.runner import prepare_commands, run_command
from consumer.commands.verdict import outcome_of
from shared.kinds.command import CommandArgs, OutputSnapshot
from shared.outcomes import Succeeded
from shared.settings import read_settings
from tests.support.environment import clean_environment
from tests.support.waiting import eventually

# Of a user that owns nothing here, and has no name.
_UNPRIVILEGED = 54_321
USERS = [None, _UNPRIVILEGED] if os.geteuid() == 0 else [None]
"""Whom tests run hosts as. Root runs commands as nobody, others as themselves: two different sandboxes."""

SECRET = "sesame-8f14e45f"
_ROOT = Path(__file__).resolve().parents[2]
_DEADLINE_SECONDS = 60


class CommandHost:
    """The test's side of one such process."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.process.pid

    async def run(self, *argv: str, line: str | None = None, **args: Any) -> dict[str, Any]:
        """Return how a command ended: reason (None for a success), explanation, transient, and its result."""
        self.start(*argv, line=line, **args)
        return await self.ended()

    def start(self, *argv: str, line: str | None = None, **args: Any) -> None:
        """Start a command: its words, or a line for the shell; further arguments are those of the kind."""
        self._send({"run": {"argv": list(argv) or None, "shell": line, **args}})

    def cancel(self) -> None:
        """Cancel the command that was started last."""
        self._send({"cancel": True})

    async def ended(self) -> dict[str, Any]:
        """Return the next end of a command."""
        while "snapshot" in (said := await self.hear()):
            pass
        return said

    async def snapshot(self) -> dict[str, Any]:
        """Return the next that is shown of its output while it runs."""
        said = await self.hear()
        return dict(said["snapshot"])

    def left(self) -> list[Process]:
        """Return what runs below it, and what works in its folders, but for supervisors."""
        processes = list_processes()
        below = descendants([self.pid], processes)
        found = below + [p for p in processes.values() if p not in below and self._works_here(p)]
        return [process for process in found if not _is_supervisor(process)]

    async def expect_nothing_left(self) -> None:
        """Fail when processes are left; return when supervisors have removed the folders."""
        assert not self.left()

        async def is_clean() -> bool:
            folders = await asyncio.to_thread(os.listdir, self.folder)
            return not folders and not descendants([self.pid], list_processes())

        await eventually(is_clean)

    async def supervisor(self) -> int:
        """Return the number of the process above the command that runs, when the command has begun."""

        async def look() -> int | None:
            processes = list_processes()
            mine = [p.pid for p in descendants([self.pid], processes) if p.parent == self.pid]
            return mine[0] if mine and descendants(mine, processes) else None

        return await eventually(look)

    def peak_bytes(self) -> int:
        """Return the most memory that it has held."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1_024 for line in lines if line.startswith("VmHWM:"))

    def _send(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        """Return what it says next."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_DEADLINE_SECONDS):
            line = await self.process.stdout.readline()
        assert line, "the host has died"
        return dict(json.loads(line))

    def _works_here(self, process: Process) -> bool:
        try:
            return Path(f"/proc/{process.pid}/cwd").readlink().is_relative_to(self.folder)
        except OSError:
            return False


@contextlib.contextmanager
def folder_for_all() -> Iterator[Path]:
    """Yield a folder in which every user can make others; pytest's own let no other user pass."""
    with tempfile.TemporaryDirectory(prefix="commands-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@asynccontextmanager
async def command_host(
    folder: Path, *, user: int | None = None, **settings: str
) -> AsyncIterator[CommandHost]:
    """Run such a process while inside.

    Args:
        folder: Where it makes working folders; one that does not exist yet.
        user: The number of a user to run it as, for tests of root.
        settings: Of the product, named without prefix and in lower case; all programs are allowed.
    """
    values = {
        "command_programs": "*",
        "command_shell": "true",
        "command_folder": str(folder),
        "amqp_url": f"amqp://guest:{SECRET}@localhost/",
        **settings,
    }
    become = () if user is None else ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    python = sys.executable if user is None else _python_for_all()
    process = await asyncio.create_subprocess_exec(
        *become,
        *(python, "-W", "error", "-m", "tests.support.command_host"),
        cwd=_ROOT,
        env={
            **clean_environment(),
            **{f"RETRIEVER_{name.upper()}": value for name, value in values.items()},
            "PYTHONPATH": sysconfig.get_path("purelib"),
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    host = CommandHost(process, folder)
    try:
        assert await host.hear() == {"ready": True}
        yield host
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _is_supervisor(process: Process) -> bool:
    try:
        return b"consumer.commands.supervisor" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return False


def _python_for_all() -> str:
    """Return a Python that every user can execute: ours may be below the closed home of root."""
    program = Path(sys.executable).resolve()
    if all(folder.stat().st_mode & 0o001 for folder in program.parents):
        return sys.executable
    # The libraries are built for this version.
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = shutil.which(name, path="/usr/local/bin:/usr/bin")
    assert found is not None, f"no {name} that another user can execute: open {program} to all"
    return found


async def _main() -> None:
    policy = CommandPolicy.of(read_settings())
    prepare_commands(policy)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: asyncio.Task[None] | None = None
    _say({"ready": True})
    while line := await reader.readline():
        order = json.loads(line)
        if "run" in order:
            running = asyncio.create_task(_run(CommandArgs.model_validate(order["run"]), policy))
        elif running is not None:
            running.cancel()
    transport.close()


async def _run(args: CommandArgs, policy: CommandPolicy) -> None:
    loop = asyncio.get_running_loop()
    try:
        end = await run_command(args, policy, on_output=_show)
    except asyncio.CancelledError:
        _say({"cancelled": True, "at": loop.time()})
        return
    outcome = outcome_of(end, args)
    is_success = isinstance(outcome, Succeeded)
    _say(
        {
            "reason": None if is_success else getattr(outcome, "reason", None),
            "explanation": getattr(outcome, "explanation", None),
            "transient": getattr(outcome, "transient", None),
            "result": outcome.result,
        }
    )


def _show(snapshot: OutputSnapshot) -> None:
    _say({"snapshot": snapshot.model_dump(mode="json")})


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - that is how the test hears of it


if __name__ == "__main__":
    uvloop.run(_main())
