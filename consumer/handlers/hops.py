"""Our own way through redirects: every hop asked once, guarded at the socket, recorded and timed."""

import base64
import string
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes, urljoin

import aiohttp
from yarl import URL

from consumer.handlers.client_errors import failure_of_error
from consumer.handlers.failures import (
    INVALID_URL,
    REDIRECT_INVALID,
    REDIRECT_LOOP,
    Failure,
    too_many_redirects,
)
from consumer.handlers.retry_after import honours_retry_after, retry_after_seconds
from shared.clock import utc_now
from shared.kinds.check import Hop
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
    session: aiohttp.ClientSession, trail: Trail, *, method: str, url: str, max_redirects: int
) -> AsyncIterator[aiohttp.ClientResponse | Failure]:
    """Give the first answer that is no redirect, its body unread, or why there is none.

    Bodies on the way are not read. Credentials in the URL go to its own origin only, and those in a
    `Location` nowhere. https to http is followed; the hops show it.

    Args:
        trail: Is added to as answers come, so that a time limit loses none.
        max_redirects: How many to follow; 0 follows none and makes any redirect a failure.
    """
    answer = await _follow(session, trail, method=method, url=url, max_redirects=max_redirects)
    if isinstance(answer, Failure):
        yield answer
        return
    async with answer:
        yield answer


async def _follow(
    session: aiohttp.ClientSession, trail: Trail, *, method: str, url: str, max_redirects: int
) -> aiohttp.ClientResponse | Failure:
    try:
        target, credentials = _without_credentials(URL(url, encoded=True))
    except ValueError:
        return INVALID_URL
    first_origin = target.origin()
    asked: set[tuple[str, URL]] = set()
    for _ in range(max_redirects + 1):
        # The fragment is never sent, so two URLs that differ in it alone are one (RFC 9110 section 4.2.5).
        if (method, target.with_fragment(None)) in asked:
            return REDIRECT_LOOP
        asked.add((method, target.with_fragment(None)))
        headers = credentials if target.origin() == first_origin else {}
        answer = await ask(session, trail, method=method, target=target, headers=headers)
        if isinstance(answer, Failure) or not _leads_on(answer):
            return answer
        method = _next_method(method, answer.status)
        following = _next_target(target, answer.headers["Location"])
        # Unread: a body that has not fully arrived costs the connection, and nothing is waited for.
        answer.release()
        if following is None:
            return REDIRECT_INVALID
        target = following
    return too_many_redirects(max_redirects)


async def ask(
    session: aiohttp.ClientSession,
    trail: Trail,
    *,
    method: str,
    target: URL,
    headers: dict[str, str],
    body: bytes | None = None,
) -> aiohttp.ClientResponse | Failure:
    """Return the answer to one request, redirect or not, its body unread, or why there is none."""
    trail.url = str(target)
    asked = time.monotonic()
    try:
        answer = await session.request(method, target, data=body, headers=headers, allow_redirects=False)
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        return failure_of_error(error)
    seconds = round(time.monotonic() - asked, 6)
    trail.hops.append(Hop(method=method, url=trail.url, status=answer.status, seconds=seconds))
    if honours_retry_after(answer.status):
        wait = retry_after_seconds(answer.headers, now=utc_now())
        trail.retry_after_seconds = trail.retry_after_seconds if wait is None else wait
    return answer


def _leads_on(answer: aiohttp.ClientResponse) -> bool:
    return answer.status in REDIRECTS and "Location" in answer.headers


def _next_method(method: str, status: int) -> str:
    """Return the method of the next request, RFC 9110 section 15.4."""
    if (status == 303 and method != "HEAD") or (status in {301, 302} and method == "POST"):
        return "GET"
    return method


def _next_target(current: URL, location: str) -> URL | None:
    # aiohttp hands over bytes beyond ASCII as surrogates or UTF-8; browsers percent-encode them.
    octets = location.encode("utf-8", "surrogateescape")
    reference = quote_from_bytes(octets, safe=string.printable)
    try:
        target = URL(normalize_url(urljoin(str(current), reference)), encoded=True)
    except ValueError:
        return None
    target, _ = _without_credentials(target)
    # A redirect without a fragment inherits the one it came from (RFC 9110 section 10.2.2).
    return target if target.raw_fragment else target.with_fragment(current.fragment or None)


def _without_credentials(url: URL) -> tuple[URL, dict[str, str]]:
    if url.user is None and url.password is None:
        return url, {}
    pair = f"{url.user or ''}:{url.password or ''}"
    # RFC 7617, with UTF-8, which is what servers of today expect.
    return url.with_user(None), {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
