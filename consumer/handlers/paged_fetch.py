"""The work of a `fetch` with `pages`: fetch one page, keep its items, and say which pages follow it.

A job fetches one page only. The recorder makes the jobs of the pages that follow.
"""

import base64
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_plus

from multidict import CIMultiDict, CIMultiDictProxy

from consumer.compute.answers import EXTRACT_FAILED, Flaw, KeptPage
from consumer.handlers.fetch import Fetched, data_value, fetch
from consumer.handlers.next_pages import FetchedPage, NextPages, key_digest, next_pages, offset_of
from consumer.http.client import Client
from consumer.http.failures import Failure, failure_of_flaw
from consumer.http.header_fields import next_link
from consumer.http.redirect_chain import RedirectChain
from shared import exact_json
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
from shared.origins import SAFE_METHODS, is_same_origin
from shared.outcomes import Failed, Outcome, Succeeded
from shared.programs import compile_expression
from shared.urls import InvalidReference, join_url, url_query, with_query, without_credentials

NO_ITEMS = Failure(
    "no_items", transient=False, explanation="The expression `items` finds no list on the first page."
)
NO_LIST = Failure(
    "no_items",
    transient=False,
    explanation="The page lacks the list that `items` takes: it may be an error message. If the target leaves"
    " out a list that is empty, say so with items || `[]`.",
)

_NUMBER = re.compile(r"\s*\+?([0-9]{1,16})\s*")
# RFC 9110 section 14.4: `items 0-99/1234`, `items */1234`; a total of `*` is unknown.
_CONTENT_RANGE = re.compile(r"\s*\S+\s+\S+/([0-9]{1,16})\s*")


async def fetch_or_page(args: FetchArgs, client: Client) -> Outcome:
    """Return the body of a URL; with `pages`, the items of one page and what follows it."""
    if args.pages is None:
        return await fetch(args, client)
    chain, page = RedirectChain(args.url), Fetched()
    outcome = await fetch(_request(args, args.pages), client, chain, page)
    if isinstance(outcome, Failed):
        if _is_behind_the_last(args, outcome):
            after = NextPages(0, StopReason.NOT_FOUND)
            return _outcome(args, outcome.result or {}, [], None, after, keys=None)
        if not _is_without_content(args, outcome):
            return outcome
        outcome, page.data = Succeeded(outcome.result or {}), b'{"items":[]}'
    elif not isinstance(outcome, Succeeded):
        return outcome
    return await _keep_all(args, client, outcome.result, page.data, chain)


MOST_VALUES_KEPT_AT_ONCE = 1_000
"""The digests of more items are made in a process of its own."""


async def _keep_all(
    args: FetchArgs, client: Client, result: dict[str, Any], data: bytes, chain: RedirectChain
) -> Outcome:
    header_bytes = sum(len(name) + len(value) for name, value in chain.headers.items())
    if exact_json.count_values(data) <= MOST_VALUES_KEPT_AT_ONCE and header_bytes <= _SMALL_HEADER_BYTES:
        return _keep(args, {**result, "data": exact_json.loads(data)}, chain)
    names = client.names(chain.url)
    headers = CIMultiDict(chain.headers)
    kept = await client.compute.run(names, keep_page, args, data, chain.url, headers, has_left=chain.has_left)
    if isinstance(kept, Failure):
        return kept.as_outcome()
    if isinstance(kept, Flaw):
        return failure_of_flaw(kept).as_outcome(result={**result, "data": None})
    return Succeeded(
        {**result, "data": data_value(kept.items), "page": kept.page},
        page=PageReport.model_validate(kept.report),
    )


# Links in them are read character by character.
_SMALL_HEADER_BYTES = 8_192


def keep_page(
    args: FetchArgs, data: bytes, url: str, headers: CIMultiDict[str], *, has_left: bool
) -> KeptPage | Flaw:
    """Return what is kept of a page, and what follows it; takes up to seconds.

    Args:
        args: Those of its job.
        data: What was picked out of it, as JSON.
        url: Where the redirects led.
        headers: Those of the answer.
        has_left: Whether they led to another origin on the way.
    """
    chain = RedirectChain(url, headers=CIMultiDictProxy(headers), has_left=has_left)
    outcome = _keep(args, {"data": exact_json.loads(data)}, chain)
    if isinstance(outcome, Failed):
        return Flaw(outcome.reason, outcome.explanation)
    assert outcome.page is not None
    items, page = outcome.result["data"], outcome.result["page"]
    return KeptPage(exact_json.dumps(items), page, outcome.page.model_dump(mode="json"))


def _request(args: FetchArgs, pages: Pages) -> FetchArgs:
    """Return the fetch of one page: its URL, and one expression that picks out all that is wanted."""
    # Each part compiles by itself, so none can reach out of its brackets.
    parts = [f"items: ({pages.items})", f"is_null: {_is_null(pages.items)}"]
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


def _is_null(expression: str) -> str:
    """Return an expression for whether what an expression takes its items from is there, and is null.

    So some languages write an empty list. Where it cannot be told it is null.
    """
    names = _names(compile_expression(expression))
    if not names or not all(map(_PLAIN_NAME.fullmatch, names)):
        return "`null`"
    *parents, name = [f'"{name}"' for name in names]
    parent = ".".join(parents) or "@"
    return f"type({parent}) == 'object' && contains(keys({parent}), `{name}`) && {parent}.{name} == `null`"


_PLAIN_NAME = re.compile(r"[\w -]+")
_TAKES_FROM_ITS_FIRST = frozenset({"projection", "filter_projection", "value_projection", "flatten", "pipe"})


def _names(node: Mapping[str, Any]) -> list[str] | None:
    """Return the names that lead to what an expression begins with; None when these are not all."""
    if node["type"] == "field":
        return [node["value"]]
    if node["type"] == "subexpression":
        parts = [_names(part) for part in node["children"]]
        return None if None in parts else [name for part in parts for name in part or ()]
    return _names(node["children"][0]) if node["type"] in _TAKES_FROM_ITS_FIRST else None


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
            offset = index * size_here if is_planned else offset_of(place)
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
    place, pages = args.page, args.pages
    if place is None or not isinstance(pages, PageNumbers | Offsets) or failed.reason not in _BEHIND_THE_LAST:
        return False
    # A page that the total promises is lost. Pages fuller than planned may be fewer.
    is_promised = place.last is not None and not place.items_before
    largest = max(place.size or 0, pages.size or 0)
    return not is_promised or place.index * largest >= (place.total or 0)


# There is no such page, the number is invalid, the range cannot be satisfied (RFC 9110 section 15.5).
_BEHIND_THE_LAST = frozenset({"http_404", "http_400", "http_416"})


def _is_without_content(args: FetchArgs, failed: Failed) -> bool:
    """Return whether a page is empty because its answer has no content by its status.

    In the middle of a row it must not be one that says in its body what follows.
    """
    status = (failed.result or {}).get("status")
    has_none = status in {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT} and failed.reason == "not_json"
    return has_none and (args.page is None or not isinstance(args.pages, Cursors | NextUrls))


def _keep(args: FetchArgs, result: dict[str, Any], chain: RedirectChain) -> Succeeded | Failed:
    pages = args.pages
    assert pages is not None
    data = result["data"] if isinstance(result["data"], dict) else {}
    following, url = data.get("next"), _next_url(args, pages, data, chain)
    items = data.get("items")
    if items is None and data.get("is_null") is True:
        items = []
    if items is None and args.page is not None:
        if data.get("is_null") is False and following is None and url is None:
            return NO_LIST.as_outcome(result={**result, "data": None})
        items = []
    if not isinstance(items, list):
        failure = NO_ITEMS if items is None else failure_of_flaw(EXTRACT_FAILED)
        return failure.as_outcome(result={**result, "data": None})
    page = FetchedPage(
        items=items,
        names=_item_names(pages, data, items),
        total=_total(pages, data, chain),
        cursor=following,
        next_url=url,
        here=_here(args, pages),
        is_foreign=chain.has_left,
    )
    after = next_pages(pages, args.page, page)
    return _outcome(args, result, items, page.total, after, keys=_keys(page.names, after))


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
    kept = {**result, "data": after.of(items), "page": page.model_dump(mode="json")}
    return Succeeded(kept, page=report)


def _item_names(pages: Pages, data: dict[str, Any], items: list[Any]) -> list[Any] | None:
    """Return what identifies each item; one without a key is identified by its whole content."""
    keys = data.get("keys")
    if pages.key is None or (not isinstance(keys, list) and items):
        return None
    return [item if key is None else key for key, item in zip(keys or [], items, strict=False)]


def _keys(names: list[Any] | None, after: NextPages) -> str | None:
    if names is None:
        return None
    return base64.b64encode(b"".join(map(key_digest, after.of(names)))).decode("ascii")


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
        url = without_credentials(join_url(reference, base=chain.url))
    except InvalidReference:
        return StopReason.INVALID_NEXT
    if not chain.has_left and is_same_origin(url, args.url):
        return url
    # A redirect's origin is not the job's: what it names, be it at the job's own, is a stranger's wish.
    may_follow = pages.other_origins and args.method in SAFE_METHODS
    return url if may_follow else StopReason.OTHER_ORIGIN


def _here(args: FetchArgs, pages: Pages) -> str:
    if isinstance(pages, Cursors):
        return (args.page.cursor if args.page else None) or ""
    return without_credentials(args.url)
