"""The document of a paged fetch, and its sentence for a person."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from producer.page_measure import PagesRecord
from shared.kinds.pages import StopReason
from shared.states import JobState


class PageCounts(BaseModel):
    """The pages of a paged fetch by what became of them."""

    model_config = ConfigDict(frozen=True)

    planned: Annotated[int, Field(description="How many are known of; more when each leads to the next.")]
    done: int
    parked: int
    cancelled: int
    open: Annotated[int, Field(description="Still to be done.")]


class PagedFetch(BaseModel):
    """All pages of a fetch, held against the totals that they said."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    state: Annotated[JobState, Field(description="Of the first page, the job that was submitted.")]
    batch_id: Annotated[UUID | None, Field(description="Of the jobs of the other pages, when there are any.")]
    pages: PageCounts
    items: Annotated[int, Field(description="How many items the pages have together.")]
    distinct: Annotated[int | None, Field(description="How many different keys; null without `key`.")]
    duplicates: Annotated[int | None, Field(description="Items with the key of another; null without `key`.")]
    missing: Annotated[
        int | None, Field(description="By how many they are fewer than the last total; null without one.")
    ]
    baseline_total: Annotated[int | None, Field(description="The total that the first page said.")]
    last_total: Annotated[int | None, Field(description="The total that the latest page said.")]
    drift: Annotated[int | None, Field(description="By how many the total grew meanwhile.")]
    stopped_by: Annotated[StopReason | None, Field(description="Why no further page was asked for.")]
    complete: Annotated[bool, Field(description="Every page is done, and nothing speaks for a missing item.")]
    explanation: Annotated[str, Field(description="The same for a person.")]


def paged_fetch(record: PagesRecord) -> PagedFetch:
    """Return the document of a paged fetch."""
    seen = record.seen
    parked, cancelled = record.count(JobState.PARKED), record.count(JobState.CANCELLED)
    counts = PageCounts(
        planned=record.planned,
        done=seen.done,
        parked=parked,
        cancelled=cancelled,
        open=max(0, record.planned - seen.done - parked - cancelled),
    )
    return PagedFetch(
        job_id=record.root.id,
        state=record.root.state,
        batch_id=record.batch.id if record.batch else None,
        pages=counts,
        items=seen.items,
        distinct=seen.distinct,
        duplicates=seen.duplicates,
        missing=seen.missing,
        baseline_total=seen.baseline_total,
        last_total=seen.last_total,
        drift=seen.drift,
        stopped_by=seen.stopped_by,
        complete=record.is_complete,
        explanation=" ".join(_sentences(record, counts)),
    )


def _sentences(record: PagesRecord, counts: PageCounts) -> list[str]:
    seen = record.seen
    said = [f"{counts.done:,} of {counts.planned:,} pages are done, with {seen.items:,} items."]
    if counts.parked:
        said.append(f"{counts.parked:,} are parked: redrive them to go on.")
    if seen.drift:
        said.append(
            f"The total went from {seen.baseline_total:,} to {seen.last_total:,} while pages were read,"
            " so items may have moved from page to page."
        )
    if seen.missing and not counts.open:
        said.append(
            f"{seen.missing:,} items of the {seen.last_total:,} that there are said to be are missing."
        )
    if seen.duplicates:
        said.append(f"{seen.duplicates:,} items have the key of another.")
    if seen.stopped_by is not None and not seen.stopped_by.is_an_end:
        said.append(_STOPS[seen.stopped_by])
    return said


_STOPS = {
    StopReason.MAX_PAGES: "It stopped at `max_pages`; there is more.",
    StopReason.MAX_ITEMS: "It stopped at `max_items`; there may be more.",
    StopReason.LOOP: "It stopped where a page led back to one that was read before.",
    StopReason.REPEATED_PAGE: "It stopped where the same page came twice; the second was left out.",
    StopReason.OTHER_ORIGIN: "It stopped where a page led to another origin; `other_origins` allows that.",
    StopReason.INVALID_NEXT: "It stopped where a page led to something that cannot be asked for.",
}
