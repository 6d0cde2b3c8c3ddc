"""One compute process as its worker sees it: started clean, asked one thing at a time, killed if needed."""

import asyncio
import io
import pickle
import signal
import socket
import subprocess
import sys
from os import getpid
from pathlib import Path
from typing import Any, Final

import consumer
from consumer.compute import answers
from consumer.compute.child import ANSWER, CALL, Answer

MAX_ANSWER_BYTES: Final = 33_554_432
"""More than any answer of ours; a child that says more is none of ours any more."""

_ROOT = str(Path(consumer.__file__).resolve().parents[1])
_MAIN = (
    f"import sys; sys.path.append({_ROOT!r}); from consumer.compute.child import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)
# One arena, since it has one thread at a time: each reserves 64 MB of what may be used.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "1048576"}


class ProcessEnded(Exception):
    """A compute process is gone, and its call with it.

    Attributes:
        took_too_long: Whether the kernel ended it for the time of the processor that it took.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.took_too_long = status == -signal.SIGXCPU


class ComputeProcess:
    """A child that answers one call after the other."""

    def __init__(self, memory_bytes: int) -> None:
        """Start one; it is ready when it answers.

        Args:
            memory_bytes: How much more memory than at its start a call may have.

        Raises:
            OSError: there is no room for one more process, or no descriptor.
        """
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _MAIN, str(getpid()), str(memory_bytes)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_ENVIRONMENT,
                    cwd="/",
                    # Out of reach of Ctrl-C, and in our session, where `consumer.commands` leaves it alone.
                    process_group=0,
                )
        except BaseException:
            self._channel.close()
            raise
        self._channel.setblocking(False)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    async def ask(self, call: bytes, *, cpu_seconds: int) -> Answer:
        """Return the answer to a call. Whoever cancels this has to kill the process.

        Raises:
            ProcessEnded: it is gone.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._channel, CALL.pack(len(call), cpu_seconds))
            await loop.sock_sendall(self._channel, call)
            (length,) = ANSWER.unpack(await self._receive(loop, ANSWER.size))
            if length > MAX_ANSWER_BYTES:
                raise EOFError
            return _read_answer(await self._receive(loop, length))
        except (OSError, EOFError, pickle.UnpicklingError):
            raise ProcessEnded(await self._ended()) from None

    async def kill(self) -> None:
        """End the process, whatever it does."""
        self._channel.close()
        self._process.kill()
        await asyncio.shield(asyncio.to_thread(self._process.wait))

    async def _ended(self) -> int | None:
        """Return how the process ended, as `Popen.returncode`; one that does not end by itself is killed."""
        self._channel.close()
        return await asyncio.shield(asyncio.to_thread(self._wait))

    def _wait(self) -> int | None:
        try:
            return self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def _receive(self, loop: asyncio.AbstractEventLoop, length: int) -> bytearray:
        octets = bytearray(length)
        view = memoryview(octets)
        at = 0
        while at < length:
            count = await loop.sock_recv_into(self._channel, view[at:])
            if count == 0:
                raise EOFError
            at += count
        return octets


# For what a broken socket leaves a moment later; a process that lives on has broken its word.
_ENDING_SECONDS = 1.0


class _PlainUnpickler(pickle.Unpickler):
    """Takes plain values, and the types in `consumer.compute.answers`: a child may have been taken over."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(answers, name, None)
        if module != answers.__name__ or not isinstance(found, type):
            raise pickle.UnpicklingError(f"{module}.{name} is no answer")
        return found


def _read_answer(octets: bytearray) -> Answer:
    fields = _PlainUnpickler(io.BytesIO(octets)).load()
    if not isinstance(fields, dict) or set(fields) != set(Answer._fields):
        raise pickle.UnpicklingError("no answer")
    return Answer(**fields)
