"""The work of the `fetch` kind: request a URL, keep the whole body or what an expression picks out of it."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from pydantic import TypeAdapter, ValidationError

from consumer.compute.answers import Flaw, KeptBody
from consumer.compute.keeping import is_small_json, keep_body, pick, pick_at_once
from consumer.compute.shares import Names
from consumer.deadlines import time_limit
from consumer.http.body import read_body
from consumer.http.body_room import HeldRoom
from consumer.http.client import Client, HttpRequest, http_request
from consumer.http.echoes import masked_body, masked_headers, masked_outcome
from consumer.http.failures import (
    BODY_NOT_STORABLE,
    PERMIT_TOO_LATE,
    UNEXPECTED_TYPE,
    Failure,
    failure_of_flaw,
    failure_of_status,
    timed_out,
    unaccepted_status,
)
from consumer.http.header_fields import asks_to_wait
from consumer.http.markup import markup_of
from consumer.http.redirect_chain import RedirectChain, final_answer
from shared import exact_json
from shared.bodies import StoredBody
from shared.kinds.acceptance import accepts_media_type, accepts_status
from shared.kinds.check import Hop
from shared.kinds.fetch import NOT_IDEMPOTENT, FetchArgs, FetchMethod, FetchResult
from shared.messages import FieldValue, KnownCopy
from shared.outcomes import Outcome, Succeeded
from shared.redaction import NO_ECHOES, Echoes

MAX_CONTENT_TYPE_LENGTH = 200

_FIELD_VALUE = TypeAdapter[str](FieldValue)


@dataclass(slots=True)
class Fetched:
    """What is known of the final answer so far.

    Attributes:
        data: What was picked out, as JSON.
    """

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
    data: bytes = b"null"
    unchanged: KnownCopy | None = None
    echoes: Echoes = NO_ECHOES


async def fetch(
    args: FetchArgs, client: Client, chain: RedirectChain | None = None, page: Fetched | None = None
) -> Outcome:
    """Return the body of a URL, or why there is none; a failure carries what was seen up to then.

    Args:
        args: What to fetch; `consumer.handlers.paged_fetch` makes them for one page of many.
        client: What to request it with.
        chain: Grows as answers come, for callers that need more than the result has.
        page: The same for what the answer brings.
    """
    chain = chain or RedirectChain(args.url)
    page = page or Fetched()
    try:
        with time_limit(args.timeout_seconds):
            failure = await _try(args, client, chain, page)
    except TimeoutError:
        failure = PERMIT_TOO_LATE if chain.awaits_permit else timed_out(args.timeout_seconds)
    if failure is None:
        return masked_outcome(page.echoes, Succeeded(_result(chain, page), page.stored))
    result = None if failure.is_ours or chain.status is None else _result(chain, page)
    outcome = failure.as_outcome(retry_after_seconds=chain.retry_after_seconds, result=result)
    return masked_outcome(page.echoes, outcome)


async def _try(args: FetchArgs, client: Client, chain: RedirectChain, page: Fetched) -> Failure | None:
    known = client.job.known if client.job and args.if_changed else None
    failure = await _request(args, client, chain, page, known)
    if known and page.unchanged is None and chain.status == 304:
        # The URL leads elsewhere by now, where another version happens to have the same name.
        return await _request(args, client, chain, page, None)
    return failure


async def _request(
    args: FetchArgs, client: Client, chain: RedirectChain, page: Fetched, known: KnownCopy | None
) -> Failure | None:
    request = await _request_of(args, client, known=known)
    if isinstance(request, Failure):
        return request
    page.echoes = request.echoes
    with client.session.bodies.hold() as held:
        return await _ask(args, client, chain, page, request, known=known, held=held)


async def _ask(
    args: FetchArgs,
    client: Client,
    chain: RedirectChain,
    page: Fetched,
    request: HttpRequest,
    *,
    known: KnownCopy | None,
    held: HeldRoom,
) -> Failure | None:
    async with final_answer(client, chain, request) as answer:
        if isinstance(answer, Failure):
            return answer
        # The next page's place is read out of them, too.
        chain.headers = masked_headers(page.echoes, chain.headers)
        _note_headers(page, answer)
        if answer.status == 304 and known and len(chain.hops) == 1:
            page.unchanged = known
            return None
        if failure := _refusal(args, answer):
            return failure
        body = await read_body(answer, max_bytes=args.max_bytes, held=held)
        charset = answer.charset
    body = body if isinstance(body, Failure) else await masked_body(client, chain.url, page.echoes, body)
    if isinstance(body, Failure):
        return body
    return await _keep(args, client, page, body, charset, names=client.names(chain.url))


async def _request_of(args: FetchArgs, client: Client, *, known: KnownCopy | None) -> HttpRequest | Failure:
    """Return the request to make; a header that the job sets itself wins.

    Args:
        args: What to fetch.
        client: Its secrets are filled in; its job names the request.
        known: A copy; with it the target is asked only for what has changed since.
    """
    content, media_type = args.content() or (None, None)
    request = await http_request(args, client.secrets, method=args.method, body=content, job=client.job)
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
    args: FetchArgs, client: Client, page: Fetched, body: bytes, charset: str | None, *, names: Names
) -> Failure | None:
    if args.method is FetchMethod.HEAD:
        return None
    page.body_bytes = len(body)
    if args.extract is not None:
        return await _pick(args.extract, client, page, body, charset, names=names)
    is_shown = len(body) <= client.inline_body_bytes
    asked = (body, page.content_type, charset, markup_of(page.content_type))
    if len(body) <= LARGEST_READ_AT_ONCE:
        kept: KeptBody | Failure = keep_body(*asked, is_shown=is_shown)
    else:
        kept = await client.compute.run(names, keep_body, *asked, is_shown=is_shown)
    return kept if isinstance(kept, Failure) else _show(page, body, kept, is_shown=is_shown)


LARGEST_READ_AT_ONCE = 65_536
"""A larger body is decoded, and compressed, in a process of its own; this one takes 2 ms."""


def _show(page: Fetched, body: bytes, kept: KeptBody, *, is_shown: bool) -> Failure | None:
    page.charset, page.sha256 = kept.charset, kept.sha256
    if not is_shown:
        if kept.content is None:
            page.sha256 = None
            return BODY_NOT_STORABLE
        page.stored = StoredBody(
            content_type=page.content_type,
            charset=page.charset,
            size=len(body),
            sha256=kept.sha256,
            content=kept.content,
        )
    elif kept.text is None:
        page.body_base64 = base64.b64encode(body).decode("ascii")
    else:
        page.body = kept.text
    return None


async def _pick(
    expression: str, client: Client, page: Fetched, body: bytes, label: str | None, *, names: Names
) -> Failure | None:
    picked = pick_at_once(body, label, expression) if is_small_json(body) else None
    if picked is None:
        found = await client.compute.run(names, pick, body, label, expression)
        if isinstance(found, Failure):
            return found
        picked = found
    page.sha256, data = picked
    if isinstance(data, Flaw):
        return failure_of_flaw(data)
    page.data, page.charset, page.has_replacements = data.data, data.charset, not data.is_exact
    return None


def _note_headers(page: Fetched, answer: aiohttp.ClientResponse) -> None:
    page.content_type = _content_type(answer, page.echoes)
    page.etag = _validator(answer, "ETag")
    page.last_modified = _validator(answer, "Last-Modified")


def _content_type(answer: aiohttp.ClientResponse, echoes: Echoes) -> str | None:
    declared = answer.headers.get("Content-Type")
    if declared is None:
        return None
    # Bytes that are not UTF-8 come as surrogates, which JSON cannot carry.
    return echoes.text(declared.encode("utf-8", "replace").decode())[:MAX_CONTENT_TYPE_LENGTH]


def _validator(answer: aiohttp.ClientResponse, name: str) -> str | None:
    """Return a header that can be sent back as it came, or None."""
    try:
        return _FIELD_VALUE.validate_python(answer.headers.get(name))
    except ValidationError:
        return None


MOST_VALUES_READ = 10_000
"""Data with more values go into the report as JSON: to make values of them takes 0.2 s for 1 MiB."""


def data_value(data: bytes) -> Any:
    """Return data for a result: as a value, or as JSON that goes into the report as it is."""
    few = exact_json.count_values(data) <= MOST_VALUES_READ
    return exact_json.loads(data) if few else orjson.Fragment(data)


def _result(chain: RedirectChain, page: Fetched) -> dict[str, Any]:
    known = page.unchanged
    result = FetchResult(
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
        etag=page.etag or (known.etag if known else None),
        last_modified=page.last_modified or (known.last_modified if known else None),
        not_modified=known is not None,
        unchanged_since=known.job_id if known else None,
    ).model_dump(mode="json")
    return {**result, "data": data_value(page.data)}
