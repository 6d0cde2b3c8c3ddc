"""Processes that we start and must end: by id, never by name, however the program ends."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deploy.local.errors import ControlFailed, StartFailed

POLL_SECONDS = 0.1
# What every process and container of a run has: the name of that run, by which it is found and ended.
RUN_VARIABLE = "DEPLOY_LOCAL_RUN"
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LOG_TAIL_LINES = 25
OUTPUT_TAIL_CHARACTERS = 2000


def wait_until_ready(
    is_ready: Callable[[], bool],
    *,
    name: str,
    deadline_seconds: float,
    is_alive: Callable[[], bool],
    read_log: Callable[[], str],
) -> None:
    """Block until a server is ready.

    Raises:
        StartFailed: It ended, or the deadline passed; the message ends with the tail of its log.
    """
    give_up_at = time.monotonic() + deadline_seconds
    while not is_ready():
        if not is_alive():
            raise StartFailed(f"{name} ended while starting. Its log ends with:\n{_tail(read_log())}")
        if time.monotonic() > give_up_at:
            raise StartFailed(
                f"{name} was not ready after {deadline_seconds:g} s. Its log ends with:\n{_tail(read_log())}"
            )
        time.sleep(POLL_SECONDS)


def end(process: subprocess.Popen[bytes], *, by: signal.Signals, grace_seconds: float, pid: int = 0) -> None:
    """Ask a process to end, wait, and kill its whole group if it stays. Ended already: does nothing.

    Args:
        process: Started with `start_new_session=True`, so that its group is its own.
        by: The signal that asks.
        grace_seconds: How long it may take.
        pid: The process to ask, when that is a child of `process` (a server behind its start script).
    """
    if process.poll() is None:
        signal_process(pid or process.pid, by)
        try:
            process.wait(timeout=grace_seconds)
        except subprocess.TimeoutExpired:
            pass
    kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process group that we started, and reap the process itself."""
    signal_group(process, signal.SIGKILL)
    process.wait()


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process that we started and to those it started; ended already: does nothing."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # Nobody is left (macOS says so with EPERM).
        pass


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process; ended already: does nothing."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def run_control(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, timeout_seconds: float
) -> str:
    """Run a command that controls a server and return what it printed. Blocks.

    Raises:
        ControlFailed: It failed, or took too long and was killed; the message ends with what it said.
    """
    with subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            output, complaints = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise ControlFailed(f"{' '.join(command)} took more than {timeout_seconds:g} s.") from error
        finally:
            kill_group(process)
    return checked_output(command, status=process.returncode, output=output, complaints=complaints)


def checked_output(command: Sequence[str], *, status: int, output: bytes, complaints: bytes) -> str:
    """Return what a command that has ended wrote to its standard output.

    Raises:
        ControlFailed: Its status is not 0; the message ends with what it said.
    """
    if status != 0:
        said = (output + complaints).decode(errors="replace").strip()[-OUTPUT_TAIL_CHARACTERS:]
        raise ControlFailed(f"{' '.join(command)} failed with status {status}:\n{said}")
    return output.decode(errors="replace").strip()


def end_leftover(pid_file: Path, *, mark: str, grace_seconds: float = 20.0) -> None:
    """End the server that a killed run left behind: two servers on one data folder would ruin it.

    Args:
        pid_file: Written by that server; missing or stale is fine.
        mark: Text in the server's command line, so that a recycled id is left alone.
        grace_seconds: How long it may take before it is killed.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    if mark not in command_line(pid):
        return
    signal_process(pid, signal.SIGTERM)
    give_up_at = time.monotonic() + grace_seconds
    while mark in command_line(pid):
        if time.monotonic() > give_up_at:
            signal_process(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def command_line(pid: int) -> str:
    """Return the command line of a running process; empty if there is none (or no /proc: macOS)."""
    try:
        return (
            (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Return the ids of the running children of a process (none without /proc: macOS)."""
    return [child for child, parent in _parents().items() if parent == pid]


def descendants(pid: int) -> set[int]:
    """Return the ids of the children of a process, of theirs, and so on (none without /proc: macOS)."""
    parents, found = _parents(), {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def _parents() -> dict[int, int]:
    """Return the parent of each process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent ...": the name may hold blanks and brackets, so read from its end.
            parents[int(stat.parent.name)] = int(
                stat.read_text(errors="replace").rpartition(")")[2].split()[1]
            )
        except (OSError, IndexError):
            continue
    return parents


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the program like Ctrl-C does, so that every `finally` ends what it started.

    So do SIGHUP (the terminal was closed) and SIGQUIT (the other key), unless whoever started us has them
    ignored, as `nohup` does.
    """
    is_ours_to_set = threading.current_thread() is threading.main_thread()
    numbers = [each for each in ENDING if is_ours_to_set and signal.getsignal(each) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
