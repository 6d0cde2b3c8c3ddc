"""The data folder of a run: one run at a time has it, and no process of a run outlives it, however it ends.

Every process of a run inherits a variable that names folder and run, so that it is found without a list that
a killed run would not have written, and never mistaken for somebody else's. It is looked up in /proc: on a
system without one (macOS) nothing is found, so processes of a run that was killed there stay.
"""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from deploy.local.container import remove_containers_of
from deploy.local.errors import StartFailed
from deploy.local.processes import POLL_SECONDS, RUN_VARIABLE, command_line, signal_process

# Services first: what they still have to say, a broker that runs takes.
SERVICE_SECONDS = 15.0
SERVER_SECONDS = 30.0
KILL_SECONDS = 5.0
_OWNER_ONLY, _OTHERS = 0o700, 0o077
# One of these is in every folder that a run has had.
_OWN_FILES = ("lock", "broker", "retriever.db")
_SERVERS = ("beam.smp", "epmd", "rabbitmq-server", "erl_child_setup", "inet_gethost")


@contextmanager
def private_folder(data_dir: Path) -> Iterator[None]:
    """Make a folder for its owner alone, if it is not there, and all that is made in it while inside.

    One that others may read is closed to them, if it is a data folder already; what is in it was readable.

    Raises:
        StartFailed: others may read it, and it is no data folder; it cannot be made, or is another user's.
    """
    before = os.umask(_OTHERS)
    try:
        _make_private(data_dir)
        yield
    finally:
        os.umask(before)


@contextmanager
def held_folder(data_dir: Path) -> Iterator[None]:
    """Hold a folder while inside; what runs of it that were killed left behind is ended first.

    Whatever is started inside is ended when this process is gone, even by SIGKILL.

    Raises:
        StartFailed: another process holds the folder; says which.
    """
    with (data_dir / "lock").open("a+") as lock:
        _lock(lock, data_dir)
        leftovers = _end_runs(f"{data_dir}#")
        if leftovers:
            print(f"Ended what an earlier run left behind: {', '.join(leftovers)}", flush=True)
        run = f"{data_dir}#{uuid.uuid4().hex}"
        with _guarded(run), _named(run):
            yield


def end_processes(find: Callable[[], set[int]]) -> list[str]:
    """End processes, services before servers; return what they were.

    Args:
        find: Looks for those that are still there; what it finds no more is left alone.
    """
    found = {pid: command_line(pid) for pid in find()}
    for is_chosen, grace_seconds in ((_is_service, SERVICE_SECONDS), (_is_server, SERVER_SECONDS)):
        _end_chosen(find, is_chosen, by=signal.SIGTERM, patience_seconds=grace_seconds)
    _end_chosen(find, lambda _: True, by=signal.SIGKILL, patience_seconds=KILL_SECONDS)
    return [f"{_short(command)} ({pid})" for pid, command in found.items() if _is_telling(command)]


def _make_private(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not stat.S_IMODE(data_dir.stat().st_mode) & _OTHERS:
            return
        is_ours = not any(data_dir.iterdir()) or any((data_dir / name).exists() for name in _OWN_FILES)
        if is_ours:
            data_dir.chmod(_OWNER_ONLY)
    except OSError as error:
        raise StartFailed(f"{data_dir} cannot be made private: {error.strerror}.") from error
    if not is_ours:
        raise StartFailed(
            f"Others may read {data_dir}, and it holds files that are not ours. Take an empty folder, or"
            f" close it yourself: chmod 700 {data_dir}"
        )


def _processes_of(run: str) -> set[int]:
    """Return the ids of the processes of a run, or of all runs of a folder, by the beginning of its name."""
    mark = f"{RUN_VARIABLE}={run}".encode()
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes().split(b"\0")
        except OSError:
            # It has just ended, or is another user's.
            continue
        if any(variable.startswith(mark) for variable in variables):
            found.add(int(environment.parent.name))
    return found - {os.getpid()}


def _lock(lock: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise StartFailed(
            f"{data_dir} is in use by {holder}. End that one first (Ctrl-C), or take another folder and"
            " another port (make run: --data-dir, RETRIEVER_API_PORT)."
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}, which began at {datetime.now().astimezone():%H:%M:%S}\n")
    lock.flush()


@contextmanager
def _guarded(run: str) -> Iterator[None]:
    """Keep a process that waits for our end, and then ends what we left behind."""
    guard = subprocess.Popen(
        [sys.executable, "-m", __name__, run],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
        # Its own session: what the terminal sends reaches us, not the guard.
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        yield
    finally:
        guard.stdin.close()
        guard.wait()


@contextmanager
def _named(run: str) -> Iterator[None]:
    os.environ[RUN_VARIABLE] = run
    try:
        yield
    finally:
        del os.environ[RUN_VARIABLE]


def _end_chosen(
    find: Callable[[], set[int]],
    is_chosen: Callable[[str], bool],
    *,
    by: signal.Signals,
    patience_seconds: float,
) -> None:
    give_up_at = time.monotonic() + patience_seconds
    asked: set[int] = set()
    while chosen := {pid for pid in find() if is_chosen(command_line(pid))}:
        for pid in chosen - asked:
            signal_process(pid, by)
        asked |= chosen
        if time.monotonic() > give_up_at:
            return
        time.sleep(POLL_SECONDS)


def _is_server(command: str) -> bool:
    return any(name in command for name in _SERVERS)


def _is_service(command: str) -> bool:
    return not _is_server(command)


def _short(command: str) -> str:
    program, *arguments = command.split()
    # "python -m producer ledger"; of Erlang's many arguments none says anything.
    return " ".join([Path(program).name, *(arguments[:3] if _is_service(command) else [])])


def _is_telling(command: str) -> bool:
    return any(name in command for name in (" producer ", " consumer ", "beam.smp", "epmd -port"))


def _guard(run: str) -> None:
    # Nobody writes: this returns when the other end is closed, by its process or by the end of it.
    sys.stdin.buffer.read()
    _end_runs(run)


def _end_runs(beginning: str) -> list[str]:
    """End the processes and containers of all runs whose names begin so; return what they were."""
    return [*end_processes(lambda: _processes_of(beginning)), *remove_containers_of(beginning)]


if __name__ == "__main__":
    _guard(sys.argv[1])
