"""Rounds of work: a worker that takes jobs until its queues are empty, once or at a cadence."""

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Protocol

from shared.errors import DrainGivenUp, DrainStopped
from shared.health import Probe, Reason

# How long a single round waits for the broker, to begin or to go on: who started it waits for its end.
_PATIENCE_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Consuming(Protocol):
    """What takes jobs in rounds: a worker."""

    @property
    def probes(self) -> Mapping[str, Probe]:
        """The conditions under which it works, by name."""

    async def has_nothing_to_do(self) -> bool:
        """Return whether its queues are empty, as the broker says, and nothing is in hand."""

    def rest(self) -> None:
        """Take no more until `resume`."""

    def resume(self) -> None:
        """Take jobs again."""


class Rounds:
    """Lets a worker take jobs until its queues are empty: once, or again each so many seconds."""

    def __init__(self, *, every_seconds: float | None, reason: Reason = lambda: None) -> None:
        """Make the rounds of one worker.

        Args:
            every_seconds: From the start of a round to that of the next; None for a single round.
            reason: Why the broker cannot be used, if somebody knows.
        """
        self._every_seconds = every_seconds
        self._reason = reason
        self._given_up: str | None = None
        self._is_emptied = False

    async def run(self, worker: Consuming, stop: asyncio.Event) -> None:
        """Return after a single round, or when `stop` is set; or when a single round cannot use the broker.

        Between two rounds the worker rests. A round that takes longer than the cadence skips what it missed.
        """
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while True:
            await self._empty(worker, stop)
            if self._every_seconds is None or stop.is_set():
                return
            worker.rest()
            rest_seconds = seconds_to_next(loop.time() - began_at, every_seconds=self._every_seconds)
            logger.info("round_ended", extra={"rest_seconds": round(rest_seconds, 3)})
            await _wait(stop, rest_seconds)
            if stop.is_set():
                return
            logger.info("round_began")
            worker.resume()

    def check(self) -> None:
        """Return if all went as was asked for.

        Raises:
            DrainGivenUp: the single round could not use the broker for too long.
            DrainStopped: it was stopped before the queues were empty.
        """
        if self._every_seconds is not None or self._is_emptied:
            return
        if self._given_up is not None:
            raise DrainGivenUp(self._given_up)
        raise DrainStopped("told to stop before the queues were empty")

    async def _empty(self, worker: Consuming, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        well_at = loop.time()
        while not stop.is_set():
            if await worker.has_nothing_to_do():
                self._is_emptied = True
                return
            failing = [name for name, probe in worker.probes.items() if not probe()]
            if not failing:
                well_at = loop.time()
            elif self._every_seconds is None and loop.time() - well_at >= _PATIENCE_SECONDS:
                self._given_up = self._words(failing)
                return
            await _wait(stop, _LOOK_AGAIN_SECONDS)

    def _words(self, failing: list[str]) -> str:
        why = self._reason() or "Something does not answer."
        return (
            f"the broker could not be used for {_PATIENCE_SECONDS:g} s, and the queues may not be empty. "
            f"{why} What fails: {', '.join(failing)}."
        )


def seconds_to_next(passed_seconds: float, *, every_seconds: float) -> float:
    """Return how long to wait for the next round, as far apart from the first as a whole number of cadences.

    So rounds do not drift, and those that a long one has missed are left out.

    Args:
        passed_seconds: Since the first round began.
    """
    return (math.floor(passed_seconds / every_seconds) + 1) * every_seconds - passed_seconds


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
