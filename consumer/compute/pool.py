"""The one bounded place for strangers' computations: a few processes, shared fairly, killed and replaced.

What runs there may take so much of the processor and of memory, and no more; what is too much is a failure of
its job that says so. Waiting for a process counts for no time limit of a job.
"""

import asyncio
import logging
import pickle
from collections.abc import Callable
from typing import Final, ParamSpec, Self, TypeVar

from consumer.compute.child import Answer
from consumer.compute.process import ComputeProcess, ProcessEnded
from consumer.compute.shares import Names, Shares
from consumer.deadlines import uncounted
from consumer.http.failures import (
    COMPUTE_BUSY,
    COMPUTE_CRASHED,
    COMPUTE_MEMORY,
    Failure,
    compute_seconds,
)

DEFAULT_PROCESSES: Final = 2
DEFAULT_CPU_SECONDS: Final = 5
DEFAULT_MEMORY_BYTES: Final = 268_435_456

WAIT_SECONDS: Final = 10.0
"""How long a call waits for a process at most; then its job is tried again later."""

_MARGIN_SECONDS = 0.1

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class ComputePool:
    """Runs pure functions of plain values in processes of their own.

    The first process starts with the first call, so that workers which need none have none.

    Attributes:
        counts: How many calls ended how: `done`, `limit`, `memory`, `crashed` and `busy`.
        ended: How many processes were killed, died, or ended because they kept too much memory.
    """

    def __init__(
        self,
        *,
        processes: int = DEFAULT_PROCESSES,
        cpu_seconds: int = DEFAULT_CPU_SECONDS,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> None:
        """Make a pool without processes.

        Args:
            processes: How many there are at most.
            cpu_seconds: What one call may take of the processor.
            memory_bytes: How much memory one call may take.
        """
        self._most = processes
        self._cpu_seconds = cpu_seconds
        self._memory_bytes = memory_bytes
        self._free = processes
        self._idle: list[ComputeProcess] = []
        self._busy: set[ComputeProcess] = set()
        self._waiting: list[_Turn] = []
        self._shares = Shares()
        self.counts = dict.fromkeys(("done", "limit", "memory", "crashed", "busy"), 0)
        self.ended = 0

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return len(self._idle) + len(self._busy)

    @property
    def waiting(self) -> int:
        """How many calls wait for a process."""
        return len(self._waiting)

    async def run(self, names: Names, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Failure:
        """Return what a function returns, or the failure of a job whose call took too much, or had no turn.

        A process that dies without having reached a limit is replaced once, and the call repeated: functions
        change nothing. Cancelling kills the process.

        Args:
            names: For whom it is: `Shares` keeps them from taking each other's turn.
            work: A function of a module that a small process can import; it returns plain values, or those of
                `consumer.compute.answers`.
            args: Plain values.
            kwargs: Plain values.

        Raises:
            RuntimeError: the function raised, which is a bug.
        """
        with uncounted() as left_seconds:
            try:
                # Before the limits around run out, which would blame the target.
                async with asyncio.timeout(max(left_seconds - _MARGIN_SECONDS, 0.0)):
                    outcome, answer = await self._run(names, _pickled(work, args, kwargs))
            except TimeoutError:
                outcome, answer = "busy", COMPUTE_BUSY
        self.counts[outcome] += 1
        if isinstance(answer, Failure):
            logger.warning(
                "compute_failed", extra={"reason": answer.reason, "outcome": outcome, "for": names}
            )
            return answer
        if answer.traceback is not None:
            raise RuntimeError(answer.traceback)
        value: T = answer.value
        return value

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all processes, and with them what is running."""
        processes = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        await asyncio.gather(*(process.kill() for process in processes))

    async def _run(self, names: Names, call: Callable[[], bytes]) -> tuple[str, Answer | Failure]:
        async with asyncio.timeout(WAIT_SECONDS):
            await self._turn(names)
        # What is cancelled, or ended by the kernel, has taken all that it may have.
        used_seconds = float(self._cpu_seconds)
        try:
            answer = await self._ask(call()) or await self._ask(call())
            if answer is None:
                return "crashed", COMPUTE_CRASHED
            used_seconds = answer.cpu_seconds
        except _TookTooLong:
            return "limit", compute_seconds(self._cpu_seconds)
        except OSError as error:
            used_seconds = 0.0
            logger.warning("compute_process_not_started", extra={"error": str(error)})
            return "busy", COMPUTE_BUSY
        else:
            return ("memory", COMPUTE_MEMORY) if answer.is_out_of_memory else ("done", answer)
        finally:
            self._shares.use(names, used_seconds, now=asyncio.get_running_loop().time())
            self._free += 1
            self._serve()

    async def _ask(self, call: bytes) -> Answer | None:
        """Return the answer of a process, or None when it died.

        Raises:
            _TookTooLong: it was ended for the time that it took.
            OSError: none can be started.
        """
        process = self._idle.pop() if self._idle else self._start()
        self._busy.add(process)
        answer = None
        try:
            answer = await process.ask(call, cpu_seconds=self._cpu_seconds)
        except ProcessEnded as ended:
            logger.warning("compute_process_lost", extra={"pid": process.pid, "status": ended.status})
            if ended.took_too_long:
                raise _TookTooLong from None
        finally:
            self._busy.discard(process)
            if answer is not None and not answer.is_last:
                self._idle.append(process)
            else:
                self.ended += 1
                await process.kill()
        return answer

    def _start(self) -> ComputeProcess:
        process = ComputeProcess(self._memory_bytes)
        logger.info("compute_process_started", extra={"pid": process.pid})
        return process

    async def _turn(self, names: Names) -> None:
        turn = _Turn(names)
        self._waiting.append(turn)
        self._serve()
        try:
            await turn.has_come
        except asyncio.CancelledError:
            # Cancelled before or after its turn had come.
            if not turn.has_come.cancelled():
                self._free += 1
            elif turn in self._waiting:
                self._waiting.remove(turn)
            self._serve()
            raise

    def _serve(self) -> None:
        while self._waiting and self._free:
            is_last = self._free == 1 < self._most
            now = asyncio.get_running_loop().time()
            waiting = [turn for turn in self._waiting if not turn.has_come.done()]
            chosen = self._shares.next_of([turn.names for turn in waiting], is_last=is_last, now=now)
            if chosen is None:
                return
            turn = next(turn for turn in waiting if turn.names is chosen)
            self._waiting.remove(turn)
            self._free -= 1
            turn.has_come.set_result(None)


class _TookTooLong(Exception):
    """The kernel ended a process for the time of the processor that a call took."""


class _Turn:
    """A call that waits for a process."""

    __slots__ = ("has_come", "names")

    def __init__(self, names: Names) -> None:
        self.names = names
        self.has_come = asyncio.get_running_loop().create_future()


def _pickled(work: Callable[..., object], args: object, kwargs: object) -> Callable[[], bytes]:
    """Return what makes the octets of a call, so that a call that waits takes no memory twice."""
    return lambda: pickle.dumps((work, args, kwargs), pickle.HIGHEST_PROTOCOL)
