"""Whose turn it is among the batches of the bulk lane, and how many jobs of each are released. Pure.

A **flow** is what shares the lane with others: a batch, or all single jobs of a kind. Each page gives most of
its room to the flow that was served least, and some to every other. So a small batch passes a large one soon
after it was handed in, and no batch stands still because small ones keep coming.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

FAVOUR: Final = 3 / 4
"""The share of a page that goes to the flow that was served least."""

LOOK_AGAIN: Final = timedelta(seconds=0.2)
"""A batch that was handed in since is found after so long, where somebody has told of it."""

_LOOK_ANYWAY = timedelta(seconds=1)

_MOST_REMEMBERED = 10_000


class Flow(NamedTuple):
    """A batch; or, without one, the single jobs of a kind."""

    kind: str
    batch_id: UUID | None


class Flows:
    """The flows that one ledger serves, and how much it has served each.

    Attributes:
        is_page_full: Whether the last page had as much as one may have, so that more may follow.
    """

    def __init__(self) -> None:
        """Know none yet."""
        self.is_page_full = False
        self._served: dict[Flow, float] = {}
        self._ready: set[Flow] = set()
        self._looked_at: datetime | None = None
        self._has_news = False

    def look_again(self) -> None:
        """Note that there may be others: jobs were stored."""
        self._has_news = True

    def is_old(self, now: datetime) -> bool:
        """Return whether it is time to look which flows there are."""
        looked_at, kept = self._looked_at, LOOK_AGAIN if self._has_news else _LOOK_ANYWAY
        return not self._ready or looked_at is None or not timedelta(0) <= now - looked_at < kept

    def found(self, ready: Iterable[Flow], now: datetime) -> None:
        """Note the flows that have jobs now."""
        self._ready, self._looked_at, self._has_news = set(ready), now, False
        for flow in self._ready:
            served = self._served.pop(flow, 0.0)
            # Single jobs never end: what they had some time ago does not count.
            self._served[flow] = served / 2 if flow.batch_id is None else served
        while len(self._served) > _MOST_REMEMBERED:
            del self._served[next(iter(self._served))]

    @property
    def ready_kinds(self) -> set[str]:
        """The kinds that had more jobs than were taken of them."""
        return {flow.kind for flow in self._ready}

    def waits_for_room(self, rooms: Mapping[str, int]) -> bool:
        """Return whether there are jobs, and none of their kinds has room."""
        return bool(self._ready) and not any(rooms.get(flow.kind, 1) for flow in self._ready)

    def shares(self, room: int, most_of: Mapping[str, int]) -> list[tuple[Flow, int]]:
        """Return how many jobs to take of which flow, the one that was served least first.

        Args:
            room: How many to take at most.
            most_of: How many to take of a kind at most, of those that are bounded.
        """
        left, taken = room, list[tuple[Flow, int]]()
        for kind in sorted({flow.kind for flow in self._ready}):
            of_kind = sorted(
                (flow for flow in self._ready if flow.kind == kind),
                key=lambda flow: (self._served.get(flow, 0.0), str(flow.batch_id)),
            )
            shares = _divided(of_kind, min(left, most_of.get(kind, left)))
            left -= sum(share for _, share in shares)
            taken += shares
        return taken

    def took(self, flow: Flow, jobs: int, *, share: int) -> None:
        """Note how many jobs of its share a flow had."""
        self._served[flow] = self._served.get(flow, 0.0) + jobs
        if jobs < share:
            self._ready.discard(flow)


def _divided(flows: Sequence[Flow], room: int) -> list[tuple[Flow, int]]:
    if room <= 0 or not flows:
        return []
    if len(flows) == 1:
        return [(flows[0], room)]
    others = flows[1:room]
    each = max(int(room * (1 - FAVOUR)) // max(len(others), 1), 1)
    return [(flows[0], max(room - each * len(others), 1)), *((flow, each) for flow in others)]
