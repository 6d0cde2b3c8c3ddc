"""The work of a `fetch` with `pages`: one page, its items, and what follows it.

A job fetches one page only. The recorder makes the jobs of the pages that follow.
"""

import asyncio
import base64
import re
from typing import Any

from consumer.handlers.client import Client
from consumer.handlers.failures import EXTRACT_FAILED, Failure
from consumer.handlers.fetch import fetch
from consumer.handlers.hops import Trail
from consumer.handlers.page_urls import absolute_url, next_link, with_parameters
from consumer.handlers.paging import Seen, Turn, key_digest, turn
from shared.kinds.fetch import FetchArgs
from shared.kinds.pages import (
    MAX_TOTAL,
    Cursors,
    Links,
    NextUrls,
    Offsets,
    PageNumbers,
    PageReport,
    PageResult,
    Pages,
    StopReason,
)
from shared.kinds.urls import url_origin
from shared.outcomes import Failed, Outcome, Succeeded

NO_ITEMS = Failure(
    "no_items", transient=False, explanation="The expression `items` finds no list on the first page."
)

_NUMBER = re.compile(r"\s*\+?([0-9]{1,16})\s*")
# RFC 9110 section 14.4: `items 0-99/1234`, `items */1234`; a total of `*` is unknown.
_CONTENT_RANGE = re.compile(r"\s*\S+\s+\S+/([0-9]{1,16})\s*")


async def fetch_or_page(args: FetchArgs, client: Client) -> Outcome:
    """Return the body of a URL; with `pages`, the items of one page and what follows it."""
    if args.pages is None:
        return await fetch(args, client)
    trail = Trail(args.url)
    outcome = await fetch(_request(args, args.pages), client, trail)
    if isinstance(outcome, Failed) and _is_behind_the_last(args, outcome):
        return _outcome(args, outcome.result or {}, [], None, Turn(0, StopReason.NOT_FOUND), keys=None)
    if not isinstance(outcome, Succeeded):
        return outcome
    # Digests of a large page take milliseconds.
    return await asyncio.to_thread(_keep, args, args.pages, outcome.result, trail)


def _request(args: FetchArgs, pages: Pages) -> FetchArgs:
    """Return the fetch of one page: its URL, and one expression that picks out all that is asked for."""
    # Parts were compiled singly, so none can reach out of its brackets.
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
            # The size that the target really gives, so that ranges meet.
            size_here = (place.size if place and is_planned else None) or pages.size
            offset = index * size_here if is_planned else (place.items_before if place else 0)
            return with_parameters(
                args.url, {pages.parameter: str(offset), pages.size_parameter: str(size_here)}
            )
        case Cursors() if place is not None and place.cursor is not None:
            return with_parameters(args.url, {pages.parameter: place.cursor})
        case _:
            return args.url


def _is_behind_the_last(args: FetchArgs, failed: Failed) -> bool:
    """Whether this is how the target says that there are no more pages: many frameworks do."""
    is_searching = args.page is not None and isinstance(args.pages, PageNumbers | Offsets)
    return is_searching and failed.reason == "http_404"


def _keep(args: FetchArgs, pages: Pages, result: dict[str, Any], trail: Trail) -> Outcome:
    data = result["data"] if isinstance(result["data"], dict) else {}
    items = data.get("items")
    if items is None and args.page is not None:
        # Some targets leave the list out where there is nothing to list.
        items = []
    if not isinstance(items, list):
        failure = NO_ITEMS if items is None else EXTRACT_FAILED
        return failure.as_outcome(result={**result, "data": None})
    seen = Seen(
        items=items,
        total=_total(pages, data, trail),
        cursor=data.get("next"),
        next_url=_next_url(args, pages, data, trail),
        here=_here(args, pages),
    )
    after = turn(pages, args.page, seen)
    return _outcome(args, result, items, seen.total, after, keys=_keys(pages, data, items, after.kept))


def _outcome(
    args: FetchArgs,
    result: dict[str, Any],
    items: list[Any],
    total: int | None,
    after: Turn,
    *,
    keys: str | None,
) -> Succeeded:
    index = args.page.index if args.page else 0
    shown = PageResult(index=index, items=after.kept, total=total, stopped_by=after.stopped_by)
    told = PageReport(
        items=after.kept, total=total, stopped_by=after.stopped_by, keys=keys, following=after.following
    )
    kept = {**result, "data": items[: after.kept], "page": shown.model_dump(mode="json")}
    return Succeeded(kept, page=told)


def _keys(pages: Pages, data: dict[str, Any], items: list[Any], kept: int) -> str | None:
    keys = data.get("keys")
    if pages.key is None or (not isinstance(keys, list) and items):
        return None
    # An item without a key is told by all that it says.
    named = zip(keys or [], items, strict=False)
    digests = [key_digest(item if key is None else key) for key, item in named]
    return base64.b64encode(b"".join(digests[:kept])).decode("ascii")


def _total(pages: Pages, data: dict[str, Any], trail: Trail) -> int | None:
    if not isinstance(pages, PageNumbers | Offsets):
        return None
    if pages.total_header is not None:
        is_range = pages.total_header.lower() == "content-range"
        return _whole(trail.headers.get(pages.total_header, ""), _CONTENT_RANGE if is_range else _NUMBER)
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


def _next_url(args: FetchArgs, pages: Pages, data: dict[str, Any], trail: Trail) -> str | StopReason | None:
    match pages:
        case Links():
            reference: object = next_link(trail.headers.getall("Link", []))
        case NextUrls():
            reference = data.get("next")
        case _:
            return None
    if reference is None or reference in ("", False):
        return None
    # Relative to where the redirects led, RFC 3986 section 5.1.3.
    url = absolute_url(reference, base=trail.url) if isinstance(reference, str) else None
    if url is None:
        return StopReason.INVALID_NEXT
    # A target may send us to another address of its own, and link to pages there.
    own = {url_origin(args.url), url_origin(trail.url)}
    return url if pages.other_origins or url_origin(url) in own else StopReason.OTHER_ORIGIN


def _here(args: FetchArgs, pages: Pages) -> str:
    if isinstance(pages, Cursors):
        return (args.page.cursor if args.page else None) or ""
    return args.url
