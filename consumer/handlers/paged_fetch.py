"""The work of a `fetch` with `pages`: fetch one page, keep its items, and say which pages follow it.

A job fetches one page only. The recorder makes the jobs of the pages that follow.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never
from urllib.parse import quote, unquote_plus

from consumer.handlers.fetch import fetch
from consumer.http.client import Client
from consumer.http.failures import EXTRACT_FAILED, Failure
from consumer.http.header_fields import next_link
from consumer.http.redirect_chain import RedirectChain
from shared import exact_json
from shared.kinds.fetch import FetchArgs
from shared.kinds.pages import (
    MAX_CURSOR_LENGTH,
    MAX_ITEMS,
    MAX_TOTAL,
    Cursors,
    Links,
    NextUrls,
    Offsets,
    PageNumbers,
    PagePlace,
    PageReport,
    PageResult,
    Pages,
    StopReason,
)
from shared.outcomes import Failed, Outcome, Succeeded
from shared.urls import InvalidReference, join_url, url_origin, url_query, with_query

NO_ITEMS = Failure(
    "no_items", transient=False, explanation="The expression `items` finds no list on the first page."
)

_NUMBER = re.compile(r"\s*\+?([0-9]{1,16})\s*")
# RFC 9110 section 14.4: `items 0-99/1234`, `items */1234`; a total of `*` is unknown.
_CONTENT_RANGE = re.compile(r"\s*\S+\s+\S+/([0-9]{1,16})\s*")
_DIGEST_OCTETS = 8


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """What a page says.

    Attributes:
        items: All its items.
        total: How many items there are in all.
        cursor: The cursor of the next page: any JSON.
        next_url: The absolute URL of the next page, or why it cannot be requested; None when there is none.
        here: The cursor or URL with which this page was requested; the first page has the empty cursor.
    """

    items: list[Any]
    total: int | None = None
    cursor: Any = None
    next_url: str | StopReason | None = None
    here: str = ""


@dataclass(frozen=True, slots=True)
class NextPages:
    """How many items of a page are kept, and which pages follow.

    Attributes:
        stopped_by: Why no page follows; None when one does, or when this was planned to be the last.
    """

    kept: int
    stopped_by: StopReason | None = None
    following: PagePlace | None = None


async def fetch_or_page(args: FetchArgs, client: Client) -> Outcome:
    """Return the body of a URL; with `pages`, the items of one page and what follows it."""
    if args.pages is None:
        return await fetch(args, client)
    chain = RedirectChain(args.url)
    outcome = await fetch(_request(args, args.pages), client, chain)
    if isinstance(outcome, Failed) and _is_behind_the_last(args, outcome):
        return _outcome(args, outcome.result or {}, [], None, NextPages(0, StopReason.NOT_FOUND), keys=None)
    if not isinstance(outcome, Succeeded):
        return outcome
    # Digests of a large page take milliseconds.
    return await asyncio.to_thread(_keep, args, args.pages, outcome.result, chain)


def _request(args: FetchArgs, pages: Pages) -> FetchArgs:
    """Return the fetch of one page: its URL, and one expression that picks out all that is wanted."""
    # Each part compiles by itself, so none can reach out of its brackets.
    parts = [f"items: ({pages.items})"]
    if pages.key is not None:
        parts.append(f"keys: map(&({pages.key}), ({pages.items}) || `[]`)")
    if isinstance(pages, PageNumbers | Offsets) and pages.total is not None:
        parts.append(f"total: ({pages.total})")
    if isinstance(pages, Cursors):
        parts.append(f"next: ({pages.cursor})")
    if isinstance(pages, NextUrls):
        parts.append(f"next: ({pages.next_url})")
    changes = {"url": _url(args, pages), "extract": f"{{{', '.join(parts)}}}", "pages": None, "page": None}
    return args.model_copy(update=changes)


def _url(args: FetchArgs, pages: Pages) -> str:
    place = args.page
    index = place.index if place else 0
    match pages:
        case PageNumbers():
            size = {pages.size_parameter: str(pages.size)} if pages.size_parameter else {}
            return with_parameters(args.url, {pages.parameter: str(pages.first + index), **size})
        case Offsets():
            is_planned = place is not None and place.last is not None
            # The size of the pages that the target really gives, so that ranges meet.
            size_here = (place.size if place and is_planned else None) or pages.size
            offset = index * size_here if is_planned else (place.items_before if place else 0)
            return with_parameters(
                args.url, {pages.parameter: str(offset), pages.size_parameter: str(size_here)}
            )
        case Cursors() if place is not None and place.cursor is not None:
            return with_parameters(args.url, {pages.parameter: place.cursor})
        case _:
            return args.url


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """Return a URL with these parameters in its query, instead of any of the same names.

    All others stay byte for byte: some servers sign or compare them.
    """
    kept = [
        pair
        for pair in url_query(url).split("&")
        if pair and unquote_plus(pair.partition("=")[0]) not in parameters
    ]
    added = [f"{quote(name, safe='[]')}={quote(value, safe='')}" for name, value in parameters.items()]
    return with_query(url, "&".join([*kept, *added]))


def _is_behind_the_last(args: FetchArgs, failed: Failed) -> bool:
    """Return whether the target says in this way that there are no more pages, as many frameworks do."""
    is_searching = args.page is not None and isinstance(args.pages, PageNumbers | Offsets)
    return is_searching and failed.reason == "http_404"


def _keep(args: FetchArgs, pages: Pages, result: dict[str, Any], chain: RedirectChain) -> Outcome:
    data = result["data"] if isinstance(result["data"], dict) else {}
    items = data.get("items")
    if items is None and args.page is not None:
        # Some targets leave the list out when it is empty.
        items = []
    if not isinstance(items, list):
        failure = NO_ITEMS if items is None else EXTRACT_FAILED
        return failure.as_outcome(result={**result, "data": None})
    page = FetchedPage(
        items=items,
        total=_total(pages, data, chain),
        cursor=data.get("next"),
        next_url=_next_url(args, pages, data, chain),
        here=_here(args, pages),
    )
    after = next_pages(pages, args.page, page)
    return _outcome(args, result, items, page.total, after, keys=_keys(pages, data, items, after.kept))


def _outcome(
    args: FetchArgs,
    result: dict[str, Any],
    items: list[Any],
    total: int | None,
    after: NextPages,
    *,
    keys: str | None,
) -> Succeeded:
    index = args.page.index if args.page else 0
    page = PageResult(index=index, items=after.kept, total=total, stopped_by=after.stopped_by)
    report = PageReport(
        items=after.kept, total=total, stopped_by=after.stopped_by, keys=keys, following=after.following
    )
    kept = {**result, "data": items[: after.kept], "page": page.model_dump(mode="json")}
    return Succeeded(kept, page=report)


def _keys(pages: Pages, data: dict[str, Any], items: list[Any], kept: int) -> str | None:
    keys = data.get("keys")
    if pages.key is None or (not isinstance(keys, list) and items):
        return None
    # An item without a key is identified by its whole content.
    named = zip(keys or [], items, strict=False)
    digests = [key_digest(item if key is None else key) for key, item in named]
    return base64.b64encode(b"".join(digests[:kept])).decode("ascii")


def _total(pages: Pages, data: dict[str, Any], chain: RedirectChain) -> int | None:
    if not isinstance(pages, PageNumbers | Offsets):
        return None
    if pages.total_header is not None:
        is_range = pages.total_header.lower() == "content-range"
        return _whole(chain.headers.get(pages.total_header, ""), _CONTENT_RANGE if is_range else _NUMBER)
    value = data.get("total")
    if isinstance(value, str):
        return _whole(value, _NUMBER)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == int(value) and 0 <= value <= MAX_TOTAL else None


def _whole(text: str, form: re.Pattern[str]) -> int | None:
    found = form.fullmatch(text)
    number = int(found[1]) if found else None
    return number if number is not None and number <= MAX_TOTAL else None


def _next_url(
    args: FetchArgs, pages: Pages, data: dict[str, Any], chain: RedirectChain
) -> str | StopReason | None:
    match pages:
        case Links():
            reference: object = next_link(chain.headers.getall("Link", []))
        case NextUrls():
            reference = data.get("next")
        case _:
            return None
    if reference is None or reference in ("", False):
        return None
    if not isinstance(reference, str):
        return StopReason.INVALID_NEXT
    try:
        # Relative to where the redirects led, RFC 3986 section 5.1.3.
        url = join_url(reference, base=chain.url)
    except InvalidReference:
        return StopReason.INVALID_NEXT
    # A target may redirect us to another origin of its own, and link to pages there.
    own = {url_origin(args.url), url_origin(chain.url)}
    return url if pages.other_origins or url_origin(url) in own else StopReason.OTHER_ORIGIN


def _here(args: FetchArgs, pages: Pages) -> str:
    if isinstance(pages, Cursors):
        return (args.page.cursor if args.page else None) or ""
    return args.url


def next_pages(pages: Pages, place: PagePlace | None, page: FetchedPage) -> NextPages:
    """Return which pages follow a page.

    Args:
        pages: What the job wants.
        place: Which page it is; None is the first.
        page: What it says.
    """
    repeats = place is not None and place.previous is not None and place.previous == digest(page.items)
    if page.items and repeats:
        # The target ignores our parameters, or repeats its last page.
        return NextPages(0, StopReason.REPEATED_PAGE)
    if isinstance(pages, PageNumbers | Offsets) and (
        place.last is not None if place else page.total is not None
    ):
        return _planned(pages, place, page)
    before = place.items_before if place else 0
    kept = min(len(page.items), (pages.max_items or MAX_ITEMS) - before)
    following = _next(pages, place, page)
    if isinstance(following, StopReason):
        reason = StopReason.MAX_ITEMS if kept < len(page.items) else following
        return NextPages(kept, reason)
    if before + kept >= (pages.max_items or MAX_ITEMS):
        return NextPages(kept, StopReason.MAX_ITEMS)
    if following.index >= pages.max_pages:
        return NextPages(kept, StopReason.MAX_PAGES)
    return NextPages(kept, following=following)


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that are the same for the same JSON."""
    return key_digest(value).hex()


def key_digest(value: Any) -> bytes:
    """Return eight octets that are the same for the same JSON."""
    text = exact_json.dumps(value, sort_keys=True)
    return hashlib.sha256(text).digest()[:_DIGEST_OCTETS]


def _planned(pages: PageNumbers | Offsets, place: PagePlace | None, page: FetchedPage) -> NextPages:
    """Plan from the total and the real size of the first page; then change the plan as totals change."""
    index, count = place.index if place else 0, len(page.items)
    size = (place.size if place else count) or 0
    total = page.total if page.total is not None else (place.total if place else None) or 0
    limit = pages.max_items or MAX_ITEMS
    kept = max(0, min(count, limit - index * size))
    if not size:
        # Without items there is no size to plan with; the report says what is missing from the total.
        return NextPages(0, StopReason.EMPTY_PAGE)
    end = place.last if place and place.last is not None else index
    needed = max(_pages_of(total, size) - 1, end)
    if index == end and count >= size and count > total - index * size and needed == end:
        # The page is fuller than the total allows, so more may follow.
        needed = end + 1
    allowed = min(needed, _pages_of(limit, size) - 1, pages.max_pages - 1)
    reason = None
    if allowed < needed and index in (0, end):
        reason = StopReason.MAX_PAGES if allowed == pages.max_pages - 1 else StopReason.MAX_ITEMS
    elif kept < count:
        reason = StopReason.MAX_ITEMS
    if allowed <= end:
        return NextPages(kept, reason)
    previous = place.previous if place else digest(page.items)
    baseline = place.total if place else page.total
    following = PagePlace(index=end + 1, last=allowed, size=size, total=baseline, previous=previous)
    return NextPages(kept, reason, following)


def _pages_of(items: int, size: int) -> int:
    return -(-items // size)


def _next(pages: Pages, place: PagePlace | None, page: FetchedPage) -> PagePlace | StopReason:
    count = len(page.items)
    base = PagePlace.model_construct(
        index=(place.index if place else 0) + 1,
        size=place.size if place else count or None,
        items_before=(place.items_before if place else 0) + count,
        previous=digest(page.items) if count else None,
    )
    match pages:
        case PageNumbers() | Offsets():
            if not count:
                return StopReason.EMPTY_PAGE
            # Measured by the first page, because a target may give less than was asked for.
            return StopReason.SHORT_PAGE if count < (base.size or 0) else base
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
            return _unless_loop(base.model_copy(update={"url": url}), place, here=page.here, there=url)
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
