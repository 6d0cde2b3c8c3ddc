"""The work of the `fetch` kind: ask a URL, keep the whole body or what an expression picks out of it."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import TypeAdapter, ValidationError

from consumer.handlers.body import decode_text, read_body
from consumer.handlers.client import Client
from consumer.handlers.extract import extract
from consumer.handlers.failures import (
    BODY_NOT_STORABLE,
    UNEXPECTED_TYPE,
    Failure,
    failure_of_status,
    timed_out,
    unaccepted_status,
)
from consumer.handlers.fetch_question import fetch_question
from consumer.handlers.hops import Trail, final_answer
from shared.bodies import StoredBody, compress_body
from shared.kinds.check import Hop
from shared.kinds.fetch import FetchArgs, FetchMethod, FetchResult
from shared.kinds.media_types import accepts_media_type
from shared.kinds.statuses import accepts_status
from shared.messages import FieldValue, KnownCopy
from shared.outcomes import Outcome, Succeeded

MAX_CONTENT_TYPE_LENGTH = 200

_FIELD_VALUE = TypeAdapter[str](FieldValue)


async def fetch(args: FetchArgs, client: Client, trail: Trail | None = None) -> Outcome:
    """Return the body of a URL, or why there is none; a failure carries what was seen up to then.

    Args:
        args: What to fetch; of a page of many, `consumer.handlers.paged` makes them.
        client: What to ask with.
        trail: Is added to as answers come, for who wants to see more than the result has.
    """
    trail = trail or Trail(args.url)
    page = _Page()
    try:
        async with asyncio.timeout(args.timeout_seconds):
            failure = await _look(args, client, trail, page)
    except TimeoutError:
        failure = timed_out(args.timeout_seconds)
    if failure is None:
        return Succeeded(_result(trail, page), page.stored)
    result = None if failure.is_ours or trail.status is None else _result(trail, page)
    return failure.as_outcome(retry_after_seconds=trail.retry_after_seconds, result=result)


@dataclass(slots=True)
class _Page:
    """What is known of the final answer so far."""

    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    charset: str | None = None
    body_bytes: int = 0
    sha256: str | None = None
    body: str | None = None
    body_base64: str | None = None
    stored: StoredBody | None = None
    data: Any = None
    unchanged: KnownCopy | None = None


async def _look(args: FetchArgs, client: Client, trail: Trail, page: _Page) -> Failure | None:
    known = client.job.known if client.job and args.if_changed else None
    failure = await _ask(args, client, trail, page, known)
    if known and page.unchanged is None and trail.status == 304:
        # The URL leads elsewhere by now, to something whose version only happens to have the same name.
        return await _ask(args, client, trail, page, None)
    return failure


async def _ask(
    args: FetchArgs, client: Client, trail: Trail, page: _Page, known: KnownCopy | None
) -> Failure | None:
    question = fetch_question(args, client, known=known)
    if isinstance(question, Failure):
        return question
    async with final_answer(client, trail, question) as answer:
        if isinstance(answer, Failure):
            return answer
        _note_headers(page, answer)
        if answer.status == 304 and known and len(trail.hops) == 1:
            page.unchanged = known
            return None
        if failure := _refusal(args, answer):
            return failure
        body = await read_body(answer, max_bytes=args.max_bytes)
        charset = answer.charset
    if isinstance(body, Failure):
        return body
    return await _keep(args, client, page, body, charset)


def _refusal(args: FetchArgs, answer: aiohttp.ClientResponse) -> Failure | None:
    """Return why the body of an answer is not even read."""
    if not accepts_status(args.statuses, answer.status):
        return failure_of_status(answer.status) or unaccepted_status(answer.status)
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
    text, page.charset = decode_text(body, charset) or (None, None)
    if args.extract is not None:
        data = await asyncio.to_thread(extract, text, args.extract)
        if isinstance(data, Failure):
            return data
        page.data = data
    elif len(body) > client.inline_body_bytes:
        return await _store(page, body)
    elif text is None:
        page.body_base64 = base64.b64encode(body).decode("ascii")
    else:
        page.body = text
    page.sha256 = hashlib.sha256(body).hexdigest()
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
    # Bytes that are not UTF-8 come as surrogates, which no JSON can carry.
    return declared.encode("utf-8", "replace").decode()[:MAX_CONTENT_TYPE_LENGTH]


def _validator(answer: aiohttp.ClientResponse, name: str) -> str | None:
    """Return a header that can be sent back as it came, or None."""
    try:
        return _FIELD_VALUE.validate_python(answer.headers.get(name))
    except ValidationError:
        return None


def _result(trail: Trail, page: _Page) -> dict[str, Any]:
    known = page.unchanged
    return FetchResult(
        status=trail.status or 0,
        final_url=trail.url,
        hops=[Hop.model_validate(hop) for hop in trail.hops],
        total_seconds=trail.total_seconds,
        content_type=page.content_type,
        charset=page.charset,
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
