"""What is paused, and how the queues looked last. Plain values and pure rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from producer.hosts import Hold
from shared.events import EVERY
from shared.kinds.registry import Lane

# A ledger looks every few seconds; an older observation means that none reaches the broker.
FRESH_SECONDS: Final = 30
# Waiting tasks are counted no further, so that an explanation costs the same however many there are.
MOST_COUNTED: Final = 1_000


@dataclass(frozen=True, slots=True)
class Pause:
    """No new attempt starts of a kind in a lane; either may be `*`, for all of them."""

    kind: str
    lane: str
    since: datetime
    by: str
    note: str | None = None

    def covers(self, kind: str, lane: str) -> bool:
        """Return whether it holds for a kind in a lane."""
        return self.kind in {kind, EVERY} and self.lane in {lane, EVERY}


@dataclass(frozen=True, slots=True)
class PauseList:
    """All that is paused, as of a revision that grows with every order to pause or resume."""

    revision: int
    items: Sequence[Pause]


@dataclass(frozen=True, slots=True)
class QueueObservation:
    """A work queue as it was last seen: how many messages are ready, and how many workers consume it.

    With the one beside it, if jobs of its lane may share messages: there one message carries several.
    """

    name: str
    kind: str
    lane: str
    ready: int
    consumers: int
    observed_at: datetime

    def is_fresh(self, now: datetime) -> bool:
        """Return whether it was seen lately."""
        return self.age_seconds(now) <= FRESH_SECONDS

    def age_seconds(self, now: datetime) -> float:
        """Return how long ago it was seen; not below 0, for clocks differ."""
        return max((now - self.observed_at).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class TaskQueueObservation:
    """A task queue: how many wait for agents, and which agent asked for them last, None for nobody lately.

    Attributes:
        waiting: As far as they were counted: `MOST_COUNTED` stands for that many or more.
    """

    waiting: int
    asked_at: datetime | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known around a job at a moment; `is_known` is false when nobody asked the store.

    Task queues are named as `producer.callers.scoped` does.
    """

    now: datetime
    queues: Mapping[tuple[str, str], QueueObservation] = field(default_factory=dict)
    pauses: Sequence[Pause] = ()
    task_queues: Mapping[str, TaskQueueObservation] = field(default_factory=dict)
    is_known: bool = True
    holds: Mapping[UUID, Hold] = field(default_factory=dict)

    def queue(self, kind: str, lane: str) -> QueueObservation | None:
        """Return the queue of a kind and lane as it was last seen."""
        return self.queues.get((kind, lane))

    def pause(self, kind: str, lane: str) -> Pause | None:
        """Return the oldest pause that covers a kind in a lane."""
        covering = (pause for pause in self.pauses if pause.covers(kind, lane))
        return min(covering, key=lambda pause: pause.since, default=None)

    @property
    def last_seen_at(self) -> datetime | None:
        """When any queue was last seen; None for never."""
        return max((queue.observed_at for queue in self.queues.values()), default=None)


def paused(pauses: Iterable[Pause], new: Pause) -> list[Pause]:
    """Return what is paused after an order to pause; the same if it was ordered before."""
    kept = list(pauses)
    if any((pause.kind, pause.lane) in {(new.kind, new.lane), (new.kind, EVERY)} for pause in kept):
        return kept
    return [*kept, new]


def resumed(pauses: Iterable[Pause], kind: str, lane: str) -> list[Pause]:
    """Return what is paused after an order to resume a kind in a lane, either of them `*` for all.

    It takes back orders to pause that kind; an order for a lane over all kinds is another one. When a kind
    that was paused in every lane goes on in one, its other lanes stay paused.
    """
    kept = {(pause.kind, pause.lane): pause for pause in pauses}
    whole = kept.get((kind, EVERY))
    if lane == EVERY:
        return [pause for pause in kept.values() if pause.kind != kind]
    kept.pop((kind, lane), None)
    if whole is not None:
        del kept[kind, EVERY]
        for other in Lane:
            if other != lane:
                kept.setdefault((kind, other.value), replace(whole, lane=other.value))
    return list(kept.values())
