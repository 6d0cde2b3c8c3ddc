"""Paged fetches: how one page leads to the next, and which page a job asks for."""

from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.kinds.expressions import JmesPath
from shared.kinds.requests import FieldName

MAX_PAGES = 10_000
"""The limit of one paged fetch; ids of pages have room for 16,383 (`shared.identity`)."""
MAX_PAGE_ITEMS = 1_000_000
"""The largest page there can be holds no more."""
MAX_ITEMS = MAX_PAGES * MAX_PAGE_ITEMS
MAX_TOTAL = 10**15
"""A larger total is nonsense and counts as none."""
MAX_CURSOR_LENGTH = 4_096

ParameterName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[!-~]+$")]
PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE_ITEMS)]


class StopReason(StrEnum):
    """Why no page follows. Wire and database names: only ever added to."""

    EMPTY_PAGE = "empty_page"
    SHORT_PAGE = "short_page"
    NOT_FOUND = "not_found"
    NO_NEXT = "no_next"
    MAX_PAGES = "max_pages"
    MAX_ITEMS = "max_items"
    LOOP = "loop"
    REPEATED_PAGE = "repeated_page"
    OTHER_ORIGIN = "other_origin"
    INVALID_NEXT = "invalid_next"
    PROJECT_FULL = "project_full"

    @property
    def is_an_end(self) -> bool:
        """Whether the target said that this is the end, and we did not stop before it."""
        return self in _ENDS


_ENDS = frozenset({StopReason.EMPTY_PAGE, StopReason.SHORT_PAGE, StopReason.NOT_FOUND, StopReason.NO_NEXT})


class _Pages(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    items: Annotated[JmesPath, Field(description="JMESPath of the list of items on a page.")] = "@"
    key: Annotated[
        JmesPath | None,
        Field(description="JMESPath on one item for what identifies it; with it, duplicates are counted."),
    ] = None
    max_pages: Annotated[int, Field(ge=1, le=MAX_PAGES)] = 1_000
    max_items: Annotated[int | None, Field(ge=1, le=MAX_ITEMS)] = None


class _Planned(_Pages):
    total: Annotated[
        JmesPath | None,
        Field(description="JMESPath of the number of all items: pages are planned and fetched at once."),
    ] = None
    total_header: Annotated[
        FieldName | None,
        Field(description="The same from a header, such as `X-Total-Count` or `Content-Range`."),
    ] = None

    @model_validator(mode="after")
    def _one_total(self) -> Self:
        if self.total is not None and self.total_header is not None:
            raise ValueError("the total is either in the body or in a header: `total` or `total_header`")
        return self


class PageNumbers(_Planned):
    """Pages are numbered: `?page=1`, `?page=2`."""

    by: Literal["page"]
    parameter: ParameterName = "page"
    first: Annotated[int, Field(ge=0, le=1_000_000_000, description="Number of the first page.")] = 1
    size_parameter: ParameterName | None = None
    size: PageSize | None = None

    @model_validator(mode="after")
    def _size_has_a_name(self) -> Self:
        if (self.size is None) is not (self.size_parameter is None):
            raise ValueError("`size` and `size_parameter` go together")
        return self


class Offsets(_Planned):
    """Pages begin at an item: `?offset=0&limit=100`, `?offset=100&limit=100`."""

    by: Literal["offset"]
    parameter: ParameterName = "offset"
    size_parameter: ParameterName = "limit"
    size: PageSize = 100


class Cursors(_Pages):
    """Each page has the cursor of the next in its body; null or empty is the end."""

    by: Literal["cursor"]
    parameter: ParameterName = "cursor"
    cursor: Annotated[JmesPath, Field(description="JMESPath of the next cursor in the body.")]


_OTHER_ORIGINS = (
    "Follow to URLs of other origins, and to those that other origins name, without credentials. A request "
    "that changes something, such as a POST, goes to its own origin alone."
)


class Links(_Pages):
    """Each page links to the next: `Link: <...>; rel="next"` (RFC 8288)."""

    by: Literal["link"]
    other_origins: Annotated[bool, Field(description=_OTHER_ORIGINS)] = False


class NextUrls(_Pages):
    """Each page has the URL of the next in its body; null or empty is the end."""

    by: Literal["next_url"]
    next_url: Annotated[JmesPath, Field(description="JMESPath of the next URL in the body.")]
    other_origins: Annotated[bool, Field(description=_OTHER_ORIGINS)] = False


Pages = Annotated[PageNumbers | Offsets | Cursors | Links | NextUrls, Field(discriminator="by")]


class PagePlace(BaseModel):
    """A page after the first, or with `last` all pages up to there, and what is known of the pages before.

    Attributes:
        index: From 0, the page of the root job itself.
        last: The last page that is planned; None when each page leads to the next.
        size: How many items the first page had, and with `last` at most what was asked for.
        total: How many items there are in all, as the first page said.
        items_before: How many items the pages before have; with `last` what the first has beyond `size`.
        offset: The offset to send for it, when that is not `items_before`.
        surplus: How many items the page before has from that offset on; `surplus_digest` is theirs.
        cursor: The cursor to send for it.
        url: Its URL; the job's own URL is replaced by it.
        is_foreign: Whether another origin than the job's named that URL; then it gets no more than one.
        previous: Digest of the items of an earlier page; it shows a target that ignores our parameters.
        mark: Digest of an earlier cursor or URL; `power` and `steps` say when it is replaced (Brent's cycle
            detection, so that a loop is found with constant memory).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: Annotated[int, Field(ge=1, lt=MAX_PAGES)]
    last: Annotated[int | None, Field(ge=1, lt=MAX_PAGES)] = None
    size: Annotated[int | None, Field(ge=1, le=MAX_PAGE_ITEMS)] = None
    total: Annotated[int | None, Field(ge=0, le=MAX_TOTAL)] = None
    items_before: Annotated[int, Field(ge=0, le=MAX_ITEMS)] = 0
    offset: Annotated[int | None, Field(ge=0, le=MAX_ITEMS)] = None
    surplus: Annotated[int, Field(ge=0, le=MAX_PAGE_ITEMS)] = 0
    surplus_digest: Annotated[str | None, Field(max_length=32)] = None
    cursor: Annotated[str | None, Field(max_length=MAX_CURSOR_LENGTH)] = None
    url: str | None = None
    is_foreign: bool = False
    previous: Annotated[str | None, Field(max_length=32)] = None
    mark: Annotated[str | None, Field(max_length=32)] = None
    power: Annotated[int, Field(ge=1, le=2 * MAX_PAGES)] = 1
    steps: Annotated[int, Field(ge=1, le=2 * MAX_PAGES)] = 1


class PageTask(PagePlace):
    """The argument `page` of a job that was made for one page; only the recorder writes it."""

    root: UUID


class PageReport(BaseModel):
    """What a report says about a page beside its result: what the recorder counts, and which page follows.

    Attributes:
        keys: Eight octets of a digest for each item's key, base64; None when items have no key.
        following: The next page, or with its `last` all from it to there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    items: Annotated[int, Field(ge=0, le=MAX_PAGE_ITEMS)]
    total: Annotated[int | None, Field(ge=0, le=MAX_TOTAL)] = None
    stopped_by: StopReason | None = None
    keys: Annotated[str | None, Field(max_length=12 * MAX_PAGE_ITEMS)] = None
    following: PagePlace | None = None


class PageResult(BaseModel):
    """What the result of a paged fetch says about its page."""

    model_config = ConfigDict(frozen=True)

    index: Annotated[int, Field(description="From 0.")]
    items: Annotated[int, Field(description="How many items are in `data`.")]
    total: Annotated[int | None, Field(description="How many there are in all, as this page said.")] = None
    stopped_by: Annotated[StopReason | None, Field(description="Why no page follows this one.")] = None
    batch_id: Annotated[UUID | None, Field(description="On the first page: the batch of all others.")] = None
