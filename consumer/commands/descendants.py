"""All that a process has started: found in /proc, frozen, and killed to the last one.

Nothing but the standard library is imported: the supervisor runs without site-packages.
"""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# A fork bomb that no limit of processes holds would be frozen for ever.
_MOST_FREEZES = 100
_REST_SECONDS = 0.005


class Process(NamedTuple):
    """A process as /proc showed it. One that has died and waits for its parent `is_dead`."""

    pid: int
    parent: int
    session: int
    is_dead: bool
    threads: int
    cpu_seconds: float
    resident_bytes: int
    started: int


def list_processes() -> dict[int, Process]:
    """Return all processes that can be seen, by their numbers."""
    found = (_read(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def descendants(of: Iterable[int], processes: dict[int, Process]) -> list[Process]:
    """Return what these processes have started, and what that has started, parents first."""
    children = defaultdict(list)
    for process in processes.values():
        children[process.parent].append(process)
    found: list[Process] = []
    parents = list(of)
    while parents:
        born = children.pop(parents.pop(), ())
        found += born
        parents += [process.pid for process in born]
    return found


def glimpse_descendants(of: int) -> list[Process]:
    """Return what `descendants` does at a fraction of the cost; one that moves meanwhile may be missed."""
    if not os.path.exists(f"/proc/{of}/task/{of}/children"):
        # A kernel without CONFIG_PROC_CHILDREN.
        return descendants([of], list_processes())
    found: dict[int, Process] = {}
    parents = [of]
    while parents:
        for pid in _children(parents.pop()):
            process = None if pid in found else _read(pid)
            if process is not None:
                found[pid] = process
                parents.append(pid)
    return list(found.values())


def adopted(processes: dict[int, Process], *, known: Collection[int]) -> list[Process]:
    """Return the children of this process that it did not make itself: their own parents have died.

    Those have left its session, which none can join again.
    """
    own = processes[os.getpid()]
    return [
        process
        for process in processes.values()
        if process.parent == own.pid and process.session != own.session and process.pid not in known
    ]


def send(process: Process, number: int) -> None:
    """Send a signal to this process, and never to another that has got its number since."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            now = _read(process.pid)
            if now is not None and now.started == process.started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def kill_descendants(of: Iterable[int] = (), *, and_these: Iterable[Process] = ()) -> None:
    """Kill all that processes have started. What escapes by forking meanwhile is for the next call.

    All are stopped first: what is stopped starts nothing, so that none is missed.

    Args:
        of: The numbers of the processes, which are left alive.
        and_these: Processes to kill with all that they have started.
    """
    roots, also = list(of), list(and_these)
    stopped: set[tuple[int, int]] = set()
    found: list[Process] = []
    for _ in range(_MOST_FREEZES):
        found = also + descendants([*roots, *(process.pid for process in also)], list_processes())
        new = [p for p in found if not p.is_dead and (p.pid, p.started) not in stopped]
        if not new:
            break
        for process in new:
            send(process, signal.SIGSTOP)
            stopped.add((process.pid, process.started))
    for process in found:
        send(process, signal.SIGKILL)


def kill_all_children() -> dict[int, int]:
    """Kill all that this process, a subreaper, has started; return the statuses of its children.

    What they start is theirs or, when they die, this process's: so when it has no child, none is left.
    """
    statuses: dict[int, int] = {}
    while (died := reap()) is not None:
        statuses |= died
        kill_descendants([os.getpid()])
        time.sleep(_REST_SECONDS)
    return statuses


def reap() -> dict[int, int] | None:
    """Return the statuses of children that have died by now, by their numbers; None without a child."""
    statuses: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            # The last of them: there is none when asked again.
            return statuses or None
        if pid == 0:
            return statuses
        statuses[pid] = status


def threads_of_user(user: int) -> int:
    """Return how many threads all processes of a user have, as RLIMIT_NPROC counts them."""
    count = 0
    for process in list_processes().values():
        with suppress(OSError), open(f"/proc/{process.pid}/status", "rb") as file:
            owner = next((line for line in file if line.startswith(b"Uid:")), b"Uid: -1")
            count += process.threads if int(owner.split()[1]) == user else 0
    return count


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    return children


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except OSError:
        return None
    # The name, in brackets, may have blanks and brackets. See proc_pid_stat(5), whose first field is 1.
    fields = line.rpartition(b")")[2].split()
    if len(fields) < 22:
        return None
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        is_dead=fields[0] in {b"Z", b"X"},
        threads=int(fields[17]),
        cpu_seconds=sum(map(int, fields[11:15])) / _TICKS_PER_SECOND,
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
        started=int(fields[19]),
    )
