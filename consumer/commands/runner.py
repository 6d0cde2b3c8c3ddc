"""Runs one command under a supervisor of its own, reads what it writes, and leaves nothing of it behind."""

import asyncio
import functools
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import consumer
from consumer.commands import kernel
from consumer.commands.descendants import adopted, kill_descendants, list_processes
from consumer.commands.folder import remove_folder, remove_stale_folders
from consumer.commands.output import StreamCapture
from consumer.commands.policy import SHELL, CommandPolicy
from consumer.commands.supervisor import STOPPED, TIMEOUT, Ending, Limits, Order
from consumer.commands.verdict import (
    NOT_ALLOWED,
    PROGRAM_MISSING,
    PROGRAM_UNFIT,
    START_FAILED,
    SUPERVISOR_LOST,
    CommandEnd,
    Limit,
    NotStarted,
)
from consumer.live_output import OnOutput
from shared.errors import SettingsInvalid
from shared.kinds.command import CommandArgs, OutputSnapshot

T = TypeVar("T")

# With the supervisor's own grace time, and what ending a process takes: whoever cancels waits 3 s at most.
_STOP_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_KILL_SECONDS = 10.0
_REST_SECONDS = 0.01
_FIRST_SNAPSHOT_SECONDS, _LAST_SNAPSHOT_SECONDS = 1.0, 10.0
# A command of ten minutes is looked at every ten seconds.
_SNAPSHOT_SHARE = 60

_ROOT = str(Path(consumer.__file__).resolve().parents[1])
# Without site-packages, whatever the environment says: it starts quickly, and has nothing to hide.
_SUPERVISOR = f"import sys; sys.path.append({_ROOT!r}); from consumer.commands.supervisor import main; main()"

# The supervisors that run, by their numbers. All other processes of other sessions below us have lost theirs.
_supervisors: dict[int, subprocess.Popen[bytes]] = {}

logger = logging.getLogger(__name__)


def _ignore(_: OutputSnapshot) -> None:
    pass


async def run_command(
    args: CommandArgs, policy: CommandPolicy, *, on_output: OnOutput = _ignore
) -> CommandEnd:
    """Return how a command ended, when it and all that it had started are gone.

    Cancelling ends it first: SIGTERM, after a second SIGKILL, to all of it; that takes up to 3 s.

    Args:
        args: The command.
        policy: What the operator allows.
        on_output: Called on the event loop with what was written so far, about once a second when that is
            more than before, less often when it lasts, and last when it is cancelled.

    Raises:
        SettingsInvalid: working folders cannot be made where the operator wants them.
    """
    if (refusal := policy.refusal(args)) is not None:
        return CommandEnd(not_started=NotStarted(NOT_ALLOWED, refusal, transient=False))
    program = policy.program(args)
    if program is None:
        said = f"There is no program {args.argv[0][:100]!r} here." if args.argv else "There is no shell here."
        return CommandEnd(not_started=NotStarted(PROGRAM_MISSING, said, transient=False))
    prepare_commands(policy)
    order = _order(args, policy, program)
    outputs = StreamCapture(kept_bytes=args.output_bytes), StreamCapture(kept_bytes=args.output_bytes)
    try:
        running = _Running(order, outputs)
    except OSError as error:
        said = f"Its supervisor could not be started: {error.strerror}."
        return CommandEnd(not_started=NotStarted(START_FAILED, said, transient=True))
    try:
        await running.wait(on_output)
    finally:
        ending = await _to_its_end(running.close())
        if ending is None or ending.stopped_by == STOPPED:
            # No result will tell of it.
            running.show(on_output)
    return _command_end(ending, outputs, policy, args, program)


@functools.cache
def prepare_commands(policy: CommandPolicy) -> None:
    """Make this process fit to run commands, once: hidden from them, heir to what outlives its supervisor.

    Logs once what of the sandbox this system does not have. Removes working folders that a crash left over.

    Raises:
        SettingsInvalid: working folders cannot be made where the operator wants them, or the system is not
            Linux 5.3 or later, or hides processes.
    """
    _check_system()
    _make_root(policy.folder, is_shared=policy.user is not None)
    kernel.become_subreaper()
    kernel.hide_process()
    has = {"landlock": kernel.landlock_version() > 0, "seccomp": kernel.can_filter_calls()}
    missing = [part for part, is_here in has.items() if not is_here]
    if missing:
        logger.warning("command_sandbox_incomplete", extra={"missing": missing})
    if removed := remove_stale_folders(policy.folder):
        logger.info("stale_folders_removed", extra={"folders": removed})


class _Running:
    """One command that runs, seen from its worker."""

    def __init__(self, order: Order, outputs: Sequence[StreamCapture]) -> None:
        """Start the supervisor, which is told the order as soon as the loop runs.

        Raises:
            OSError: there is no room for one more process, or no descriptor.
        """
        self._order = order
        self._outputs = outputs
        self._shown_bytes = self._sequence = 0
        self._control, theirs = socket.socketpair()
        pipes: list[tuple[int, int]] = []
        with ExitStack() as if_failing, theirs:
            if_failing.enter_context(self._control)
            try:
                for _ in outputs:
                    pipes.append(os.pipe())
                    if_failing.callback(os.close, pipes[-1][0])
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _SUPERVISOR],
                    stdin=theirs.fileno(),
                    stdout=pipes[0][1],
                    stderr=pipes[1][1],
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                for _, write in pipes:
                    os.close(write)
            if_failing.pop_all()
        _supervisors[self._process.pid] = self._process
        loop = asyncio.get_running_loop()
        for (read, _), output in zip(pipes, outputs, strict=True):
            output.read_from(read, loop)
        self._control.setblocking(False)
        self._ending = loop.create_task(self._ask(loop))

    async def wait(self, on_output: OnOutput) -> None:
        """Return when the supervisor has said how the command ended, or is gone."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while not self._ending.done():
            share = (loop.time() - began_at) / _SNAPSHOT_SHARE
            pause_seconds = min(max(_FIRST_SNAPSHOT_SECONDS, share), _LAST_SNAPSHOT_SECONDS)
            await asyncio.wait([self._ending], timeout=pause_seconds)
            if not self._ending.done():
                self.show(on_output)

    def show(self, on_output: OnOutput) -> None:
        """Show what was written, unless that was shown before."""
        written_bytes = sum(output.received_bytes for output in self._outputs)
        if written_bytes > self._shown_bytes:
            self._shown_bytes = written_bytes
            self._sequence += 1
            stdout, stderr = (output.text() for output in self._outputs)
            on_output(OutputSnapshot(sequence=self._sequence, stdout=stdout, stderr=stderr))

    async def close(self) -> Ending | None:
        """Leave nothing of the command, which may run; return how it ended, or None when nobody knows."""
        # The supervisor takes the end of the stream as the order to stop. It may have closed its side.
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        await asyncio.wait([self._ending], timeout=_STOP_SECONDS)
        self._ending.cancel()
        (ending,) = await asyncio.gather(self._ending, return_exceptions=True)
        self._control.close()
        if not isinstance(ending, Ending):
            # Killed by its own command, or stopped: what it would have done is ours to do.
            self._process.kill()
        await _begin(functools.partial(_wait_for, self._process))
        if not isinstance(ending, Ending):
            await _kill_adopted()
            await _begin(functools.partial(remove_folder, self._order.folder))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                for output in self._outputs:
                    await output.ended.wait()
        return ending if isinstance(ending, Ending) else None

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> Ending | None:
        answer = b""
        with suppress(OSError):
            await loop.sock_sendall(self._control, self._order.encode())
            while not answer.endswith(b"\n") and (data := await loop.sock_recv(self._control, 4_096)):
                answer += data
        return Ending.decode(answer) if answer.endswith(b"\n") else None


async def _begin(work: Callable[[], object]) -> None:
    """Do work in a thread; return after a second even if it takes longer, as removing many folders does."""
    # A folder that cannot be removed is left to the next start.
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await asyncio.shield(asyncio.to_thread(work))


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    # Its number may belong to the next one by now.
    if _supervisors.get(process.pid) is process:
        del _supervisors[process.pid]


async def _kill_adopted() -> None:
    """Kill all that has outlived its supervisor, and so become ours; return when nothing is left.

    One that the kernel cannot end, because a disk does not answer it, say, is left to it, and logged.
    """
    loop = asyncio.get_running_loop()
    gives_up_at = loop.time() + _KILL_SECONDS
    while orphans := adopted(list_processes(), known=_supervisors):
        if loop.time() > gives_up_at:
            logger.error("command_processes_left", extra={"pids": [orphan.pid for orphan in orphans]})
            return
        kill_descendants(and_these=orphans)
        for orphan in orphans:
            with suppress(ChildProcessError):
                os.waitpid(orphan.pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
        await asyncio.sleep(_REST_SECONDS)


async def _to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns; whoever cancels meanwhile waits for it."""
    task = asyncio.create_task(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


def _order(args: CommandArgs, policy: CommandPolicy, program: str) -> Order:
    folder = str(policy.folder / uuid.uuid4().hex)
    return Order(
        program=program,
        argv=args.argv or [SHELL, "-c", args.shell or ""],
        environment=dict(policy.environment(args, folder)),
        stdin=args.stdin,
        folder=folder,
        user=policy.user,
        timeout_seconds=args.timeout_seconds,
        limits=Limits(**policy.limits(args.limits).model_dump()),
        readable=list(policy.readable),
        has_network=policy.has_network,
    )


def _check_system() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise SettingsInvalid("commands need Linux 5.3 or later, with pidfd_open") from error
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    hides = any(" /proc proc " in mount and "hidepid=" in mount for mount in mounts)
    if hides and os.geteuid() != 0:
        # What cannot be seen cannot be ended.
        raise SettingsInvalid(
            "commands need a /proc that shows the processes of their user: mount it without hidepid "
            "(systemd: ProtectProc=default)"
        )


def _make_root(folder: Path, *, is_shared: bool) -> None:
    # The user of commands passes through, and sees no other command's folder.
    mode = 0o711 if is_shared else 0o700
    try:
        for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            missing.mkdir(exist_ok=True)
            # Whatever the umask is.
            missing.chmod(mode)
        found = folder.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if is_ours:
            folder.chmod(mode)
    except OSError as error:
        raise SettingsInvalid(f"RETRIEVER_COMMAND_FOLDER: {folder}: {error.strerror}") from error
    if not is_ours:
        raise SettingsInvalid(f"RETRIEVER_COMMAND_FOLDER: {folder} is not a folder of this user")


def _command_end(
    ending: Ending | None,
    outputs: Sequence[StreamCapture],
    policy: CommandPolicy,
    args: CommandArgs,
    program: str,
) -> CommandEnd:
    stdout, stderr = (output.text() for output in outputs)
    if ending is None:
        said = "Its supervisor was lost: killed by the command, say, or by the system for lack of memory."
        return CommandEnd(not_started=NotStarted(SUPERVISOR_LOST, said, transient=True))
    if ending.crash is not None:
        logger.error("supervisor_crashed", extra={"program": program, "traceback": ending.crash})
        said = "Its supervisor failed in an unexpected way; see the log of its worker or agent."
        return CommandEnd(not_started=NotStarted(SUPERVISOR_LOST, said, transient=True))
    if ending.error is not None:
        said = os.strerror(ending.error)
        if ending.is_unfit:
            why = NotStarted(PROGRAM_UNFIT, f"The system does not run {program}: {said}.", transient=False)
        else:
            why = NotStarted(START_FAILED, f"It could not be started: {said}.", transient=True)
        return CommandEnd(not_started=why)
    is_limit = ending.stopped_by not in {None, TIMEOUT, STOPPED}
    return CommandEnd(
        exit_code=ending.exit_code,
        signal=_signal_name(ending.signal),
        limit=cast("Limit", ending.stopped_by) if is_limit else None,
        timed_out=ending.stopped_by == TIMEOUT,
        seconds=ending.seconds,
        stdout=stdout,
        stderr=stderr,
        limits=policy.limits(args.limits),
    )


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        # One of the real-time signals between the first and the last.
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
