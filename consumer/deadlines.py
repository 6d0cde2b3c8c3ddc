"""Time limits that cost next to nothing to set: a timing wheel (Varghese and Lauck, 1987).

Every attempt sets some and takes nearly all back within milliseconds, and a timer of the event loop is a
tenth of what an attempt costs. Here setting and taking back are an entry of a dictionary, and one timer of
the loop serves all. So limits are late by up to `TICK_SECONDS`, which limits may be.
"""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from shared.kinds.registry import COMPUTE_SECONDS

TICK_SECONDS = 0.02


class Appointment:
    """A call due later; `cancel` takes it back."""

    __slots__ = ("_call", "_slot")

    def __init__(self, slot: "dict[Appointment, None]", call: Callable[[], object]) -> None:
        """Enter it into a slot of the wheel; only `Wheel` does."""
        self._slot = slot
        self._call = call
        slot[self] = None

    def cancel(self) -> None:
        """Take it back; that does nothing once it was called or taken back."""
        self._slot.pop(self, None)
        # Otherwise it and its maker would hold each other until the garbage collector comes by.
        self._call = _nothing

    def keep(self) -> None:
        """Make the call."""
        self._call()


def _nothing() -> None:
    pass


class Wheel:
    """Appointments by the tick in which they are due."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make an empty one for a loop."""
        self._loop = loop
        self._slots: dict[int, dict[Appointment, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def call_later(self, seconds: float, call: Callable[[], object]) -> Appointment:
        """Make a call in so many seconds, or up to a tick later. It must not block or raise."""
        tick = math.ceil((self._loop.time() + seconds) / TICK_SECONDS)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = {}
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._turn)
        return Appointment(slot, call)

    def _turn(self) -> None:
        now = math.floor(self._loop.time() / TICK_SECONDS)
        self._timer = None
        for tick in sorted(tick for tick, slot in self._slots.items() if tick <= now or not slot):
            slot = self._slots.pop(tick)
            while slot:
                appointment, _ = slot.popitem()
                appointment.keep()
        if self._slots and self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._turn)


def current_wheel(task: asyncio.Task[Any] | None = None) -> Wheel:
    """Return the wheel of the running loop; quicker where the current task is known."""
    # Looking for the running loop is a system call, which tells forks apart.
    loop = asyncio.get_running_loop() if task is None else task.get_loop()
    wheel = _wheels.get(loop)
    if wheel is None:
        # A process has one loop, except in tests.
        _wheels.clear()
        wheel = _wheels[loop] = Wheel(loop)
    return wheel


_wheels: dict[asyncio.AbstractEventLoop, Wheel] = {}


class time_limit:  # noqa: N801 - used like a function, as `asyncio.timeout` is
    """Cancel the block after so many seconds and raise `TimeoutError`, as `asyncio.timeout` does.

    A plain `with`, because entering and leaving wait for nothing. Inside `uncounted` its clock stands still.
    """

    __slots__ = (
        "_appointment",
        "_cancelling",
        "_due",
        "_is_over",
        "_seconds",
        "_spare_seconds",
        "_task",
        "outer",
    )

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_over = False
        self._spare_seconds = COMPUTE_SECONDS

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is set inside a task")
        self._task = task
        self._cancelling = task.cancelling()
        self.outer = _innermost.get(task)
        _innermost[task] = self
        loop = task.get_loop()
        self._due = loop.time() + self._seconds
        self._appointment = current_wheel(task).call_later(self._seconds, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._appointment.cancel()
        if self.outer is None:
            del _innermost[self._task]
        else:
            _innermost[self._task] = self.outer
        # Only if nobody else cancelled the task: others want more than the end of this block.
        if (
            self._is_over
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def pause(self) -> float:
        """Put the end off for as long as may be uncounted, and return how long that is."""
        self._be_due(self._due + self._spare_seconds)
        return self._spare_seconds

    def resume(self, paused_seconds: float) -> None:
        """Go on after so many seconds, which do not count; no more do than may."""
        uncounted_seconds = min(paused_seconds, self._spare_seconds)
        self._spare_seconds -= uncounted_seconds
        self._due += uncounted_seconds
        self._be_due(self._due)

    def _be_due(self, due: float) -> None:
        if not self._is_over:
            self._appointment.cancel()
            left_seconds = max(due - self._task.get_loop().time(), 0.0)
            self._appointment = current_wheel(self._task).call_later(left_seconds, self._expire)

    def _expire(self) -> None:
        self._is_over = True
        self._task.cancel()


_innermost: dict[asyncio.Task[Any], time_limit] = {}


class uncounted:  # noqa: N801 - used like a function
    """Stop the clocks of all time limits around a block of the same task: what it waits for is our own.

    So a worker that is busy never makes a target late. Entering gives the seconds for which they stand still
    at most, `COMPUTE_SECONDS` of each limit in all.
    """

    __slots__ = ("_began", "_limits", "_loop")

    def __enter__(self) -> float:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("time limits are those of a task")
        self._loop = task.get_loop()
        self._began = self._loop.time()
        self._limits: list[time_limit] = []
        limit = _innermost.get(task)
        while limit is not None:
            self._limits.append(limit)
            limit = limit.outer
        return min((limit.pause() for limit in self._limits), default=COMPUTE_SECONDS)

    def __exit__(self, *_: object) -> None:
        paused_seconds = self._loop.time() - self._began
        for limit in self._limits:
            limit.resume(paused_seconds)
