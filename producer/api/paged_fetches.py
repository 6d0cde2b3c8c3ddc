"""The operations on paged fetches: what their pages come to, and their items, streamed in flat memory."""

from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Document
from producer.api.guard import NDJSON_TYPE
from producer.api.requests import Query, read_caller, read_id
from producer.api.responses import StreamedResponse, attachment, json_response
from producer.api.slow_work import caller_of
from producer.paged_fetch import PagesRecord, split_keys
from producer.store import pages
from producer.store.database import Connection, LongCall, Store
from shared.errors import JobNotFound
from shared.kinds.pages import StopReason
from shared.states import JobState

# What `distinct` remembers, some 100 bytes each.
_MAX_COMPARED_KEYS = 1_000_000


class PageCounts(Document):
    """The pages of a paged fetch by what became of them."""

    planned: Annotated[
        int,
        Field(description="How many are known so far; the number grows while each page leads to the next."),
    ]
    done: int
    parked: int
    cancelled: int
    open: Annotated[int, Field(description="Still to be done.")]


class PagedFetch(Document):
    """All pages of a fetch, compared with the totals that they gave."""

    job_id: UUID
    state: Annotated[JobState, Field(description="The state of the first page, the job that was submitted.")]
    batch_id: Annotated[UUID | None, Field(description="The batch of the other pages, when there are any.")]
    pages: PageCounts
    items: Annotated[int, Field(description="How many items the pages have together.")]
    distinct: Annotated[
        int | None, Field(description="How many different keys they have; null without `key`.")
    ]
    duplicates: Annotated[int | None, Field(description="Items with the key of another; null without `key`.")]
    missing: Annotated[
        int | None, Field(description="How many items of the last total no page had; null without a total.")
    ]
    baseline_total: Annotated[int | None, Field(description="The total that the first page gave.")]
    last_total: Annotated[int | None, Field(description="The total that the latest page gave.")]
    drift: Annotated[int | None, Field(description="How much the total grew while the pages were read.")]
    stopped_by: Annotated[StopReason | None, Field(description="Why no further page was requested.")]
    complete: Annotated[bool, Field(description="Every page is done, and nothing suggests a missing item.")]
    explanation: Annotated[str, Field(description="The same for a person.")]


class PagedFetchHandlers:
    """Shows paged fetches, by the id of the job that was submitted."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get_pages(self, request: Request) -> Response:
        """Answer with what the pages come to, compared with their totals."""
        job_id, project = read_id(request, "job_id", JobNotFound), read_caller(request).project
        async with self._store.long_call(LongCall.READ, caller_of(request)):
            record = await self._store.read(pages.get_pages, job_id, project=project)
        return json_response(paged_fetch(record))

    async def stream_items(self, request: Request) -> Response:
        """Answer with the items of all pages that are done, in their order."""
        job_id, project = read_id(request, "job_id", JobNotFound), read_caller(request).project
        await self._store.read(pages.get_root, job_id, project=project)
        seen: set[bytes] | None = set() if Query(request).flag("distinct") else None
        lines = self._lines(job_id, seen, caller_of(request), project)
        return StreamedResponse(lines, attachment(f"{job_id}.ndjson"), NDJSON_TYPE)

    async def _lines(
        self, job_id: UUID, seen: set[bytes] | None, caller: str, project: str | None
    ) -> AsyncIterator[bytes]:
        after: int | None = -1
        while after is not None:
            lines, after = await self._store.read_page(
                caller, _read_page, job_id, after, seen, project=project
            )
            if lines:
                yield lines


def paged_fetch(record: PagesRecord) -> PagedFetch:
    """Return the document of a paged fetch."""
    seen = record.completeness
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
    seen = record.completeness
    said = [f"{counts.done:,} of {counts.planned:,} pages are done, with {seen.items:,} items."]
    if counts.parked:
        said.append(f"{counts.parked:,} are parked: redrive them to go on.")
    if record.is_cut and not counts.parked and not counts.open:
        said.append("Its pages were cancelled before the last was reached.")
    if seen.drift:
        said.append(
            f"The total went from {seen.baseline_total:,} to {seen.last_total:,} while pages were read,"
            " so items may have moved from page to page."
        )
    if seen.missing and not counts.open:
        said.append(f"{seen.missing:,} of the {seen.last_total:,} items that the pages promise are missing.")
    if seen.duplicates:
        said.append(f"{seen.duplicates:,} items have the key of another.")
    if seen.stopped_by is StopReason.OTHER_ORIGIN:
        said.append(_other_origin(record.root.args))
    elif seen.stopped_by in _STOPS:
        said.append(_STOPS[seen.stopped_by])
    elif seen.stopped_by in _SILENT_ENDS and seen.last_total is None:
        said.append("No total says whether that is all: where nothing more came was taken for the end.")
    elif seen.stopped_by is StopReason.NO_NEXT and record.planned == 1:
        said.append("The first page led to no other.")
    return said


_SILENT_ENDS = frozenset({StopReason.EMPTY_PAGE, StopReason.SHORT_PAGE, StopReason.NOT_FOUND})
_STOPS = {
    StopReason.MAX_PAGES: "It stopped at `max_pages`; there may be more.",
    StopReason.MAX_ITEMS: "It stopped at `max_items`; there may be more.",
    StopReason.LOOP: "It stopped where a page led back to one that was read before.",
    StopReason.REPEATED_PAGE: "It stopped where the same page came twice, and left the second copy out: the "
    "target ignores what was asked for, or has no more; nobody can tell.",
    StopReason.INVALID_NEXT: "It stopped where a page named as the next one what is no valid URL or cursor.",
    StopReason.PROJECT_FULL: "It stopped where the project had no room for more jobs: see `GET /limits`, "
    "and fetch again when there is.",
}


def _other_origin(args: Mapping[str, Any]) -> str:
    if args.get("pages", {}).get("other_origins"):
        said = f"and a {args.get('method', 'GET')} goes to the origin of its own URL alone"
        return f"It stopped where a page led to another origin, {said}."
    return "It stopped where a page led to another origin, or came from one; `other_origins` allows that."


def _read_page(
    connection: Connection, job_id: UUID, after: int, seen: set[bytes] | None, *, project: str | None
) -> tuple[bytes, int | None]:
    page = pages.next_page_items(connection, job_id, project=project, after=after)
    if page is None:
        return b"", None
    number, items, digests = page
    # As they are stored: a lone surrogate has no UTF-8, and comes back as the escape that it was.
    lines = [item + b"\n" for item in items]
    if seen is not None:
        keys = split_keys(digests) if digests else [sha256(line).digest()[:8] for line in lines]
        lines = [line for key, line in zip(keys, lines, strict=False) if _is_new(key, seen)]
    return b"".join(lines), number


def _is_new(key: bytes, seen: set[bytes]) -> bool:
    if key in seen:
        return False
    if len(seen) < _MAX_COMPARED_KEYS:
        seen.add(key)
    return True
