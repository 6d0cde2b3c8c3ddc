"""The agent: picks tasks of a queue over HTTP, holds a few at once, and stops without dropping any."""

import asyncio
import logging
import random
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from consumer.agent.held_task import HeldTask, Work
from consumer.agent.metrics import AgentMetrics
from consumer.agent.task_api import ApiUnavailable, PickedTask, RequestRefused, TaskApi
from shared.errors import DrainGivenUp, DrainStopped
from shared.health import Probe
from shared.kinds.task import PickOrder
from shared.repeated_warning import RepeatedWarning
from shared.retry import RetryPolicy, wait_seconds

# After the grace period: to end what runs, which takes up to 3 s, and to say so.
_LAST_WORD_SECONDS = 10.0
_MAX_BACK_OFF_SECONDS = 60.0
# One that drains runs again soon, so it need not outlast an API that is away.
_DRAIN_FAILURES = 3

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What an agent asks for, and how often.

    Attributes:
        limit: How many tasks it holds at once.
        wait_seconds: How long the API may wait for a task before it answers.
        poll_seconds: How long the agent rests after an error, or an answer without a task that came at once.
        is_draining: Whether it ends when there is no task to pick.
    """

    queue: str
    order: PickOrder
    limit: int
    lease_seconds: float
    wait_seconds: float
    poll_seconds: float
    grace_seconds: float
    is_draining: bool = False


class Agent:
    """Picks tasks until told to stop."""

    def __init__(self, *, name: str, pace: Pace, api: TaskApi, work: Work, metrics: AgentMetrics) -> None:
        """Make an agent that has not picked yet."""
        self._name = name
        self._pace = pace
        self._api = api
        self._work = work
        self._metrics = metrics
        self._in_hand: set[asyncio.Task[None]] = set()
        self._given_up = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._retry_after_seconds: float | None = None
        self._warning = RepeatedWarning(logger)
        self.problem: str | None = "has not asked yet"
        """Why the API gave no answer to the last pick; None when it gave one."""
        metrics.in_hand.labels(pace.queue).set_function(lambda: len(self._in_hand))

    @property
    def probes(self) -> Mapping[str, Probe]:
        """The conditions under which it works, by name."""
        return {"api": lambda: self.problem is None}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, or nothing is left when it drains.

        Tasks in hand then have the grace period to end; those still running after it are given back.

        Raises:
            DrainGivenUp: it was to drain, and the API gave no answer.
            DrainStopped: it was to drain, and `stop` was set before.
        """
        async with asyncio.TaskGroup() as group:
            is_over = await self._take(group, stop)
            await self._finish()
        if not self._pace.is_draining:
            return
        if not is_over:
            raise DrainStopped("told to stop before the queue was empty")
        if self._failures:
            raise DrainGivenUp(f"not drained: {self.problem}")

    async def _take(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> bool:
        """Return False once `stop` is set, or True when a drain is over."""
        while not stop.is_set():
            if len(self._in_hand) >= self._pace.limit:
                await _unless(stop, self._one_ends())
                continue
            asked_at, wait_seconds = self._loop.time(), self._wait_seconds
            tasks = await _unless(stop, self._pick(wait_seconds))
            for task in tasks or ():
                holding = group.create_task(self._hold(task))
                self._in_hand.add(holding)
                holding.add_done_callback(self._in_hand.discard)
            if self._is_drained(tasks):
                return True
            if not tasks:
                is_early = self._loop.time() - asked_at < wait_seconds
                await _unless(stop, self._rest(is_early=is_early))
        return False

    @property
    def _wait_seconds(self) -> float:
        # While nobody knows whether the API answers it is not to wait: until then the agent is not ready.
        return 0.0 if self._pace.is_draining or self.problem is not None else self._pace.wait_seconds

    async def _pick(self, wait_seconds: float) -> list[PickedTask] | None:
        """Return the tasks that the API gave; None when it gave no answer."""
        pace = self._pace
        try:
            tasks = await self._api.pick(
                queue=pace.queue,
                agent=self._name,
                limit=pace.limit - len(self._in_hand),
                order=pace.order,
                wait_seconds=wait_seconds,
                lease_seconds=pace.lease_seconds,
            )
        except (ApiUnavailable, RequestRefused) as error:
            self._failures += 1
            self._retry_after_seconds = (
                error.retry_after_seconds if isinstance(error, ApiUnavailable) else None
            )
            self.problem = str(error)
            self._warning.tell("pick_failed", {"error": self.problem})
            return None
        self._failures, self.problem, self._warning = 0, None, RepeatedWarning(logger)
        return tasks

    def _is_drained(self, tasks: list[PickedTask] | None) -> bool:
        if not self._pace.is_draining:
            return False
        return self._failures >= _DRAIN_FAILURES or (tasks == [] and not self._in_hand)

    async def _rest(self, *, is_early: bool) -> None:
        pace = self._pace
        if self._failures:
            await asyncio.sleep(self._back_off_seconds())
        elif pace.is_draining:
            await self._one_ends()
        elif is_early or not pace.wait_seconds:
            # Early is an answer of an API that cut a wait short, because it stops.
            await asyncio.sleep(pace.poll_seconds)

    def _back_off_seconds(self) -> float:
        first = self._pace.poll_seconds
        policy = RetryPolicy(first_delay_seconds=first, max_delay_seconds=max(first, _MAX_BACK_OFF_SECONDS))
        return wait_seconds(
            policy, self._failures, retry_after_seconds=self._retry_after_seconds, random=random.random
        )

    async def _one_ends(self) -> None:
        await asyncio.wait(self._in_hand, return_when=asyncio.FIRST_COMPLETED)

    async def _hold(self, task: PickedTask) -> None:
        pace, started_at = self._pace, self._loop.time()
        facts = {"task_id": str(task.id), "attempt": task.attempt}
        logger.info("task_picked", extra=facts)
        self._metrics.picked.labels(pace.queue).inc()
        held = HeldTask(task, api=self._api, work=self._work, lease_seconds=pace.lease_seconds)
        end = await held.run(self._given_up)
        seconds = self._loop.time() - started_at
        self._metrics.count_end(pace.queue, end, seconds)
        logger.info("task_ended", extra={**facts, "end": end, "seconds": round(seconds, 3)})

    async def _finish(self) -> None:
        grace_seconds = self._pace.grace_seconds
        if self._in_hand:
            logger.info(
                "agent_draining", extra={"in_hand": len(self._in_hand), "grace_seconds": grace_seconds}
            )
            await asyncio.wait(self._in_hand, timeout=grace_seconds)
        self._given_up.set()
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=_LAST_WORD_SECONDS)
        for holding in self._in_hand:
            holding.cancel()


async def _unless(stop: asyncio.Event, doing: Coroutine[Any, Any, T]) -> T | None:
    """Return what comes of something; None when it was cancelled because `stop` is set."""
    work = asyncio.create_task(doing)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for part in (work, stopping):
            part.cancel()
        await asyncio.gather(work, stopping, return_exceptions=True)
