"""One task in hand: its work runs while its lease is extended, and then its end is reported.

The API decides whose a task is. Who hears that a lease is lost stops the work and reports nothing, since
another agent may have the task already.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, Final

from consumer.agent.task_api import ApiUnavailable, End, PickedTask, RequestRefused, TaskApi
from shared.errors import LeaseLost
from shared.kinds.command import OutputSnapshot
from shared.outcomes import Cancelled, Failed, outcome_name
from shared.retry import RetryPolicy, wait_seconds

Work = Callable[[PickedTask, Callable[[OutputSnapshot], None]], Coroutine[Any, Any, End]]
"""Does a task, showing what it writes meanwhile. Cancelling it ends all that it started."""

AGENT_STOPPED: Final = "agent_stopped"
RESULT_REFUSED: Final = "result_refused"

# How often the lease is extended, for an answer may be lost, and the next.
_EXTENSIONS_A_LEASE = 3
_AGAIN = RetryPolicy(first_delay_seconds=0.5, max_delay_seconds=5.0)
_STOPPED = Failed(AGENT_STOPPED, "The agent was stopped before the task was done.", transient=True)

logger = logging.getLogger(__name__)


class Unreported(StrEnum):
    """Why an agent had a task and the API has no end from it."""

    LEASE_LOST = "lease_lost"
    REFUSED = "refused"


class HeldTask:
    """A task, from the pick until its end is reported or its lease is lost."""

    def __init__(self, task: PickedTask, *, api: TaskApi, work: Work, lease_seconds: float) -> None:
        """Make one for a task that was picked just now, on the running loop."""
        self._task = task
        self._api = api
        self._work = work
        self._lease_seconds = lease_seconds
        self._output: OutputSnapshot | None = None
        self._has_output = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # The API granted it before its answer came, so by then it has surely run out.
        self._runs_out_at = self._loop.time() + lease_seconds

    async def run(self, given_up: asyncio.Event) -> str:
        """Return how it ended, once the API knows: an outcome's name, or why the API has none from us.

        Args:
            given_up: Set, it ends the work.
        """
        end = await self._end_of_work(given_up)
        if isinstance(end, Cancelled) and self._output is not None:
            # Its last words: it will not be done again.
            end = Cancelled(self._output.model_dump(mode="json", include={"stdout", "stderr"}))
        return Unreported.LEASE_LOST if end is None else await self._report(end)

    async def _end_of_work(self, given_up: asyncio.Event) -> End | None:
        """Return what the work came to; None when the lease was lost."""
        work = asyncio.create_task(self._work(self._task, self._show))
        lease = asyncio.create_task(self._keep_lease())
        stopping = asyncio.create_task(given_up.wait())
        try:
            await asyncio.wait((work, lease, stopping), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            return lease.result() if lease.done() else _STOPPED
        finally:
            for part in (work, lease, stopping):
                part.cancel()
            # The work is over before anybody hears so.
            await asyncio.gather(work, lease, stopping, return_exceptions=True)

    def _show(self, output: OutputSnapshot) -> None:
        self._output = output
        self._has_output.set()

    def _show_again(self, output: OutputSnapshot | None) -> None:
        if self._output is None:
            self._output = output

    async def _keep_lease(self) -> Cancelled | None:
        """Extend the lease until somebody cancels the task, or, with None, until it is lost."""
        failures = 0
        while self._is_held:
            await self._until_due(failures)
            self._has_output.clear()
            shown, self._output = self._output, None
            asked_at = self._loop.time()
            try:
                async with asyncio.timeout_at(self._runs_out_at):
                    extension = await self._api.extend(
                        self._task, lease_seconds=self._lease_seconds, output=shown
                    )
            except LeaseLost as error:
                self._warn("lease_lost", error)
                return None
            except (ApiUnavailable, RequestRefused, TimeoutError) as error:
                failures += 1
                self._warn("lease_not_extended", error)
                # What was refused may be the output, and the lease is worth more.
                if not isinstance(error, RequestRefused):
                    self._show_again(shown)
                continue
            failures = 0
            # It was extended at some time between, and for the API it runs from then.
            self._runs_out_at = asked_at + self._lease_seconds
            if extension.cancel_requested:
                return Cancelled()
        return None

    async def _until_due(self, failures: int) -> None:
        """Wait a third of a lease, or less when the work writes; after failures, for the back-off."""
        if failures:
            await self._back_off(failures)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lease_seconds / _EXTENSIONS_A_LEASE):
                await self._has_output.wait()

    async def _report(self, end: End) -> str:
        """Say how it ended until the API has it, or until the lease has run out."""
        failures = 0
        while self._is_held:
            try:
                async with asyncio.timeout_at(self._runs_out_at):
                    await self._api.report(self._task, end)
                return str(outcome_name(end))
            except LeaseLost as error:
                self._warn("lease_lost", error)
                return Unreported.LEASE_LOST
            except RequestRefused as error:
                self._warn("end_refused", error)
                if isinstance(end, Failed) and end.reason == RESULT_REFUSED:
                    return Unreported.REFUSED
                end = Failed(RESULT_REFUSED, f"The agent's report was refused: {error}", transient=False)
            except (ApiUnavailable, TimeoutError) as error:
                failures += 1
                self._warn("end_not_reported", error)
                await self._back_off(failures)
        return Unreported.LEASE_LOST

    @property
    def _is_held(self) -> bool:
        return self._loop.time() < self._runs_out_at

    async def _back_off(self, failures: int) -> None:
        wait = wait_seconds(_AGAIN, failures, retry_after_seconds=None, random=random.random)
        await asyncio.sleep(min(wait, max(0.0, self._runs_out_at - self._loop.time())))

    def _warn(self, event: str, error: Exception) -> None:
        facts = {"task_id": str(self._task.id), "attempt": self._task.attempt}
        logger.warning(event, extra={**facts, "error": str(error) or "no answer in time"})
