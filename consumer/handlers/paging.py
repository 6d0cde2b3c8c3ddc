"""What follows a page: nothing and why, the next page, or all that are planned. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page says.

    Attributes:
        items: Its items, all of them.
        total: How many there are in all.
        cursor: Of the next page: any JSON.
        next_url: Of the next page, absolute; or why it cannot be asked for; None when there is none.
        here: The cursor or URL that this page was asked for with; no cursor is the empty one.
    """

    items: list[Any]
    total: int | None = None
    cursor: Any = None
    next_url: str | StopReason | None = None
    here: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is kept of a page, and what follows it; the reason is None when that was planned."""

    kept: int
    stopped_by: StopReason | None = None
    following: PagePlace | None = None


def turn(pages: Pages, place: PagePlace | None, seen: Seen) -> Turn:
    """Return what follows a page.

    Args:
        pages: What the job asks for.
        place: Which page it is; None is the first.
        seen: What it says.
    """
    repeats = place is not None and place.previous is not None and place.previous == digest(seen.items)
    if seen.items and repeats:
        # The target ignores what we ask for, or gives its last page again and again.
        return Turn(0, StopReason.REPEATED_PAGE)
    if isinstance(pages, PageNumbers | Offsets) and (
        place.last is not None if place else seen.total is not None
    ):
        return _planned(pages, place, seen)
    before = place.items_before if place else 0
    kept = min(len(seen.items), (pages.max_items or MAX_ITEMS) - before)
    following = _next(pages, place, seen)
    if isinstance(following, StopReason):
        reason = StopReason.MAX_ITEMS if kept < len(seen.items) else following
        return Turn(kept, reason)
    if before + kept >= (pages.max_items or MAX_ITEMS):
        return Turn(kept, StopReason.MAX_ITEMS)
    if following.index >= pages.max_pages:
        return Turn(kept, StopReason.MAX_PAGES)
    return Turn(kept, following=following)


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that are the same for the same JSON."""
    return key_digest(value).hex()


def key_digest(value: Any) -> bytes:
    """Return eight octets that are the same for the same JSON."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).digest()[:_DIGEST_OCTETS]


def _planned(pages: PageNumbers | Offsets, place: PagePlace | None, seen: Seen) -> Turn:
    """Plan from the total and the real size of the first page; then mend the plan as totals change."""
    index, count = place.index if place else 0, len(seen.items)
    size = (place.size if place else count) or 0
    total = seen.total if seen.total is not None else (place.total if place else None) or 0
    limit = pages.max_items or MAX_ITEMS
    kept = max(0, min(count, limit - index * size))
    if not size:
        # Without items there is no size to plan with; with a total above 0 the report says what is missing.
        return Turn(0, StopReason.EMPTY_PAGE)
    end = place.last if place and place.last is not None else index
    needed = max(_pages_of(total, size) - 1, end)
    if index == end and count >= size and count > total - index * size and needed == end:
        # Fuller than the total allows: there may be more behind it.
        needed = end + 1
    allowed = min(needed, _pages_of(limit, size) - 1, pages.max_pages - 1)
    reason = None
    if allowed < needed and index in (0, end):
        reason = StopReason.MAX_PAGES if allowed == pages.max_pages - 1 else StopReason.MAX_ITEMS
    elif kept < count:
        reason = StopReason.MAX_ITEMS
    if allowed <= end:
        return Turn(kept, reason)
    previous = place.previous if place else digest(seen.items)
    baseline = place.total if place else seen.total
    following = PagePlace(index=end + 1, last=allowed, size=size, total=baseline, previous=previous)
    return Turn(kept, reason, following)


def _pages_of(items: int, size: int) -> int:
    return -(-items // size)


def _next(pages: Pages, place: PagePlace | None, seen: Seen) -> PagePlace | StopReason:
    count = len(seen.items)
    base = PagePlace.model_construct(
        index=(place.index if place else 0) + 1,
        size=place.size if place else count or None,
        items_before=(place.items_before if place else 0) + count,
        previous=digest(seen.items) if count else None,
    )
    match pages:
        case PageNumbers() | Offsets():
            if not count:
                return StopReason.EMPTY_PAGE
            # Measured by the first page: what a target gives may be less than what was asked for.
            return StopReason.SHORT_PAGE if count < (base.size or 0) else base
        case Cursors():
            cursor = _cursor(seen.cursor)
            if cursor is None or isinstance(cursor, StopReason):
                return cursor or StopReason.NO_NEXT
            return _unless_loop(
                base.model_copy(update={"cursor": cursor}), place, here=seen.here, there=cursor
            )
        case Links() | NextUrls():
            url = seen.next_url
            if url is None or isinstance(url, StopReason):
                return url or StopReason.NO_NEXT
            return _unless_loop(base.model_copy(update={"url": url}), place, here=seen.here, there=url)
        case _ as never:
            assert_never(never)


def _cursor(value: Any) -> str | StopReason | None:
    match value:
        case None | False | "":
            return None
        case str() if len(value) <= MAX_CURSOR_LENGTH:
            return value
        case int() if value is not True:
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
