"""The window of released jobs: how many of the bulk lane may wait in the broker; the rest waits in the store.

What waits in a queue can be passed no more by a batch that is handed in later, and costs the broker memory.
So a queue has work for a moment, as fast as its workers are at the time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from producer.records import ClaimedJob
from shared.broker.queue_depths import keep_counting
from shared.broker.topology import bundle_queue, lane_queues, work_queue
from shared.kinds.registry import BROKERED_KINDS, Lane
from shared.settings import Settings

AHEAD_SECONDS = 0.5
"""For so long a queue has work."""

FEWEST_JOBS = 400
"""So many may wait however slow the workers are; a start from nothing takes no longer than a few looks."""

_LOOK_SECONDS = 0.1
# Nobody looks: the broker is away, or refuses to tell. Then its queues are filled as if there were no window.
_BLIND_SECONDS = 5.0
_WEIGHT_OF_LATEST = 0.3


@dataclass(slots=True)
class LaneWindow:
    """The window of one kind's bulk lane, in jobs. Pure.

    Attributes:
        most_jobs: The window is never larger.
        size: What it is now.
        waiting: How many jobs waited at the last look, and were published since, as far as can be told.
        has_more: Whether the store has had more jobs than it let through, since the last look.
    """

    most_jobs: int
    size: float = FEWEST_JOBS
    waiting: float = 0.0
    jobs_a_second: float = 0.0
    published: int = 0
    has_more: bool = False

    @property
    def room(self) -> int:
        """How many jobs to release; none until half of the window is free, because pages have their price."""
        free = self.size - self.waiting
        return max(int(free), 1) if free >= self.size / 2 else 0

    def released(self, jobs: int) -> None:
        """Note jobs that are published."""
        self.waiting += jobs
        self.published += jobs

    def seen(self, waiting: float, seconds: float) -> None:
        """Note how many jobs wait, so many seconds after the last look."""
        ended = max(self.waiting - waiting, 0.0)
        rate = ended / max(seconds, 1e-3)
        self.jobs_a_second += _WEIGHT_OF_LATEST * (rate - self.jobs_a_second)
        if waiting < self.size / 8 and self.has_more:
            # They were faster than this window lets them.
            self.size *= 2
        else:
            self.size = max(self.jobs_a_second * AHEAD_SECONDS, self.size * (1 - _WEIGHT_OF_LATEST / 4))
        self.size = min(max(self.size, FEWEST_JOBS), self.most_jobs)
        self.waiting, self.published, self.has_more = waiting, 0, False


class ReleaseWindow:
    """Looks at the queues of the bulk lane, and says how many jobs of each kind may be released."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Make one that has seen nothing yet."""
        self._amqp_url = settings.amqp_url
        self._most_jobs = settings.released_jobs
        self._clock = clock
        self._lanes = {kind: LaneWindow(max(self._most_jobs, 1)) for kind in BROKERED_KINDS}
        self._jobs_a_bundle = dict.fromkeys(BROKERED_KINDS, float(settings.bundle_jobs))
        self._looked_at = -_BLIND_SECONDS
        self._wanted: set[str] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        if not self._most_jobs:
            # Nothing is bounded, so nobody need know.
            await asyncio.Event().wait()
        await keep_counting(
            self._amqp_url,
            name="retriever ledger window",
            wanted=self._names,
            tell=self._tell,
            every_seconds=_LOOK_SECONDS,
        )

    @property
    def rooms(self) -> Mapping[str, int]:
        """How many jobs of the bulk lane of each kind may be released; kinds without a bound are missing."""
        if not self._most_jobs or self._clock() - self._looked_at > _BLIND_SECONDS:
            return {}
        return {kind: lane.room for kind, lane in self._lanes.items()}

    def note(self, jobs: Iterable[ClaimedJob], *, more: Iterable[str]) -> None:
        """Note jobs that are to be published, and the kinds of which the store has more."""
        of_bulk = Counter(job.kind for job in jobs if job.lane is Lane.BULK)
        for kind in of_bulk.keys() & self._lanes.keys():
            self._lanes[kind].released(of_bulk[kind])
            self._wanted.add(kind)
        for kind in more:
            if kind in self._lanes:
                self._lanes[kind].has_more = True

    def note_messages(self, messages: Iterable[Sequence[ClaimedJob]]) -> None:
        """Note how many jobs share a message."""
        for carried in messages:
            if len(carried) > 1 and (kind := carried[0].kind) in self._lanes:
                mean = self._jobs_a_bundle[kind]
                self._jobs_a_bundle[kind] = mean + (len(carried) - mean) / 50

    def _names(self) -> list[str]:
        # A queue to which nothing was published since it was seen empty is not looked at.
        return [name for kind in sorted(self._wanted) for name in lane_queues(kind, Lane.BULK)]

    def _tell(self, depths: Mapping[str, int]) -> None:
        now = self._clock()
        for kind in sorted(self._wanted):
            bundles = depths.get(bundle_queue(kind), 0)
            waiting = depths.get(work_queue(kind, Lane.BULK), 0) + bundles * self._jobs_a_bundle[kind]
            lane = self._lanes[kind]
            if not waiting and not lane.published:
                self._wanted.discard(kind)
            lane.seen(waiting, now - self._looked_at)
        self._looked_at = now
