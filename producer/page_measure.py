"""What the pages of a paged fetch come to, held against the totals that they said. Pure."""

import base64
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from producer.records import BatchRecord, JobRecord
from shared.kinds.pages import StopReason
from shared.states import JobState

_KEY_OCTETS = 8
# A set of so many keys is small beside the array of all.
_SHARE_KEYS = 200_000


@dataclass(frozen=True, slots=True)
class PageRecord:
    """What is kept of a page that was fetched."""

    index: int
    items: int
    total: int | None
    stopped_by: StopReason | None
    keys: bytes | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Drift:
    """What a paged fetch came to, held against the totals that its pages said.

    Attributes:
        items: How many items all pages together have.
        distinct: How many different keys they have; None without `key`.
        missing: By how many there are fewer than the last total said; None without a total.
        duplicates: How many items had the key of another; None without `key`.
    """

    baseline_total: int | None = None
    last_total: int | None = None
    done: int = 0
    items: int = 0
    distinct: int | None = None
    duplicates: int | None = None
    missing: int | None = None
    stopped_by: StopReason | None = None

    @property
    def drift(self) -> int | None:
        """By how many the total grew while the pages were read."""
        if self.baseline_total is None or self.last_total is None:
            return None
        return self.last_total - self.baseline_total


def measure(pages: Iterable[PageRecord]) -> Drift:
    """Return what the pages come to. Holds eight octets a key while it reads."""
    done = items = 0
    keys: array[int] | None = array("Q")
    baseline: int | None = None
    last: PageRecord | None = None
    stops: list[StopReason] = []
    for page in pages:
        done, items = done + 1, items + page.items
        if page.index == 0:
            baseline = page.total
        if page.total is not None and (last is None or page.ended_at >= last.ended_at):
            last = page
        if page.stopped_by is not None:
            stops.append(page.stopped_by)
        keys = None if keys is None or (page.keys is None and page.items) else _added(keys, page.keys or b"")
    distinct = _count_distinct(keys) if keys is not None and done else None
    total = last.total if last else None
    return Drift(
        baseline_total=baseline,
        last_total=total,
        done=done,
        items=items,
        distinct=distinct,
        duplicates=None if distinct is None else items - distinct,
        missing=None if total is None else max(0, total - (items if distinct is None else distinct)),
        # What was cut short matters more than where the rest ended.
        stopped_by=next((stop for stop in stops if not stop.is_an_end), stops[-1] if stops else None),
    )


@dataclass(frozen=True, slots=True)
class PagesRecord:
    """A paged fetch as the store has it: its root job, the batch of its other pages, what they come to."""

    root: JobRecord
    batch: BatchRecord | None
    seen: Drift

    @property
    def planned(self) -> int:
        """How many pages are known of."""
        return 1 + (self.batch.total if self.batch else 0)

    def count(self, state: JobState) -> int:
        """Return how many pages are in a state."""
        return (self.batch.counts.get(state, 0) if self.batch else 0) + (self.root.state is state)

    @property
    def is_complete(self) -> bool:
        """Whether every page is there, and nothing speaks for a missing item."""
        seen = self.seen
        is_whole = seen.stopped_by is None or seen.stopped_by.is_an_end
        return seen.done == self.planned and is_whole and not seen.missing and (seen.drift or 0) >= 0


def decode_keys(text: str | None, items: int) -> bytes | None:
    """Return the digests of a page's keys, or None when they are not one for each item."""
    try:
        keys = base64.b64decode(text, validate=True) if text is not None else None
    except ValueError:
        return None
    return keys if keys is not None and len(keys) == items * _KEY_OCTETS else None


def split_keys(keys: bytes) -> list[bytes]:
    """Return the digest of each item's key."""
    return [keys[at : at + _KEY_OCTETS] for at in range(0, len(keys), _KEY_OCTETS)]


def _added(keys: "array[int]", more: bytes) -> "array[int]":
    keys.frombytes(more)
    return keys


def _count_distinct(keys: "array[int]") -> int:
    # A share at a time, so that the set stays small beside the array.
    shares = 1 + len(keys) // _SHARE_KEYS
    return sum(len({key for key in keys if key % shares == share}) for share in range(shares))
