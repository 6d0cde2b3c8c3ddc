"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that never sleeps. Not for code with threads or sockets: it does not wait for their answers."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.seconds = 0.0

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop began."""
        return self.seconds


class _Jumping(selectors.DefaultSelector):
    """Passes the time that the loop wants to sleep at once."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("the loop would wait for ever")
        self._loop.seconds += max(timeout, 0.0)
        return super().select(0)


def run_in_virtual_time(test: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end, in no time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(test)
