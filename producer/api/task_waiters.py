"""Agents that wait for tasks: one line a queue, in which who has waited longest looks first.

A look is a pick, a transaction. Whoever comes while nobody waits looks at once, and joins the line when there
was nothing. Each announcement of a task calls one agent out of the line, not all of them; an agent that found
something calls the next, for there may be more. So a hundred agents that wait cost nothing, and none of them
looks in vain because another was faster. Knows nothing of HTTP and, but for its absence, of the store.
"""

import asyncio
from bisect import insort
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from producer.api.waiting_room import WaitingRoom
from producer.store.wakeup import Wakeup

Found = TypeVar("Found")


class TaskWaiters(WaitingRoom):
    """All agents that wait in this process."""

    store_away = "tasks_not_looked_for"
    failed = "task_waiters_failed"

    def __init__(
        self, wakeup: Wakeup, find_ready: Callable[[Sequence[str]], Awaitable[Collection[str]]]
    ) -> None:
        """Make lines that nobody waits in.

        Args:
            wakeup: Tells the names of queues that got a task; none when it does not know.
            find_ready: Returns which of some queues have a task to pick; asked when nobody tells.
        """
        super().__init__(wakeup)
        self._find_ready = find_ready
        self._lines: dict[str, _Line] = {}
        self._tickets = count()
        self._is_closed = False

    def __len__(self) -> int:
        """Return how many agents wait."""
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def _is_empty(self) -> bool:
        return not self._lines

    async def take(
        self,
        queue: str,
        look: Callable[[], Awaitable[Sequence[Found]]],
        *,
        wait_seconds: float,
        gone: "asyncio.Future[None]",
    ) -> Sequence[Found]:
        """Return what a look finds; nothing when there was nothing for so long, or the lines were closed.

        Args:
            queue: Whose line to wait in.
            look: Picks; called when there may be something, and never once `gone` is done.
            wait_seconds: 0 looks once.
            gone: Done when the agent has left.
        """
        line = self._lines.setdefault(queue, _Line())
        line.agents += 1
        self._has_joined.set()
        try:
            return await self._take(line, look, wait_seconds, gone)
        finally:
            line.agents -= 1
            if not line.agents:
                del self._lines[queue]
            self._leave()

    def close(self) -> None:
        """Let all who wait go at once, with nothing; whoever comes later looks once."""
        self._is_closed = True
        for line in self._lines.values():
            line.dismiss()

    async def _take(
        self,
        line: "_Line",
        look: Callable[[], Awaitable[Sequence[Found]]],
        wait_seconds: float,
        gone: "asyncio.Future[None]",
    ) -> Sequence[Found]:
        clock = asyncio.get_running_loop().time
        ticket, ends_at = next(self._tickets), clock() + wait_seconds
        # While others wait there is nothing; and if there is by now, they were called and come first.
        is_called = not line.waiting or not wait_seconds
        while True:
            calls_before = line.calls
            if is_called and (found := await line.look(look, gone)):
                return found
            seconds = ends_at - clock()
            if gone.done() or self._is_closed or seconds <= 0:
                return ()
            # A task that was announced during the look may have come too late for it.
            is_late = is_called and line.calls != calls_before
            is_called = is_late or await line.wait(ticket, seconds, gone)

    async def _look(self) -> None:
        told = await self._wakeup.wait(self.look_seconds)
        clock = asyncio.get_running_loop().time
        # Also while other queues are told of all the time: nobody tells of the end of a pause.
        if not told or clock() - self._looked_at >= self.look_seconds:
            waited_for = [name for name, line in self._lines.items() if line.waiting]
            told |= frozenset(await self._find_ready(waited_for)) if waited_for else frozenset()
            self._looked_at = clock()
        for name in told:
            if name in self._lines:
                self._lines[name].call()


@dataclass(slots=True, order=True)
class _Turn:
    """The place of an agent in a line; `called` has whether it shall look, or else go."""

    ticket: int
    called: "asyncio.Future[bool]" = field(compare=False)


@dataclass(slots=True)
class _Line:
    """The agents of one queue: those who wait, the longest first, and those who look."""

    waiting: list[_Turn] = field(default_factory=list)
    agents: int = 0
    calls: int = 0

    async def wait(self, ticket: int, seconds: float, gone: "asyncio.Future[None]") -> bool:
        """Return whether the agent was called and shall look; a call that it cannot follow goes on."""
        turn = _Turn(ticket, asyncio.get_running_loop().create_future())
        insort(self.waiting, turn)
        follows = False
        try:
            await asyncio.wait((turn.called, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            follows = turn.called.done() and turn.called.result() and not gone.done()
            return follows
        finally:
            if turn in self.waiting:
                self.waiting.remove(turn)
            elif not follows:
                self.call_first()

    async def look(
        self, look: Callable[[], Awaitable[Sequence[Found]]], gone: "asyncio.Future[None]"
    ) -> Sequence[Found]:
        """Return what a look finds. Unless that is nothing, the next agent is called: there may be more.

        When the agent leaves meanwhile the look is cancelled, so that it takes no task if it has not begun.
        """
        found_nothing = False
        looking = asyncio.ensure_future(look())
        try:
            await asyncio.wait((looking, gone), return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                return ()
            found = looking.result()
            found_nothing = not found
            return found
        finally:
            looking.cancel()
            if not found_nothing:
                self.call_first()

    def call(self) -> None:
        """Let one agent look, because there is a task."""
        self.calls += 1
        self.call_first()

    def call_first(self) -> None:
        """Call who has waited longest, if anybody waits."""
        if self.waiting:
            self.waiting.pop(0).called.set_result(True)

    def dismiss(self) -> None:
        """Let all who wait go."""
        for turn in self.waiting:
            turn.called.set_result(False)
        self.waiting.clear()
