"""Which pages follow a page of a paged fetch, and where it ends. Pure.

docs/fetching-pages.md says what each rule proves.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, assert_never

from shared import exact_json
from shared.kinds.pages import (
    MAX_CURSOR_LENGTH,
    MAX_ITEMS,
    Cursors,
    Links,
    NextUrls,
    Offsets,
    PageNumbers,
    PagePlace,
    Pages,
    StopReason,
)

_DIGEST_OCTETS = 8
_MAX_CURSOR_DIGITS = 1_000


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """What a page says.

    Attributes:
        items: All its items.
        names: What identifies each item; the items themselves without a key.
        total: How many items there are in all.
        cursor: The cursor of the next page: any JSON.
        next_url: The absolute URL of the next page, or why it cannot be requested; None when there is none.
        is_foreign: Whether another origin than the job's names that URL.
        here: The cursor or URL with which this page was requested; the first page has the empty cursor.
    """

    items: list[Any]
    total: int | None = None
    cursor: Any = None
    next_url: str | StopReason | None = None
    here: str = ""
    is_foreign: bool = False
    names: list[Any] | None = None

    @property
    def digest(self) -> str | None:
        """What is the same for a page with the same items; None when there are none.

        With a key their order and all else that they say do not count: some of it changes with each answer.
        """
        if not self.items or self.names is None:
            return digest(self.items) if self.items else None
        return digest(sorted(map(digest, self.names)))

    def part(self, begin: int, end: int | None = None) -> "FetchedPage":
        """Return a page that has only some of its items."""
        return FetchedPage(self.items[begin:end], names=self.names and self.names[begin:end])


@dataclass(frozen=True, slots=True)
class NextPages:
    """How many items of a page are kept, and which pages follow.

    Attributes:
        stopped_by: Why no page follows; None when one does, or when this was planned to be the last.
        dropped: How many items at its beginning were on the page before.
    """

    kept: int
    stopped_by: StopReason | None = None
    following: PagePlace | None = None
    dropped: int = 0

    def of(self, items: list[Any]) -> list[Any]:
        """Return those that are kept."""
        return items[self.dropped : self.dropped + self.kept]


def next_pages(pages: Pages, place: PagePlace | None, page: FetchedPage) -> NextPages:
    """Return which pages follow a page.

    Args:
        pages: What the job wants.
        place: Which page it is; None is the first.
        page: What it says.
    """
    if place is not None and page.items and place.previous == page.digest:
        return NextPages(0, _reason_of_repetition(pages, place, page))
    if isinstance(pages, PageNumbers | Offsets) and (
        place.last is not None if place else _can_be_planned(pages, page)
    ):
        return _planned(pages, place, page)
    before = place.items_before if place else 0
    dropped = _overlap(place, page)
    kept = min(len(page.items) - dropped, (pages.max_items or MAX_ITEMS) - before)
    following = _next(pages, place, page, dropped=dropped)
    if isinstance(following, StopReason):
        reason = StopReason.MAX_ITEMS if kept < len(page.items) - dropped else following
        return NextPages(kept, reason, dropped=dropped)
    if before + kept >= (pages.max_items or MAX_ITEMS):
        return NextPages(kept, StopReason.MAX_ITEMS, dropped=dropped)
    if following.index >= pages.max_pages:
        return NextPages(kept, StopReason.MAX_PAGES, dropped=dropped)
    return NextPages(kept, following=following, dropped=dropped)


def _can_be_planned(pages: PageNumbers | Offsets, page: FetchedPage) -> bool:
    # Where a page has more than was asked for, nobody can tell at which offset the next begins.
    return page.total is not None and (isinstance(pages, PageNumbers) or len(page.items) <= pages.size)


def _overlap(place: PagePlace | None, page: FetchedPage) -> int:
    """Return with how many items a page repeats those that the page before had beyond what was asked for."""
    if place is None or not place.surplus:
        return 0
    return place.surplus if page.part(0, place.surplus).digest == place.surplus_digest else 0


def _reason_of_repetition(pages: Pages, place: PagePlace, page: FetchedPage) -> StopReason:
    """Return why no page follows one that came twice.

    A short page behind others, and the same again behind it: so some targets answer whatever is behind the
    last page. Otherwise the target may as well ignore our parameters, or give no page beyond some limit.
    """
    is_in_a_row = isinstance(pages, PageNumbers | Offsets) and place.last is None and place.index > 1
    first = place.size or 0
    size = min(first, (pages.size if isinstance(pages, PageNumbers | Offsets) else None) or first)
    return StopReason.SHORT_PAGE if is_in_a_row and len(page.items) < size else StopReason.REPEATED_PAGE


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that are the same for the same JSON."""
    return key_digest(value).hex()


def key_digest(value: Any) -> bytes:
    """Return eight octets that are the same for the same JSON."""
    text = exact_json.dumps(value, sort_keys=True)
    return hashlib.sha256(text).digest()[:_DIGEST_OCTETS]


def _planned(pages: PageNumbers | Offsets, place: PagePlace | None, page: FetchedPage) -> NextPages:
    """Plan from the total and the size of the first page; then change the plan as totals change.

    The size is what was asked for, or what the first page really has if that is less. What it has beyond
    that, such as what is pinned there, moves no other page.
    """
    index, count = place.index if place else 0, len(page.items)
    size = (place.size if place else min(count, pages.size or count)) or 0
    extra = place.items_before if place else count - size
    before = index * size + (extra if place else 0)
    total = page.total if page.total is not None else (place.total if place else None) or 0
    limit = pages.max_items or MAX_ITEMS
    kept = max(0, min(count, limit - before))
    if not size:
        # Without items there is no size to plan with; the report says what is missing from the total.
        return NextPages(0, StopReason.EMPTY_PAGE)
    end = place.last if place and place.last is not None else index
    needed = max(_pages_of(total - extra, size) - 1, end)
    if index == end == needed and count > max(0, total - before):
        # The page is fuller than the total allows, so more may follow.
        needed = end + 1
    allowed = min(needed, _pages_of(limit - extra, size) - 1, pages.max_pages - 1)
    reason = None
    if allowed < needed and index in (0, end):
        reason = StopReason.MAX_PAGES if allowed == pages.max_pages - 1 else StopReason.MAX_ITEMS
    elif kept < count:
        reason = StopReason.MAX_ITEMS
    if allowed <= end:
        return NextPages(kept, reason)
    following = PagePlace(
        index=end + 1,
        last=allowed,
        size=size,
        total=place.total if place else page.total,
        items_before=extra,
        previous=place.previous if place else page.digest,
    )
    return NextPages(kept, reason, following)


def _pages_of(items: int, size: int) -> int:
    return -(-items // size)


def _next(
    pages: Pages, place: PagePlace | None, page: FetchedPage, *, dropped: int
) -> PagePlace | StopReason:
    count = len(page.items) - dropped
    base = PagePlace.model_construct(
        index=(place.index if place else 0) + 1,
        size=place.size if place else count or None,
        items_before=(place.items_before if place else 0) + count,
        previous=page.digest,
    )
    match pages:
        # A short page proves nothing: the target may filter what it has paged, or give less than is asked.
        case PageNumbers():
            return base if count else StopReason.EMPTY_PAGE
        case Offsets():
            return _next_offset(pages, place, page, base, dropped=dropped) if count else StopReason.EMPTY_PAGE
        case Cursors():
            cursor = _cursor(page.cursor)
            if cursor is None or isinstance(cursor, StopReason):
                return cursor or StopReason.NO_NEXT
            return _unless_loop(
                base.model_copy(update={"cursor": cursor}), place, here=page.here, there=cursor
            )
        case Links() | NextUrls():
            url = page.next_url
            if url is None or isinstance(url, StopReason):
                return url or StopReason.NO_NEXT
            changes = {"url": url, "is_foreign": page.is_foreign}
            return _unless_loop(base.model_copy(update=changes), place, here=page.here, there=url)
        case _ as never:
            assert_never(never)


def _next_offset(
    pages: Offsets, place: PagePlace | None, page: FetchedPage, base: PagePlace, *, dropped: int
) -> PagePlace:
    """Return the place behind a page, so that nothing is lost whatever the page has.

    It goes on by what the page has, but at most by what was asked for: more may be pinned to this page. If it
    is not, the next page begins with it, which shows that this target gives larger pages.
    """
    step = len(page.items) if dropped else min(len(page.items), pages.size)
    offset = offset_of(place) + step
    changes: dict[str, Any] = {} if offset == base.items_before else {"offset": offset}
    if surplus := len(page.items) - step:
        changes |= {"surplus": surplus, "surplus_digest": page.part(step).digest}
    return base.model_copy(update=changes)


def _cursor(value: Any) -> str | StopReason | None:
    match value:
        case None | False | "":
            return None
        case str() if len(value) <= MAX_CURSOR_LENGTH:
            return value
        case int() if value is not True and abs(value) < 10**_MAX_CURSOR_DIGITS:
            return str(value)
        case _:
            return StopReason.INVALID_NEXT


def _unless_loop(
    following: PagePlace, place: PagePlace | None, *, here: str, there: str
) -> PagePlace | StopReason:
    """Return the place with its marks, unless its cursor or URL was met before.

    Brent's cycle detection: constant memory, and a loop of n pages is found before it was walked thrice.
    """
    mark, power, steps = (place.mark, place.power, place.steps) if place else (None, 1, 1)
    mark = mark or digest(here)
    token = digest(there)
    if token == mark or there == here:
        return StopReason.LOOP
    if steps == power:
        mark, power, steps = token, power * 2, 0
    return following.model_copy(update={"mark": mark, "power": power, "steps": steps + 1})


def offset_of(place: PagePlace | None) -> int:
    """Return the offset to send for a page that another led to; None is the first."""
    if place is None:
        return 0
    return place.items_before if place.offset is None else place.offset
