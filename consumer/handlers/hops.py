"""Our own way through redirects: every hop asked once, guarded at the socket, recorded and timed."""

import string
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote_from_bytes, urljoin

import aiohttp
from yarl import URL

from consumer.handlers.client import Client, Question, basic_authorization
from consumer.handlers.client_errors import failure_of_error
from consumer.handlers.failures import (
    INVALID_URL,
    REDIRECT_INVALID,
    REDIRECT_LOOP,
    REDIRECT_REFUSED,
    REDIRECT_WITH_BODY,
    Failure,
    too_many_redirects,
)
from consumer.handlers.retry_after import honours_retry_after, retry_after_seconds
from consumer.handlers.visits import Visit
from shared.clock import utc_now
from shared.kinds.check import Hop
from shared.kinds.requests import Redirects, Robots
from shared.kinds.urls import normalize_url

REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True)
class Trail:
    """Every answer of one attempt, in order. It outlives whatever ends the attempt.

    Attributes:
        url: What was asked last.
        retry_after_seconds: What the last answer with a meaningful `Retry-After` asked for.
    """

    url: str
    hops: list[Hop] = field(default_factory=list)
    retry_after_seconds: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> int | None:
        """The status of the last answer, if there was any."""
        return self.hops[-1].status if self.hops else None

    @property
    def total_seconds(self) -> float:
        """How long the attempt has taken so far."""
        return round(time.monotonic() - self.started, 6)


@asynccontextmanager
async def final_answer(
    client: Client, trail: Trail, question: Question
) -> AsyncIterator[aiohttp.ClientResponse | Failure]:
    """Give the answer to a question, its body unread, or why there is none.

    Bodies on the way are not read. Headers, body and credentials of the question go to its own origin
    only, and credentials in a `Location` nowhere. https to http is followed; the hops show it.

    Args:
        trail: Is added to as answers come, so that a time limit loses none.
        question: With `max_redirects` 0 any redirect that is to be followed is a failure.
    """
    with Visit(client.gates) as visit:
        answer = await _follow(client, visit, trail, question)
        if isinstance(answer, Failure):
            yield answer
            return
        async with answer:
            yield answer


async def _follow(
    client: Client, visit: Visit, trail: Trail, question: Question
) -> aiohttp.ClientResponse | Failure:
    try:
        target, credentials = _without_credentials(URL(question.url, encoded=True))
    except ValueError:
        return INVALID_URL
    origin = target.origin()
    # What `auth` says comes after what the URL says, and wins.
    own = _Request(question.method, question.body, {**credentials, **question.headers})
    request = own
    asked: set[tuple[str, URL]] = set()
    for _ in range(question.max_redirects + 1):
        # The fragment is never sent, so two URLs that differ in it alone are one (RFC 9110 section 4.2.5).
        if (request.method, target.with_fragment(None)) in asked:
            return REDIRECT_LOOP
        asked.add((request.method, target.with_fragment(None)))
        trail.url = str(target)
        refused = await _may_ask(client, visit, target, question.robots)
        answer = refused or await _ask(client.session, visit, trail, target, request)
        if isinstance(answer, Failure) or not _leads_on(answer) or question.redirects is Redirects.REPORT:
            return answer
        # Unread: a body that has not fully arrived costs the connection, and nothing is waited for.
        answer.release()
        following = (
            REDIRECT_REFUSED if question.redirects is Redirects.REFUSE else _next_target(target, answer)
        )
        if isinstance(following, Failure):
            return following
        target, is_own = following, following.origin() == origin
        request = _next_request(request, answer.status, headers=own.headers if is_own else {})
        if request.body is not None and not is_own:
            return REDIRECT_WITH_BODY
    return too_many_redirects(question.max_redirects)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent to one target of the chain."""

    method: str
    body: bytes | None
    headers: Mapping[str, str] = field(repr=False)


async def _may_ask(client: Client, visit: Visit, target: URL, robots: Robots) -> Failure | None:
    if robots is Robots.RESPECT:
        visit.release()  # The turn before is over, and reading the file takes one of its own.
        ask = partial(_ask_once, client)
        if denied := await client.robots.denial(target, ask=ask, gates=client.gates):
            return denied
    return await visit.turn(str(target))


def _ask_once(
    client: Client, url: str, max_redirects: int
) -> AbstractAsyncContextManager[aiohttp.ClientResponse | Failure]:
    question = Question("GET", url, {"Accept-Encoding": "identity"}, max_redirects=max_redirects)
    return final_answer(client, Trail(url), question)


async def _ask(
    session: aiohttp.ClientSession, visit: Visit, trail: Trail, target: URL, request: _Request
) -> aiohttp.ClientResponse | Failure:
    asked = time.monotonic()
    try:
        answer = await session.request(
            request.method, target, headers=request.headers, data=request.body, allow_redirects=False
        )
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        failure = failure_of_error(error)
        visit.failed(failure)
        return failure
    seconds = round(time.monotonic() - asked, 6)
    trail.hops.append(Hop(method=request.method, url=trail.url, status=answer.status, seconds=seconds))
    wait = retry_after_seconds(answer.headers, now=utc_now()) if honours_retry_after(answer.status) else None
    trail.retry_after_seconds = trail.retry_after_seconds if wait is None else wait
    visit.answered(answer.status, retry_after_seconds=wait)
    return answer


def _leads_on(answer: aiohttp.ClientResponse) -> bool:
    return answer.status in REDIRECTS and "Location" in answer.headers


def _next_request(request: _Request, status: int, *, headers: Mapping[str, str]) -> _Request:
    """Return what is asked after a redirect, RFC 9110 section 15.4: 301, 302 and 303 drop the body."""
    if (status == 303 and request.method != "HEAD") or (status in {301, 302} and request.method == "POST"):
        return _Request("GET", None, headers)
    return _Request(request.method, request.body, headers)


def _next_target(current: URL, answer: aiohttp.ClientResponse) -> URL | Failure:
    location = answer.headers["Location"]
    # aiohttp hands over bytes beyond ASCII as surrogates or UTF-8; browsers percent-encode them.
    octets = location.encode("utf-8", "surrogateescape")
    reference = quote_from_bytes(octets, safe=string.printable)
    try:
        target = URL(normalize_url(urljoin(str(current), reference)), encoded=True)
    except ValueError:
        return REDIRECT_INVALID
    target, _ = _without_credentials(target)
    # A redirect without a fragment inherits the one it came from (RFC 9110 section 10.2.2).
    return target if target.raw_fragment else target.with_fragment(current.fragment or None)


def _without_credentials(url: URL) -> tuple[URL, dict[str, str]]:
    if url.user is None and url.password is None:
        return url, {}
    return url.with_user(None), {"Authorization": basic_authorization(url.user or "", url.password or "")}
