"""The queue watch: keeps the topology declared, and what the queues hold known. Only the leader looks.

The API never asks the broker: it explains from the store why a job waits. The lost-job reconciler takes a job
for lost only where queues have been quiet, or have delivered what came later.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from producer.ledger.watermarks import Watermarks
from producer.pausing import QueueObservation
from producer.store import queues as stored_queues
from producer.store.database import RetryingStore
from shared.broker.queue_depths import Look, keep_looking
from shared.broker.topology import QueueDepth, lane_queues, queues, work_queue
from shared.clock import utc_now
from shared.kinds.registry import BROKERED_KINDS, Lane
from shared.settings import Settings

# Workers of a queue that was deleted wait for it. A look is some hundred requests, each answered from memory.
_LOOK_SECONDS = 5.0
# A job is lost after so many looks at least.
_LOOKS = 8
# After a longer gap between two looks nobody knows what passed through meanwhile: store or broker were away.
LONGEST_GAP_SECONDS = 30.0
# After a larger step of the wall clock, times from before it and after it cannot be compared.
_CLOCK_STEP_SECONDS = 1.0

_LANES = {name: (kind, lane) for kind in BROKERED_KINDS for lane in Lane for name in lane_queues(kind, lane)}
# Streams tell workers what they must not do; they are not consumed, and no job waits in one.
_JOB_QUEUES = [spec.name for spec in queues(BROKERED_KINDS) if spec.type == "quorum"]


class QueueWatch:
    """Looks at every queue, every few seconds."""

    def __init__(
        self,
        *,
        store: RetryingStore,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Make a watch that has seen nothing yet; its `clock` only goes forward."""
        self.quiet = QuietQueues(settings.lost_after_seconds)
        self.watermarks = Watermarks()
        self.depths: Mapping[str, QueueDepth] = {}
        """What the last look saw, by queue."""
        self._store = store
        self._amqp_url = settings.amqp_url
        self.pause_seconds = min(_LOOK_SECONDS, settings.lost_after_seconds / _LOOKS)
        """How long it rests between two looks."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._looked_at: float | None = None
        self._clock_offset: float | None = None
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Look until cancelled. While the broker is away nothing is written."""
        await keep_looking(
            self._amqp_url, name="retriever ledger watch", kinds=BROKERED_KINDS, use=self._watch
        )

    async def next_look(self) -> None:
        """Return right after the next look, or when that has not come after `LONGEST_GAP_SECONDS`.

        Raises:
            TimeoutError: it has not come.
        """
        self._looked.clear()
        async with asyncio.timeout(LONGEST_GAP_SECONDS):
            await self._looked.wait()

    def note(self, depths: Iterable[QueueDepth], *, began_at: datetime | None = None) -> None:
        """Note a look that began at a time; None stands for just now."""
        self.depths, now = {depth.name: depth for depth in depths}, self._clock()
        # A queue that is missing is empty.
        ready = {name: self.depths[name].ready if name in self.depths else 0 for name in _JOB_QUEUES}
        self.quiet.note(ready, now=now)
        self._note_order(began_at or self._wall_clock(), now)
        self._looked.set()

    def are_drained(self, names: Iterable[str]) -> bool:
        """Return whether the last look saw all of these queues empty, and consumers at each.

        Without consumers, what dead ones had in hand may come back; and a queue whose leader does not answer
        seems to be empty.
        """
        seen = [self.depths.get(name) for name in names]
        return all(depth is not None and depth.consumers and not depth.ready for depth in seen)

    def forget(self) -> None:
        """Begin anew: what was seen before says nothing any more."""
        self.quiet.forget()
        self.watermarks.forget()
        self._looked_at = None

    def _note_order(self, began_at: datetime, now: float) -> None:
        offset = self._wall_clock().timestamp() - now
        stepped = self._clock_offset is not None and abs(offset - self._clock_offset) > _CLOCK_STEP_SECONDS
        if stepped or (self._looked_at is not None and now - self._looked_at > LONGEST_GAP_SECONDS):
            self.watermarks.forget()
        self._looked_at, self._clock_offset = now, offset
        for name, depth in self.depths.items():
            if not depth.consumers:
                # Nobody takes anything, and what dead workers had in hand is back. A queue whose leader does
                # not answer says the same: no messages, and no consumers.
                self.watermarks.forget([name])
            elif not depth.ready:
                self.watermarks.note(name, began_at, now=now)

    async def _watch(self, look: Look) -> None:
        # What was seen on a connection that is lost says nothing any more.
        self.forget()
        try:
            while True:
                began_at = self._wall_clock()
                depths = await look()
                self.note(depths, began_at=began_at)
                await self._store.write(stored_queues.record_queues, lanes_seen(depths))
                await asyncio.sleep(self.pause_seconds)
        finally:
            self.forget()


def lanes_seen(depths: Iterable[QueueDepth]) -> list[QueueObservation]:
    """Return what is seen of each lane, all its queues together; a lane that lacks a queue is left out."""
    now, by_lane = utc_now(), defaultdict[tuple[str, Lane], list[QueueDepth]](list)
    for depth in depths:
        if depth.name in _LANES:
            by_lane[_LANES[depth.name]].append(depth)
    return [
        QueueObservation(
            work_queue(kind, lane),
            kind,
            lane,
            ready=sum(depth.ready for depth in found),
            # A worker that takes from one queue alone is of an older version, which cannot do all the work.
            consumers=min(depth.consumers for depth in found),
            observed_at=now,
        )
        for (kind, lane), found in by_lane.items()
        if len(found) == len(lane_queues(kind, lane))
    ]


class QuietQueues:
    """Since when each queue has been seen empty, by a monotonic clock. Pure."""

    def __init__(self, quiet_after_seconds: float) -> None:
        """Have seen nothing; a queue is quiet when it was empty at two looks at least so far apart."""
        self._quiet_after_seconds = quiet_after_seconds
        self._empty_since: dict[str, float] = {}
        self._looked_at: float | None = None

    def forget(self) -> None:
        """Begin anew: what was seen before says nothing any more."""
        self._empty_since.clear()
        self._looked_at = None

    def note(self, ready: Mapping[str, int], *, now: float) -> None:
        """Note a look: how many messages of each queue are ready, at a time of the monotonic clock."""
        if self._looked_at is not None and now - self._looked_at > LONGEST_GAP_SECONDS:
            self.forget()
        self._looked_at = now
        for name, messages in ready.items():
            if messages:
                self._empty_since.pop(name, None)
            else:
                self._empty_since.setdefault(name, now)

    def are_quiet(self, names: Iterable[str]) -> bool:
        """Return whether all of these queues have been empty long enough, as of the last look."""
        return all(self._is_quiet(name) for name in names)

    def _is_quiet(self, name: str) -> bool:
        since = self._empty_since.get(name)
        if since is None or self._looked_at is None:
            return False
        return self._looked_at - since >= self._quiet_after_seconds
