"""Ends a process that does not work and will not recover, so that its supervisor starts it again.

Two things are watched: that the event loop turns, and that a process whose broker and store can be reached
becomes ready. Time is counted in wake-ups of our own, so that a process or machine that was stopped for an
hour has not been silent for an hour.
"""

import asyncio
import faulthandler
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

from shared.errors import StaysUnready
from shared.health import Probe

# EX_SOFTWARE of sysexits.h: internal software error.
EXIT_STATUS = 70

_TICK_SECONDS = 1.0
_STDERR = 2
# The reader of our standard error may have stopped reading; that must not keep us.
_WRITE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Patience:
    """Counts the ticks since things were last well, up to a limit."""

    def __init__(self, limit: int) -> None:
        """Make one that has just seen things well."""
        self._limit = limit
        self._ticks = 0

    def has_run_out(self, *, is_well: bool) -> bool:
        """Count one tick, from nothing when things are well; return whether there were too many."""
        self._ticks = 0 if is_well else self._ticks + 1
        return self._ticks >= self._limit


@asynccontextmanager
async def watched(
    *, probes: Mapping[str, Probe], is_waiting: Probe, limit_seconds: int, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Watch the loop and readiness while inside; set `stop` when the process is unready for too long.

    Args:
        probes: All say yes when the process is ready.
        is_waiting: Whether the process waits for something it cannot reach, which it may do for ever.
        limit_seconds: 0 disables the watchdog.
        stop: Lets the process drain, as SIGTERM does.

    Raises:
        StaysUnready: on leaving, if the watchdog set `stop`.
    """
    if limit_seconds == 0:
        yield
        return
    with loop_watched(limit_seconds):
        watching = asyncio.create_task(_watch_readiness(probes, is_waiting, Patience(limit_seconds), stop))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    if not watching.cancelled() and (failing := watching.result()):
        raise StaysUnready(
            f"not ready for {limit_seconds} s although the broker answers; "
            f"what fails: {', '.join(failing)}. Ended, to be started anew."
        )


@contextmanager
def loop_watched(limit_seconds: int) -> Iterator[None]:
    """End the process hard, with all stacks, when the loop does not turn for so long; 0 disables it."""
    if limit_seconds == 0:
        yield
        return
    watch = _LoopWatch(asyncio.get_running_loop(), limit_seconds)
    watch.start()
    try:
        yield
    finally:
        watch.end()


async def _watch_readiness(
    probes: Mapping[str, Probe], is_waiting: Probe, patience: Patience, stop: asyncio.Event
) -> list[str]:
    """Set `stop` when patience has run out, and return the failing probes; none if somebody else set it."""
    while not stop.is_set():
        await asyncio.sleep(_TICK_SECONDS)
        failing = [name for name, probe in probes.items() if not probe()]
        if patience.has_run_out(is_well=not failing or is_waiting()):
            logger.error("process_stays_unready", extra={"failing": failing})
            stop.set()
            return failing
    return []


class _LoopWatch(threading.Thread):
    """Asks a loop each second to show that it turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_seconds: int) -> None:
        super().__init__(name="loop watchdog", daemon=True)
        self._loop = loop
        self._limit_seconds = limit_seconds
        self._patience = Patience(limit_seconds)
        self._answered = threading.Event()
        self._ended = threading.Event()

    def run(self) -> None:
        self._ask()
        while not self._ended.wait(_TICK_SECONDS):
            has_answered = self._answered.is_set()
            if self._patience.has_run_out(is_well=has_answered):
                _end_hard(f"the event loop has not turned for {self._limit_seconds} s")
            if has_answered:
                self._ask()

    def end(self) -> None:
        """Return when it asks no more; at once, because it waits on nothing else."""
        self._ended.set()
        self.join()

    def _ask(self) -> None:
        self._answered.clear()
        self._loop.call_soon_threadsafe(self._answered.set)


def _end_hard(said: str) -> NoReturn:
    # Not through the log: the loop may hang in it and hold its lock.
    writing = threading.Thread(target=_write_stacks, args=(said,), daemon=True)
    writing.start()
    writing.join(_WRITE_SECONDS)
    os._exit(EXIT_STATUS)


def _write_stacks(said: str) -> None:
    os.write(_STDERR, f"retriever: {said}; all stacks follow, and the process ends\n".encode())
    faulthandler.dump_traceback(_STDERR, all_threads=True)
