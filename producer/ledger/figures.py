"""The figure keeper: counts for the dashboard what there is, and adds up what has ended. The leader runs it.

A page would have to count anew for each of its readers. Here it is done once, and takes a twentieth of one
connection's time at most: after a count of a second it rests for twenty.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from producer.figures import MOST_GROUPS, REST_FACTOR, DelayDepth
from producer.store import figures, parking
from producer.store.database import RetryingStore
from shared.broker.topology import QueueDepth, delay_queue
from shared.clock import utc_now
from shared.retry import DELAY_STEPS_SECONDS

# At least; so much is what a reader may see late.
_COUNT_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
# Where nothing has changed, it is noted so often that this is so.
_NOTE_SECONDS = 10.0
_FORGET_SECONDS = 3_600.0
_STEPS = {delay_queue(step): step for step in DELAY_STEPS_SECONDS}

logger = logging.getLogger(__name__)


class FigureKeeper:
    """Keeps the figures of the dashboard up to date."""

    def __init__(self, *, store: RetryingStore, depths: Callable[[], Mapping[str, QueueDepth]]) -> None:
        """Make a keeper that has counted nothing yet.

        Args:
            depths: What the last look at the queues of the broker saw, by queue.
        """
        self._store = store
        self._depths = depths
        self._written: object = None
        self._written_at = float("-inf")

    async def run(self) -> None:
        """Count until cancelled, less often where it takes long."""
        forgotten_at = float("-inf")
        while True:
            began = time.monotonic()
            await self.fold()
            await self.count()
            if began - forgotten_at > _FORGET_SECONDS:
                await self._store.write(figures.forget_old, now=utc_now())
                forgotten_at = began
            await asyncio.sleep(max(_COUNT_SECONDS, (time.monotonic() - began) * REST_FACTOR))

    async def fold(self) -> None:
        """Add all that has ended since the last time to its minutes and hours."""
        more = await self._store.read(figures.has_new_ends)
        while more:
            more = await self._store.write(figures.fold_ends, now=utc_now())
            await asyncio.sleep(_PAUSE_SECONDS)

    async def count(self) -> None:
        """Count once what there is."""
        began = time.monotonic()
        found = await self._store.read(figures.count_jobs)
        parked = await self._store.read(parking.count_parked)
        groups = await self._store.read(parking.count_groups, limit=MOST_GROUPS) if parked else []
        seconds = time.monotonic() - began
        depths = self._depths()
        delays = [DelayDepth(_STEPS[name], depths[name].ready) for name in depths.keys() & _STEPS.keys()]
        counted = (found, groups, parked, sorted(delays, key=lambda each: each.step_seconds))
        if counted != self._written or began - self._written_at > _NOTE_SECONDS:
            await self._store.write(
                figures.write_counts,
                found,
                groups,
                parked=parked,
                delays=delays,
                seconds=seconds,
                now=utc_now(),
            )
            self._written, self._written_at = counted, began
