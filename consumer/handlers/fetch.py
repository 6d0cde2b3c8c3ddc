"""The work of the `fetch` kind: request a URL, keep the whole body or what an expression picks out of it."""

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import TypeAdapter, ValidationError

from consumer.handlers.extract import extract
from consumer.handlers.json_body import read_json_body, text_label
from consumer.http.body import read_body
from consumer.http.client import Client, HttpRequest, http_request
from consumer.http.failures import (
    BODY_NOT_STORABLE,
    UNEXPECTED_TYPE,
    Failure,
    failure_of_status,
    timed_out,
    unaccepted_status,
)
from consumer.http.header_fields import asks_to_wait
from consumer.http.markup import markup_of
from consumer.http.redirect_chain import RedirectChain, final_answer
from consumer.http.text import decode_text
from shared.bodies import StoredBody, compress_body
from shared.kinds.acceptance import accepts_media_type, accepts_status
from shared.kinds.check import Hop
from shared.kinds.fetch import NOT_IDEMPOTENT, FetchArgs, FetchMethod, FetchResult
from shared.messages import FieldValue, KnownCopy
from shared.outcomes import Outcome, Succeeded

MAX_CONTENT_TYPE_LENGTH = 200

_FIELD_VALUE = TypeAdapter[str](FieldValue)


async def fetch(args: FetchArgs, client: Client, chain: RedirectChain | None = None) -> Outcome:
    """Return the body of a URL, or why there is none; a failure carries what was seen up to then.

    Args:
        args: What to fetch; `consumer.handlers.paged_fetch` makes them for one page of many.
        client: What to request it with.
        chain: Grows as answers come, for callers that need more than the result has.
    """
    chain = chain or RedirectChain(args.url)
    page = _Page()
    try:
        async with asyncio.timeout(args.timeout_seconds):
            failure = await _try(args, client, chain, page)
    except TimeoutError:
        failure = timed_out(args.timeout_seconds)
    if failure is None:
        return Succeeded(_result(chain, page), page.stored)
    result = None if failure.is_ours or chain.status is None else _result(chain, page)
    return failure.as_outcome(retry_after_seconds=chain.retry_after_seconds, result=result)


@dataclass(slots=True)
class _Page:
    """What is known of the final answer so far."""

    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    charset: str | None = None
    has_replacements: bool = False
    body_bytes: int = 0
    sha256: str | None = None
    body: str | None = None
    body_base64: str | None = None
    stored: StoredBody | None = None
    data: Any = None
    unchanged: KnownCopy | None = None


async def _try(args: FetchArgs, client: Client, chain: RedirectChain, page: _Page) -> Failure | None:
    known = client.job.known if client.job and args.if_changed else None
    failure = await _request(args, client, chain, page, known)
    if known and page.unchanged is None and chain.status == 304:
        # The URL leads elsewhere by now, where another version happens to have the same name.
        return await _request(args, client, chain, page, None)
    return failure


async def _request(
    args: FetchArgs, client: Client, chain: RedirectChain, page: _Page, known: KnownCopy | None
) -> Failure | None:
    request = await _request_of(args, client, known=known)
    if isinstance(request, Failure):
        return request
    async with final_answer(client, chain, request) as answer:
        if isinstance(answer, Failure):
            return answer
        _note_headers(page, answer)
        if answer.status == 304 and known and len(chain.hops) == 1:
            page.unchanged = known
            return None
        if failure := _refusal(args, answer):
            return failure
        body = await read_body(answer, max_bytes=args.max_bytes)
        charset = answer.charset
    if isinstance(body, Failure):
        return body
    return await _keep(args, client, page, body, charset)


async def _request_of(args: FetchArgs, client: Client, *, known: KnownCopy | None) -> HttpRequest | Failure:
    """Return the request to make; a header that the job sets itself wins.

    Args:
        args: What to fetch.
        client: Its secrets are filled in; its job names the request.
        known: A copy; with it the target is asked only for what has changed since.
    """
    content, media_type = args.content() or (None, None)
    request = await http_request(args, client.secrets, method=args.method, body=content)
    if isinstance(request, Failure):
        return request
    said = {name.lower() for name in request.headers}
    ours = {
        "Content-Type": media_type,
        "Accept": ", ".join(args.accept),
        "Idempotency-Key": _idempotency_key(args, client),
        **_conditions(known),
    }
    more = {name: value for name, value in ours.items() if value and name.lower() not in said}
    return request._replace(headers={**request.headers, **more})


def _idempotency_key(args: FetchArgs, client: Client) -> str | None:
    """Return the job's id as a structured string (draft-ietf-httpapi-idempotency-key-header section 2.1).

    A job runs at least once, so after a crash the request may be sent again; a target that knows the
    header does its work once.
    """
    if args.method not in NOT_IDEMPOTENT or client.job is None:
        return None
    return f'"{client.job.id}"'


def _conditions(known: KnownCopy | None) -> Mapping[str, str | None]:
    # Both, as RFC 9110 section 13.1.3 wants it: a server that knows ETags ignores the date.
    return {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified} if known else {}


def _refusal(args: FetchArgs, answer: aiohttp.ClientResponse) -> Failure | None:
    """Return why the body of an answer is not even read."""
    if not accepts_status(args.statuses, answer.status):
        asked = asks_to_wait(answer.status, answer.headers)
        return failure_of_status(answer.status, asks_to_wait=asked) or unaccepted_status(answer.status)
    has_no_body = "Content-Type" not in answer.headers and answer.content.at_eof()
    if not args.accept or has_no_body:
        return None
    is_accepted = accepts_media_type(args.accept, answer.headers.get("Content-Type"))
    return None if is_accepted else UNEXPECTED_TYPE


async def _keep(
    args: FetchArgs, client: Client, page: _Page, body: bytes, charset: str | None
) -> Failure | None:
    if args.method is FetchMethod.HEAD:
        return None
    page.body_bytes = len(body)
    if args.extract is not None:
        page.sha256 = hashlib.sha256(body).hexdigest()
        return await asyncio.to_thread(_pick, page, body, charset, args.extract)
    charset = text_label(body, page.content_type, charset)
    text, page.charset = decode_text(body, charset, markup_of(page.content_type)) or (None, None)
    if len(body) > client.inline_body_bytes:
        return await _store(page, body)
    if text is None:
        page.body_base64 = base64.b64encode(body).decode("ascii")
    else:
        page.body = text
    page.sha256 = hashlib.sha256(body).hexdigest()
    return None


def _pick(page: _Page, body: bytes, label: str | None, expression: str) -> Failure | None:
    read = read_json_body(body, label)
    if isinstance(read, Failure):
        return read
    page.charset, page.has_replacements = read.charset, not read.is_exact
    data = extract(read.document, expression)
    if isinstance(data, Failure):
        return data
    page.data = data
    return None


async def _store(page: _Page, body: bytes) -> Failure | None:
    stored = await asyncio.to_thread(
        compress_body, body, content_type=page.content_type, charset=page.charset
    )
    if stored is None:
        return BODY_NOT_STORABLE
    page.stored, page.sha256 = stored, stored.sha256
    return None


def _note_headers(page: _Page, answer: aiohttp.ClientResponse) -> None:
    page.content_type = _content_type(answer)
    page.etag = _validator(answer, "ETag")
    page.last_modified = _validator(answer, "Last-Modified")


def _content_type(answer: aiohttp.ClientResponse) -> str | None:
    declared = answer.headers.get("Content-Type")
    if declared is None:
        return None
    # Bytes that are not UTF-8 come as surrogates, which JSON cannot carry.
    return declared.encode("utf-8", "replace").decode()[:MAX_CONTENT_TYPE_LENGTH]


def _validator(answer: aiohttp.ClientResponse, name: str) -> str | None:
    """Return a header that can be sent back as it came, or None."""
    try:
        return _FIELD_VALUE.validate_python(answer.headers.get(name))
    except ValidationError:
        return None


def _result(chain: RedirectChain, page: _Page) -> dict[str, Any]:
    known = page.unchanged
    return FetchResult(
        status=chain.status or 0,
        final_url=chain.url,
        hops=[Hop.model_validate(hop) for hop in chain.hops],
        total_seconds=chain.total_seconds,
        content_type=page.content_type,
        charset=page.charset,
        has_replacements=page.has_replacements,
        body_bytes=page.body_bytes,
        sha256=page.sha256,
        body=page.body,
        body_base64=page.body_base64,
        body_stored=page.stored is not None,
        data=page.data,
        etag=page.etag or (known.etag if known else None),
        last_modified=page.last_modified or (known.last_modified if known else None),
        not_modified=known is not None,
        unchanged_since=known.job_id if known else None,
    ).model_dump(mode="json")
