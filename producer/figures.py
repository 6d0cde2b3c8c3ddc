"""Figures of what there is and of what was: plain values that a ledger writes and the dashboard reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from producer.parking import GroupKey
from producer.pausing import Pause, QueueObservation
from shared.states import JobState

MOST_COUNTED: Final = 1_000_000
"""Of one state no more are counted, the oldest first; so many stand for as many or more."""

REST_FACTOR: Final = 20
"""A count rests for so many times as long as it took."""

MOST_GROUPS: Final = 1_000
"""So many groups of parked jobs are kept, the largest."""

BUCKET_SECONDS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400)
"""The upper bounds of how long jobs took, by which ends are counted; what took longer has one more bucket."""


@dataclass(frozen=True, slots=True)
class JobCount:
    """How many jobs of a project are in a state, of one kind and lane.

    Attributes:
        is_held: Whether a host holds them back.
        oldest_at: Since when the one is in this state that has been longest.
    """

    project: str
    state: JobState
    kind: str
    lane: str
    is_held: bool
    jobs: int
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class ParkedCount:
    """The parked jobs of a project of one kind, reason and host; the newest of them is a sample."""

    project: str
    key: GroupKey
    jobs: int
    first_parked_at: datetime
    last_parked_at: datetime
    newest: UUID


@dataclass(frozen=True, slots=True)
class DelayDepth:
    """How many messages wait in a step of the delay ladder."""

    step_seconds: int
    jobs: int


@dataclass(frozen=True, slots=True)
class HeldHost:
    """A host that holds jobs back now."""

    name: str
    waiting: int
    in_flight: int
    paused_until: datetime | None
    is_open: bool


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """A batch that has not ended."""

    id: UUID
    kind: str
    total: int
    ended: int
    parked: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """All that the overview shows but for what was: of one moment, for one project or for all.

    Attributes:
        counted_at: When a ledger has counted; None before the first time.
        count_seconds: How long that took.
        leads_until: Until when a ledger leads; None when none does.
        queues: Work queues as they were last seen; empty for callers of a project.
    """

    jobs: Sequence[JobCount] = ()
    counted_at: datetime | None = None
    count_seconds: float = 0.0
    groups: Sequence[ParkedCount] = ()
    delays: Sequence[DelayDepth] = ()
    queues: Sequence[QueueObservation] = ()
    pauses: Sequence[Pause] = ()
    hosts: Sequence[HeldHost] = ()
    batches: Sequence[RunningBatch] = ()
    operations: int = 0
    leads_until: datetime | None = None

    def total(self, state: JobState) -> int:
        """Return how many jobs are in a state."""
        return sum(each.jobs for each in self.jobs if each.state is state)

    def is_cut(self, state: JobState) -> bool:
        """Return whether there may be more than were counted."""
        return state is not JobState.PARKED and self.total(state) >= MOST_COUNTED


@dataclass(frozen=True, slots=True)
class Span:
    """What ended in one stretch of time: how many jobs by their state, and how long they took, by bucket."""

    began_at: datetime
    ended: Mapping[JobState, int] = field(default_factory=dict)
    buckets: Mapping[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many ended."""
        return sum(self.ended.values())

    def within_seconds(self, share: float) -> float | None:
        """Return in which time this share of them ended, from their submission; None when none did.

        It is the upper bound of a bucket, and of the last one what is below it.
        """
        left = share * sum(self.buckets.values())
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return BUCKET_SECONDS[min(bucket, len(BUCKET_SECONDS) - 1)]
        return None
