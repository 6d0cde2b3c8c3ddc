"""The API as agents see it, in memory: it gives tasks, keeps what it is told, and fails when told to."""

import asyncio
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from consumer.agent.task_api import (
    ApiUnavailable,
    End,
    Extension,
    Lease,
    PickedTask,
    TaskApi,
)
from shared.errors import LeaseLost, RetrieverError
from shared.kinds.command import OutputSnapshot
from shared.kinds.task import PickOrder


def make_picked_task(*, payload: Any = None, command: dict[str, Any] | None = None) -> PickedTask:
    """Return a task in its first attempt."""
    if command is None and payload is None:
        command = {"argv": ["true"]}
    return PickedTask(
        id=uuid.uuid4(), attempt=1, lease=Lease(token=uuid.uuid4().hex), command=command, payload=payload
    )


class FakeTaskApi(TaskApi):
    """Keeps every call in `calls`; `errors` by the name of a call are raised in turn, one for each call.

    Attributes:
        waiting: Tasks to be picked, the oldest first.
        limits: How many tasks each pick asked for.
        outputs: What extensions have shown.
        ends: How tasks ended, in order.
        lost: Tasks whose lease is lost.
        cancelled: Tasks that somebody has cancelled.
        is_away: Whether it answers nothing.
    """

    def __init__(self, tasks: Sequence[PickedTask] = ()) -> None:
        self.waiting = deque(tasks)
        self.limits: list[int] = []
        self.outputs: list[OutputSnapshot | None] = []
        self.ends: list[tuple[PickedTask, End]] = []
        self.lost: set[uuid.UUID] = set()
        self.cancelled: set[uuid.UUID] = set()
        self.is_away = False
        self.errors: dict[str, deque[RetrieverError]] = {}
        self.calls: Counter[str] = Counter()
        self._has_changed = asyncio.Event()

    def add(self, task: PickedTask) -> None:
        """Let an agent pick one task more."""
        self.waiting.append(task)
        self._has_changed.set()

    async def ended(self, number: int = 1) -> list[tuple[PickedTask, End]]:
        """Return the ends, once there are so many."""
        while len(self.ends) < number:
            self._has_changed.clear()
            await self._has_changed.wait()
        return self.ends

    async def called(self, name: str, times: int = 1) -> None:
        """Return once there were so many calls of a name."""
        while self.calls[name] < times:
            self._has_changed.clear()
            await self._has_changed.wait()

    async def pick(
        self,
        *,
        queue: str,
        agent: str,
        limit: int,
        order: PickOrder,
        wait_seconds: float,
        lease_seconds: float,
    ) -> list[PickedTask]:
        self._note("pick")
        self.limits.append(limit)
        ends_at = asyncio.get_running_loop().time() + wait_seconds
        while not self.waiting and asyncio.get_running_loop().time() < ends_at:
            self._has_changed.clear()
            try:
                async with asyncio.timeout_at(ends_at):
                    await self._has_changed.wait()
            except TimeoutError:
                break
        return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    async def extend(
        self, task: PickedTask, *, lease_seconds: float, output: OutputSnapshot | None
    ) -> Extension:
        self._note("extend")
        self._check(task)
        self.outputs.append(output)
        return Extension(cancel_requested=task.id in self.cancelled)

    async def report(self, task: PickedTask, end: End) -> None:
        self._note("report")
        self._check(task)
        self.ends.append((task, end))

    def _note(self, call: str) -> None:
        self.calls[call] += 1
        self._has_changed.set()
        if self.is_away:
            raise ApiUnavailable("nobody listens")
        if errors := self.errors.get(call):
            raise errors.popleft()

    def _check(self, task: PickedTask) -> None:
        if task.id in self.lost:
            raise LeaseLost("The lease ran out.")
