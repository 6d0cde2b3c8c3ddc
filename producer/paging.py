"""Paged fetches: which page a job is, and the jobs of the pages that follow it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from producer.records import JobRecord, NewBatch, NewJob
from shared.identity import derived_id
from shared.kinds.fetch import FetchArgs
from shared.kinds.pages import PagePlace, PageTask
from shared.kinds.registry import Lane
from shared.kinds.requests import normalize_url, url_host, url_origin

# What belongs to the first origin; a next URL elsewhere gets none of it.
_OWN_ARGS = ("headers", "auth", "body")


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

    Nobody's word is taken for it: the job of a page has the id that belongs to its root and its index.
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
    return NewBatch(page.batch_id, job.kind, now, job.labels, job.schedule_id)


def following_jobs(job: JobRecord, page: Page, following: PagePlace, *, now: datetime) -> Iterator[NewJob]:
    """Return the jobs of the pages that follow one, in order; a place beyond the limits has none.

    They take labels, retry policy and arguments of the job, and no deadline: what was to begin has begun.
    """
    args, host = _arguments(job, following)
    first, last = following.index, following.last if following.last is not None else following.index
    # A page leads on only: a report cannot make pages again that are before it.
    if args is None or first <= page.index:
        return
    for index in range(first, min(last, page.max_pages - 1) + 1):
        task = PageTask(root=page.root_id, **{**following.model_dump(exclude={"url"}), "index": index})
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
        )


def _arguments(job: JobRecord, following: PagePlace) -> tuple[dict[str, Any] | None, str]:
    args = dict(job.args)
    if following.url is None:
        return args, job.host
    try:
        url = normalize_url(following.url)
    except ValueError:
        return None, ""
    if url_origin(url) != url_origin(args["url"]):
        for name in _OWN_ARGS:
            args.pop(name, None)
    return {**args, "url": url}, url_host(url)
