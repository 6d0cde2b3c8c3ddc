"""One compute process: takes one call after the other from its worker, and answers each.

It runs strangers' programs on strangers' documents, so it has nothing to lose: no environment, no descriptor
but the socket to its worker, no network. The kernel ends it when a call takes too much of the processor,
refuses it memory beyond its limit, and ends it with its worker.
"""

import ctypes
import gc
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import time
import traceback
from contextlib import suppress
from typing import Any, Final, NamedTuple

from consumer.commands import kernel

CALL: Final = struct.Struct("!QI")
"""The length of what follows, and the seconds of the processor for it."""

ANSWER: Final = struct.Struct("!Q")

# So much more memory than at the start may be kept; beyond it a new process is cheaper.
_KEPT_BYTES = 33_554_432
# Of the processor the worker comes first. With more niceness, a busy machine would leave next to nothing.
_NICENESS = 5
# What nearly every call needs. Others are imported when they are asked for.
_NEEDED = ("consumer.compute.judgement", "consumer.compute.keeping", "consumer.compute.robots")
# The kernel ends this process before its worker when it runs out of memory. 1000 would be before all else.
_OOM_SCORE = b"500"
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)
_MALLOC_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
        value: What the function returned.
        traceback: What it raised, which is a bug of ours.
        is_out_of_memory: Whether it wanted more memory than it may have.
        cpu_seconds: What the call took of the processor.
        is_last: Whether this process ends now, because it keeps too much memory.
    """

    value: Any = None
    traceback: str | None = None
    is_out_of_memory: bool = False
    cpu_seconds: float = 0.0
    is_last: bool = False


def main(worker: int, memory_bytes: int) -> None:
    """Answer calls from standard input until it is closed.

    Args:
        worker: The number of the process that started this one.
        memory_bytes: How much more memory than at the start a call may have.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    kernel.signal_when_orphaned(signal.SIGKILL)
    if os.getppid() != worker:
        return
    channel = socket.socket(fileno=0)
    for module in _NEEDED:
        importlib.import_module(module)
    _confine(memory_bytes)
    # The garbage collector would walk through millions of values, again and again, and finds hardly a cycle.
    gc.disable()
    started_bytes = _resident_bytes()
    while (call := _receive(channel)) is not None:
        answer = _answer(call)
        del call
        if _resident_bytes() > started_bytes + _KEPT_BYTES:
            gc.collect()
            if _MALLOC_TRIM is not None:
                _MALLOC_TRIM(0)
            is_large = _resident_bytes() - _size_bytes(answer) > started_bytes + _KEPT_BYTES
            answer = answer._replace(is_last=answer.is_last or is_large)
        octets = pickle.dumps(answer._asdict(), pickle.HIGHEST_PROTOCOL)
        channel.sendall(ANSWER.pack(len(octets)) + octets)
        if answer.is_last:
            return
        del answer, octets


def _answer(call: bytearray) -> Answer:
    began = time.process_time()
    try:
        work, args, kwargs = pickle.loads(call)  # noqa: S301 - from our worker
        value = work(*args, **kwargs)
        answer = Answer(value)
    except MemoryError:
        answer = Answer(is_out_of_memory=True, is_last=True)
    except Exception:  # A bug of ours is the worker's to log, with the job that it knows.
        answer = Answer(traceback=traceback.format_exc())
    return answer._replace(cpu_seconds=time.process_time() - began)


def _receive(channel: socket.socket) -> bytearray | None:
    """Return the next call, or None when there is none any more; sets its limit of the processor."""
    head = _read(channel, CALL.size)
    if head is None:
        return None
    length, cpu_seconds = CALL.unpack(head)
    # The kernel counts whole seconds since the process began.
    soft = int(time.process_time()) + 1 + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
    return _read(channel, length)


def _read(channel: socket.socket, length: int) -> bytearray | None:
    octets = bytearray(length)
    view = memoryview(octets)
    at = 0
    while at < length:
        count = channel.recv_into(view[at:])
        if count == 0:
            return None
        at += count
    return octets


def _confine(memory_bytes: int) -> None:
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_bytes = _virtual_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    with suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, _OOM_SCORE)
        finally:
            os.close(fd)
    # Where the kernel cannot do these, the limits above hold all the same.
    with suppress(OSError, KeyError):
        kernel.gain_no_privileges()
        kernel.filter_calls(has_network=False)


def _size_bytes(answer: Answer) -> int:
    """Return about how much memory an answer itself takes."""
    parts = answer.value if isinstance(answer.value, tuple) else (answer.value,)
    return sum(len(part) for part in parts if isinstance(part, bytes))


def _resident_bytes() -> int:
    return _pages(1)


def _virtual_bytes() -> int:
    return _pages(0)


def _pages(column: int) -> int:
    fd = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(fd, 200).split()[column]) * resource.getpagesize()
    finally:
        os.close(fd)
