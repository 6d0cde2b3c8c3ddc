"""The work of the `fetch` kind: GET a URL, keep the whole body or what an expression picks out of it."""

import asyncio
import base64
from dataclasses import dataclass
from typing import Any

import aiohttp

from consumer.handlers.body import decode_text, read_body
from consumer.handlers.client import Client, question_of
from consumer.handlers.extract import extract
from consumer.handlers.failures import Failure, failure_of_status, timed_out
from consumer.handlers.hops import Trail, final_answer
from shared.kinds.fetch import FetchArgs, FetchResult
from shared.outcomes import Outcome, Succeeded

MAX_CONTENT_TYPE_LENGTH = 200


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
            failure = await _get(args, client, trail, page)
    except TimeoutError:
        failure = timed_out(args.timeout_seconds)
    if failure is None:
        return Succeeded(_result(trail, page))
    result = None if failure.is_ours or trail.status is None else _result(trail, page)
    return failure.as_outcome(retry_after_seconds=trail.retry_after_seconds, result=result)


@dataclass(slots=True)
class _Page:
    """What is known of the final answer so far."""

    content_type: str | None = None
    body_bytes: int = 0
    body: str | None = None
    body_base64: str | None = None
    data: Any = None


async def _get(args: FetchArgs, client: Client, trail: Trail, page: _Page) -> Failure | None:
    question = question_of(args, client.secrets, method="GET")
    if isinstance(question, Failure):
        return question
    async with final_answer(client, trail, question) as answer:
        if isinstance(answer, Failure):
            return answer
        page.content_type = _content_type(answer)
        if failure := failure_of_status(answer.status):
            return failure
        body = await read_body(answer, max_bytes=args.max_bytes)
        charset = answer.charset
    if isinstance(body, Failure):
        return body
    page.body_bytes = len(body)
    return await _keep(args, page, body, decode_text(body, charset))


async def _keep(args: FetchArgs, page: _Page, body: bytes, text: str | None) -> Failure | None:
    if args.extract is not None:
        data = await asyncio.to_thread(extract, text, args.extract)
        if isinstance(data, Failure):
            return data
        page.data = data
    elif text is None:
        page.body_base64 = base64.b64encode(body).decode("ascii")
    else:
        page.body = text
    return None


def _content_type(answer: aiohttp.ClientResponse) -> str | None:
    declared = answer.headers.get("Content-Type")
    if declared is None:
        return None
    # Bytes that are not UTF-8 come as surrogates, which no JSON can carry.
    return declared.encode("utf-8", "replace").decode()[:MAX_CONTENT_TYPE_LENGTH]


def _result(trail: Trail, page: _Page) -> dict[str, Any]:
    return FetchResult(
        status=trail.status or 0,
        final_url=trail.url,
        hops=trail.hops,
        total_seconds=trail.total_seconds,
        content_type=page.content_type,
        body_bytes=page.body_bytes,
        body=page.body,
        body_base64=page.body_base64,
        data=page.data,
    ).model_dump(mode="json")
