"""Paged fetches: which page a job is, which jobs follow it, and how complete the pages are. Pure.

The totals that pages say are held against the items that came.
"""

import base64
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from producer.records import BatchRecord, JobRecord, NewBatch, NewJob
from shared.identity import derived_id
from shared.kinds.fetch import FetchArgs
from shared.kinds.pages import PagePlace, PageReport, PageTask, StopReason
from shared.kinds.registry import Lane
from shared.origins import Barrier, arguments_for, is_same_origin
from shared.states import JobState
from shared.urls import normalize_url, url_host

_KEY_OCTETS = 8
# A set of so many keys is small beside the array of all.
_SHARE_KEYS = 200_000


@dataclass(frozen=True, slots=True)
class Page:
    """Which page a stored job is: 0 is that of the root job itself."""

    root_id: UUID
    index: int
    max_pages: int

    @property
    def batch_id(self) -> UUID:
        """The batch of all pages after the first, whether there is one or not."""
        return pages_batch_id(self.root_id)


def pages_batch_id(root_id: UUID) -> UUID:
    """Return the id of the batch that holds the pages of a root job."""
    return derived_id(root_id, 0)


def page_of(job: JobRecord) -> Page | None:
    """Return which page a job is, or None when it is none.

    Arguments alone prove nothing: a page's job has the id that belongs to its root and its index.
    """
    try:
        args = FetchArgs.model_validate(job.args) if job.kind == "fetch" else None
    except ValidationError:
        return None
    if args is None or args.pages is None:
        return None
    if args.page is None:
        return Page(job.id, 0, args.pages.max_pages)
    task = args.page
    is_genuine = job.id == derived_id(task.root, task.index) and job.batch_id == pages_batch_id(task.root)
    return Page(task.root, task.index, args.pages.max_pages) if is_genuine else None


def pages_batch(job: JobRecord, page: Page, *, now: datetime) -> NewBatch:
    """Return the batch for the pages of a root, with the labels of the job that leads to them."""
    return NewBatch(page.batch_id, job.kind, now, job.labels, job.schedule_id, project=job.project)


def following_jobs(job: JobRecord, page: Page, following: PagePlace, *, now: datetime) -> Iterator[NewJob]:
    """Return the jobs of the pages that follow one, in order; a place beyond the limits has none.

    They take ref, labels, retry policy and arguments of the job, and no deadline: what was to begin has
    begun.
    """
    arguments = _arguments(job, following)
    first, last = following.index, following.last if following.last is not None else following.index
    # A page leads on only: a report cannot make pages again that are before it.
    if isinstance(arguments, StopReason) or first <= page.index:
        return
    args, host = arguments
    for index in range(first, min(last, page.max_pages - 1) + 1):
        place = following.model_dump(exclude={"url", "is_foreign"})
        task = PageTask(root=page.root_id, **{**place, "index": index})
        yield NewJob(
            id=derived_id(page.root_id, index),
            kind=job.kind,
            lane=Lane.BULK,
            args={**args, "page": task.model_dump(mode="json", exclude_defaults=True)},
            retry=job.retry,
            host=host,
            created_at=now,
            labels=job.labels,
            batch_id=page.batch_id,
            schedule_id=job.schedule_id,
            ref=job.ref,
            project=job.project,
        )


def stopped_by(job: JobRecord, said: PageReport) -> StopReason | None:
    """Return why no page follows one: what its worker says, or what keeps the next from being requested."""
    if said.following is None or said.stopped_by is not None:
        return said.stopped_by
    arguments = _arguments(job, said.following)
    return arguments if isinstance(arguments, StopReason) else None


@dataclass(frozen=True, slots=True)
class PageRecord:
    """What the store keeps of a page that was fetched."""

    index: int
    items: int
    total: int | None
    stopped_by: StopReason | None
    keys: bytes | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Completeness:
    """What the pages of a fetch come to, held against the totals that they said.

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


def measure_pages(pages: Iterable[PageRecord]) -> Completeness:
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
    return Completeness(
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
    """A paged fetch as the store has it: its root job, the batch of its other pages, how complete it is."""

    root: JobRecord
    batch: BatchRecord | None
    completeness: Completeness

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
        seen = self.completeness
        is_whole = not self.is_cut and (seen.stopped_by is None or seen.stopped_by.is_an_end)
        return seen.done == self.planned and is_whole and not seen.missing and (seen.drift or 0) >= 0

    @property
    def is_cut(self) -> bool:
        """Whether the pages were cancelled before one of them was the last: each leads to the next."""
        seen = self.completeness
        was_cancelled = self.batch is not None and self.batch.cancelled_at is not None
        return was_cancelled and seen.stopped_by is None and seen.last_total is None


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


def _arguments(job: JobRecord, following: PagePlace) -> tuple[dict[str, Any], str] | StopReason:
    """Return the arguments and the host of the page that follows, but for its place; or why there is none."""
    if following.url is None:
        return dict(job.args), job.host
    try:
        url = normalize_url(following.url)
    except ValueError:
        return StopReason.INVALID_NEXT
    is_elsewhere = following.is_foreign or not is_same_origin(url, job.args["url"])
    if is_elsewhere and not job.args["pages"].get("other_origins"):
        return StopReason.OTHER_ORIGIN
    args = arguments_for(job.args, url, is_foreign=following.is_foreign)
    return StopReason.OTHER_ORIGIN if isinstance(args, Barrier) else (args, url_host(url))


def _added(keys: "array[int]", more: bytes) -> "array[int]":
    keys.frombytes(more)
    return keys


def _count_distinct(keys: "array[int]") -> int:
    # A share at a time, so that the set stays small beside the array.
    shares = 1 + len(keys) // _SHARE_KEYS
    return sum(len({key for key in keys if key % shares == share}) for share in range(shares))
