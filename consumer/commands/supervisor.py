"""The process above one command: it starts it in the sandbox, watches it, and leaves nothing of it behind.

A process of its own, so that a worker may be killed and its commands end all the same. The worker starts it
as plain Python (`-I -S`), with a socket as standard input and the command's output as its own. It is told one
`Order` by the socket and answers with one `Ending`; when the socket is closed before, or the worker is gone,
it ends the command. Nothing but the standard library is imported.
"""

import errno
import json
import math
import os
import resource
import select
import signal
import socket
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, Self

from consumer.commands import kernel
from consumer.commands.descendants import (
    Process,
    descendants,
    glimpse_descendants,
    kill_all_children,
    list_processes,
    reap,
    send,
    threads_of_user,
)
from consumer.commands.folder import measure_folder, removed_bytes, working_folder

GRACE_SECONDS = 1.0
"""How long a command may go on after SIGTERM; its worker promises that a cancelled one is gone within 3 s."""

MOST_ENTRIES = 10_000
"""How many files and folders a working folder may have."""

TIMEOUT, STOPPED = "timeout", "stopped"
CPU, MEMORY, FILES, PROCESSES = "cpu_seconds", "memory_bytes", "file_bytes", "processes"

_FIRST_TICK_SECONDS, _LAST_TICK_SECONDS = 0.02, 0.25
# The folder is measured for at most a tenth of the time.
_MEASURE_SHARE = 10
# The kernel's own limits come later than ours, which say what they are.
_MORE_CPU_SECONDS = 2
# Other commands of the same user count, too.
_MORE_THREADS = 512
# The kernel ends a command before a worker when it runs out of memory. 1000 would be before everything else.
_OOM_SCORE = b"500"
# Of the processor its worker and supervisor come first, or a fork bomb would keep them from ending it.
_LESS_IMPORTANT = 10
_EXEC_FAILED = 127
# Ignored by Python, and by all that an ignoring process starts.
_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command may use: `cpu_seconds`, `memory_bytes` and `processes` with all that it starts."""

    cpu_seconds: int
    memory_bytes: int
    file_bytes: int
    processes: int
    open_files: int


@dataclass(frozen=True, slots=True)
class Order:
    """What to run and how.

    Attributes:
        program: Its path.
        folder: The working folder to make, and to remove.
        user: The numbers of user and group to run as; None for our own.
        readable: Paths that the command may read and execute.
        has_network: Whether it may open sockets.
    """

    program: str
    argv: list[str]
    environment: dict[str, str]
    stdin: str
    folder: str
    user: tuple[int, int] | None
    timeout_seconds: float
    limits: Limits
    readable: list[str]
    has_network: bool

    def encode(self) -> bytes:
        """Return it as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Return the order of a line of our own."""
        fields: dict[str, Any] = json.loads(line)
        user = fields["user"]
        return cls(**{**fields, "limits": Limits(**fields["limits"]), "user": tuple(user) if user else None})


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended.

    Attributes:
        exit_code: None when a signal ended it, or it never began.
        signal: The number of the signal that ended it.
        stopped_by: Why we ended it: `timeout`, `stopped` or a limit; None when it ended by itself.
        error: The number of the error that kept it from starting.
        is_unfit: Whether that was the program's fault: the system would not execute it.
        crash: The traceback of a mistake of ours.
        seconds: How long it ran.
    """

    exit_code: int | None = None
    signal: int | None = None
    stopped_by: str | None = None
    error: int | None = None
    is_unfit: bool = False
    crash: str | None = None
    seconds: float = 0.0

    def encode(self) -> bytes:
        """Return it as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Return the ending of a line of our own."""
        return cls(**json.loads(line))


def main() -> None:
    """Run the one command that standard input orders."""
    worker = os.getppid()
    _protect()
    control = socket.socket(fileno=os.dup(0))
    outputs = os.dup(1), os.dup(2)
    with open(os.devnull, "r+b", buffering=0) as nothing:
        # Our own words are nobody's output, and what holds it open is the command's alone.
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)
    with control, control.makefile("rb") as orders:
        line = orders.readline()
        if not line.endswith(b"\n"):
            return
        try:
            _run(Order.decode(line), control, outputs, worker)
        except Exception:  # The edge of this process, which has no log: its worker has one.
            _answer(control, Ending(crash=traceback.format_exc()))


def _protect() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        # A service manager may send these to every process of a unit. Our worker says when a command ends.
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, _OOM_SCORE)
        os.close(descriptor)
    kernel.become_subreaper()
    kernel.hide_process()
    # Its command may have stopped it. Once it runs, it sees for itself that its worker is gone.
    kernel.signal_when_orphaned(signal.SIGCONT)


def _run(order: Order, control: socket.socket, outputs: tuple[int, int], worker: int) -> None:
    try:
        with working_folder(order.folder, order.user):
            try:
                ending = _Command(order, control, worker).run(outputs)
            except _Unfit as error:
                ending = Ending(error=error.errno, is_unfit=True)
            finally:
                kill_all_children()
            # Before the folder is removed: that takes a while when it has thousands of others in it.
            _answer(control, ending)
    except OSError as error:
        _answer(control, Ending(error=error.errno or errno.EIO))


def _answer(control: socket.socket, ending: Ending) -> None:
    # A worker that is gone hears nothing more.
    with suppress(OSError):
        control.sendall(ending.encode())


class _Unfit(OSError):
    """The system will never execute the program: see execve(2)."""


_UNFIT = frozenset(
    {
        *(errno.E2BIG, errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.ENOENT, errno.ENOEXEC, errno.ENOTDIR, errno.EPERM),
    }
)


class _Command:
    """One command while it runs."""

    def __init__(self, order: Order, control: socket.socket, worker: int) -> None:
        self._order = order
        self._control = control
        self._worker = worker
        self._status: int | None = None
        self._pid = 0
        self._measure_at = 0.0

    def run(self, outputs: tuple[int, int]) -> Ending:
        """Return how the command ended, when it has, perhaps before what it started.

        Raises:
            OSError: it could not be started.
        """
        self._pid = _start(self._order, outputs)
        started_at = time.monotonic()
        stopped_by = self._watch(started_at + self._order.timeout_seconds)
        if stopped_by in {TIMEOUT, STOPPED}:
            self._terminate()
        seconds = time.monotonic() - started_at
        # Also what a command that has ended by itself left running.
        statuses = kill_all_children()
        code = os.waitstatus_to_exitcode(statuses[self._pid] if self._status is None else self._status)
        return Ending(
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            stopped_by=stopped_by or _LIMIT_OF_SIGNAL.get(-code),
            seconds=seconds,
        )

    def _watch(self, ends_at: float) -> str | None:
        """Return why the command must be ended, or None as soon as it has ended by itself."""
        ended = os.pidfd_open(self._pid)
        try:
            waiting = select.poll()
            waiting.register(ended, select.POLLIN)
            waiting.register(self._control, select.POLLIN | select.POLLHUP)
            tick_seconds = _FIRST_TICK_SECONDS
            while True:
                left_seconds = ends_at - time.monotonic()
                due = dict(waiting.poll(max(0.0, min(tick_seconds, left_seconds)) * 1_000))
                self._reap()
                if self._status is not None:
                    return None
                if due.keys() - {ended} or os.getppid() != self._worker:
                    return STOPPED
                if time.monotonic() >= ends_at:
                    return TIMEOUT
                if limit := self._limit_reached():
                    return limit
                tick_seconds = min(tick_seconds * 1.5, _LAST_TICK_SECONDS)
        finally:
            os.close(ended)

    def _limit_reached(self) -> str | None:
        limits = self._order.limits
        running = glimpse_descendants(os.getpid())
        dead = resource.getrusage(resource.RUSAGE_CHILDREN)
        if sum(process.threads for process in running if not process.is_dead) > limits.processes:
            return PROCESSES
        if sum(process.resident_bytes for process in running) > limits.memory_bytes:
            return MEMORY
        if sum(p.cpu_seconds for p in running) + dead.ru_utime + dead.ru_stime > limits.cpu_seconds:
            return CPU
        return self._folder_limit(running)

    def _folder_limit(self, running: list[Process]) -> str | None:
        began_at = time.monotonic()
        if began_at < self._measure_at:
            return None
        size, entries = measure_folder(self._order.folder, most_entries=MOST_ENTRIES)
        size += removed_bytes(self._order.folder, (process.pid for process in running))
        now = time.monotonic()
        self._measure_at = now + _MEASURE_SHARE * (now - began_at)
        return FILES if size > self._order.limits.file_bytes or entries > MOST_ENTRIES else None

    def _terminate(self) -> None:
        """Ask all to end, and give them a moment."""
        for process in descendants([os.getpid()], list_processes()):
            send(process, signal.SIGTERM)
            # One that is stopped would not hear of it.
            send(process, signal.SIGCONT)
        ends_at = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < ends_at:
            self._reap()
            if all(process.is_dead for process in descendants([os.getpid()], list_processes())):
                return
            time.sleep(_FIRST_TICK_SECONDS)

    def _reap(self) -> None:
        statuses = reap()
        if statuses and self._pid in statuses:
            self._status = statuses[self._pid]


# How the kernel's own limits end a process.
_LIMIT_OF_SIGNAL = {int(signal.SIGXCPU): CPU, int(signal.SIGXFSZ): FILES}


def _start(order: Order, outputs: tuple[int, int]) -> int:
    """Start the command in the sandbox and return its number.

    Raises:
        _Unfit: the system does not execute the program.
        OSError: there was no room for one more, or so.
    """
    ruleset = kernel.make_ruleset(_allowed(order))
    stdin = _stdin(order.stdin)
    errors, failed = os.pipe()
    user = order.user[0] if order.user else os.getuid()
    most_threads = threads_of_user(user) + order.limits.processes + _MORE_THREADS
    if order.user is not None:
        for output in outputs:
            # Or /dev/stdout could not be opened by it.
            os.fchown(output, *order.user)
    pid = os.fork()
    if pid == 0:
        _become_command(order, ruleset, (stdin, *outputs), failed, most_threads)
    for descriptor in (stdin, *outputs, failed, *([] if ruleset is None else [ruleset])):
        os.close(descriptor)
    said = os.read(errors, 16)
    os.close(errors)
    if said:
        step, number = said.split()
        is_unfit = step == b"execute" and int(number) in _UNFIT
        raise (_Unfit if is_unfit else OSError)(int(number), "not started")
    return pid


def _become_command(
    order: Order, ruleset: int | None, streams: tuple[int, int, int], failed: int, most_threads: int
) -> NoReturn:
    """Turn this process, just forked, into the command. Writes at which step that failed, and the error."""
    step = "prepare"
    try:
        os.setsid()
        for descriptor, stream in enumerate(streams):
            os.dup2(stream, descriptor)
        os.chdir(order.folder)
        if order.user is not None:
            os.setgroups([])
            os.setresgid(order.user[1], order.user[1], order.user[1])
            os.setresuid(order.user[0], order.user[0], order.user[0])
        kernel.signal_when_orphaned(signal.SIGKILL)
        kernel.gain_no_privileges()
        _limit_resources(order.limits, most_threads)
        os.nice(_LESS_IMPORTANT)
        os.umask(0o022)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if ruleset is not None:
            kernel.enforce_ruleset(ruleset)
        if kernel.can_filter_calls():
            kernel.filter_calls(has_network=order.has_network)
        step = "execute"
        os.execve(order.program, order.argv, order.environment)  # noqa: S606 - no shell is what we want
    except OSError as error:
        os.write(failed, f"{step} {error.errno or errno.EIO}".encode())
    finally:
        # Whatever happens, the child never goes on as a second supervisor.
        os._exit(_EXEC_FAILED)


def _limit_resources(limits: Limits, most_threads: int) -> None:
    cpu_seconds = limits.cpu_seconds + _MORE_CPU_SECONDS
    for which, soft, hard in (
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        # Not the address space, of which some languages reserve a hundred times what they use.
        (resource.RLIMIT_DATA, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NPROC, most_threads, most_threads),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, highest = resource.getrlimit(which)
        most = math.inf if highest == resource.RLIM_INFINITY else highest
        resource.setrlimit(which, (int(min(soft, most)), int(min(hard, most))))


def _stdin(text: str) -> int:
    """Return a descriptor of what the command reads."""
    if not text:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr")
# Of /etc what programs look up, and no more: there may be secrets of other services in it.
_ETC = (
    *(
        "alternatives",
        "bash.bashrc",
        "ca-certificates",
        "fonts",
        "gai.conf",
        "group",
        "host.conf",
        "hostname",
    ),
    *("hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "locale.conf", "localtime"),
    *("magic", "mime.types", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust", "pki/tls/certs"),
    *("protocols", "resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone"),
)
_DEVICES = ("null", "zero", "full", "random", "urandom")


def _allowed(order: Order) -> list[tuple[str, int]]:
    return [
        *((path, kernel.RUN) for path in (*_SYSTEM, *order.readable, order.program)),
        *((f"/etc/{name}", kernel.READ) for name in _ETC),
        *((f"/dev/{name}", kernel.USE) for name in _DEVICES),
        # For /dev/stdin and the like. Landlock itself keeps environments and memory of others closed.
        ("/proc", kernel.READ),
        (order.folder, kernel.ALL),
    ]
