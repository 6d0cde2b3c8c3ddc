"""Our own way through redirects: every hop asked once, guarded at the socket, recorded and timed."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType, TracebackType
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from consumer.handlers.asking import ask
from consumer.handlers.client import Client, Question
from consumer.handlers.client_errors import failure_of_error
from consumer.handlers.failures import (
    CONNECT_TIMEOUT,
    DNS_TIMEOUT,
    FIRST_BYTE_TIMEOUT,
    INVALID_URL,
    REDIRECT_DOWNGRADE,
    REDIRECT_LOOP,
    REDIRECT_REFUSED,
    REDIRECT_WITH_BODY,
    TLS_TIMEOUT,
    Failure,
    too_many_redirects,
)
from consumer.handlers.recording import Phase, Recording, record
from consumer.handlers.redirects import leads_on, next_target, without_credentials
from consumer.handlers.retry_after import honours_retry_after, retry_after_seconds
from consumer.handlers.visits import Visit
from shared.clock import utc_now
from shared.kinds.check import HopJson, TimingsJson
from shared.kinds.requests import Redirects, Robots

_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())


@dataclass(slots=True)
class Trail:
    """Every answer of one attempt, in order. It outlives whatever ends the attempt.

    Attributes:
        url: What was asked last.
        retry_after_seconds: What the last answer with a meaningful `Retry-After` asked for.
        headers: Of the last answer.
        redirects_to_http: Whether a redirect led from https to http.
    """

    url: str
    hops: list[HopJson] = field(default_factory=list)
    retry_after_seconds: float | None = None
    headers: CIMultiDictProxy[str] = field(default_factory=lambda: _NO_HEADERS)
    started: float = field(default_factory=time.monotonic)
    redirects_to_http: bool = False
    _recording: Recording | None = None
    _chain_starts_at: int = 0

    @property
    def recording(self) -> Recording:
        """Of the request that was made last."""
        if self._recording is None:
            self._recording = Recording()
        return self._recording

    def begin_request(self, recording: Recording) -> None:
        """Note that a request is made, and recorded there."""
        self._recording = record(recording)

    @property
    def timings(self) -> TimingsJson:
        """Of the request that was made last."""
        return self.recording.timings

    @property
    def status(self) -> int | None:
        """The status of the last answer, if there was any."""
        return self.hops[-1]["status"] if self.hops else None

    @property
    def total_seconds(self) -> float:
        """How long the attempt has taken so far."""
        return round(time.monotonic() - self.started, 6)

    @property
    def latency_seconds(self) -> float:
        """How long the last chain of requests took to its answer, bodies left out."""
        return sum(hop["seconds"] for hop in self.hops[self._chain_starts_at :])

    def begin_chain(self) -> None:
        """Note that redirects begin anew, with another method."""
        self._chain_starts_at = len(self.hops)

    def end_body(self) -> None:
        """Note that the body of the last answer is there; the time for it belongs to its hop."""
        self.recording.end()
        self.hops[-1]["timings"] = self.recording.timings


def final_answer(
    client: Client, trail: Trail, question: Question
) -> AbstractAsyncContextManager[aiohttp.ClientResponse | Failure]:
    """Give the answer to a question, its body unread, or why there is none.

    Bodies on the way are not read. Headers, body and credentials of the question go to its own origin
    only, and credentials in a `Location` nowhere. https to http is followed unless the question forbids
    it, without them, since it is another origin; the trail has a mark of it.

    Args:
        trail: Is added to as answers come, so that a time limit loses none.
        question: With `max_redirects` 0 any redirect that is to be followed is a failure.
    """
    return _FinalAnswer(client, trail, question)


class _FinalAnswer:
    # A class, and no generator, because every request passes here.
    __slots__ = ("_answer", "_client", "_question", "_trail", "_visit")

    def __init__(self, client: Client, trail: Trail, question: Question) -> None:
        self._client = client
        self._trail = trail
        self._question = question
        self._visit = Visit(client.gates)
        self._answer: aiohttp.ClientResponse | Failure | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse | Failure:
        self._trail.begin_chain()
        try:
            self._answer = await _follow(self._client, self._visit, self._trail, self._question)
        except BaseException:
            self._visit.release()
            raise
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if isinstance(self._answer, aiohttp.ClientResponse):
                # What is left of the body costs the connection, and nobody waits for that.
                self._answer.release()
        finally:
            self._visit.release()


async def _follow(
    client: Client, visit: Visit, trail: Trail, question: Question
) -> aiohttp.ClientResponse | Failure:
    try:
        own_target, credentials = without_credentials(URL(question.url, encoded=True))
    except ValueError:
        return INVALID_URL
    target = own_target
    # What `auth` says comes after what the URL says, and wins.
    own = _Request(question.method, question.body, {**credentials, **question.headers})
    request = own
    asked: set[tuple[str, URL]] = set()
    for _ in range(question.max_redirects + 1):
        if asked and _what(request, target) in asked:
            return REDIRECT_LOOP
        trail.url = str(target)
        refused = None
        if question.robots is Robots.RESPECT or not visit.has_first_turn(trail.url):
            refused = await _may_ask(client, visit, target, question.robots)
        answer = refused or await _ask(
            client.session, visit, trail, target=target, request=request, question=question
        )
        if (
            isinstance(answer, Failure)
            or not leads_on(answer.status, answer.headers)
            or question.redirects is Redirects.REPORT
        ):
            return answer
        asked.add(_what(request, target))
        # Unread: a body that has not fully arrived costs the connection, and nothing is waited for.
        answer.release()
        following = _lead_on(trail, question, target, answer)
        if isinstance(following, Failure):
            return following
        target, is_own = following, following.origin() == own_target.origin()
        request = _next_request(request, answer.status, headers=own.headers if is_own else {})
        if request.body is not None and not is_own:
            return REDIRECT_WITH_BODY
    return too_many_redirects(question.max_redirects)


def _what(request: "_Request", target: URL) -> tuple[str, URL]:
    # The fragment is never sent, so two URLs that differ in it alone are one (RFC 9110 section 4.2.5).
    return request.method, target.with_fragment(None)


def _lead_on(trail: Trail, question: Question, target: URL, answer: aiohttp.ClientResponse) -> URL | Failure:
    if question.redirects is Redirects.REFUSE:
        return REDIRECT_REFUSED
    following = next_target(target, answer.headers)
    if isinstance(following, Failure) or (target.scheme, following.scheme) != ("https", "http"):
        return following
    trail.redirects_to_http = True
    return following if question.allow_downgrade else REDIRECT_DOWNGRADE


class _Request(NamedTuple):
    """What is sent to one target of the chain."""

    method: str
    body: bytes | None
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"_Request({self.method!r})"


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
    session: aiohttp.ClientSession,
    visit: Visit,
    trail: Trail,
    *,
    target: URL,
    request: _Request,
    question: Question,
) -> aiohttp.ClientResponse | Failure:
    # The clock has the limit for connecting; the recording sets it to the next one.
    clock = asyncio.timeout(question.connect_timeout_seconds) if question.is_timed else None
    trail.begin_request(Recording(question.first_byte_timeout_seconds, clock))
    try:
        asking = ask(session, request.method, target, headers=request.headers, body=request.body)
        answer = await (asking if clock is None else _within(clock, asking))
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        trail.recording.clock = None
        failure = failure_of_error(error)
        # aiohttp has one limit, and one error, for TCP and TLS.
        is_late = (clock is not None and clock.expired()) or failure is CONNECT_TIMEOUT
        failure = _TOO_LATE.get(trail.recording.phase, failure) if is_late else failure
        visit.failed(failure)
        return failure
    trail.recording.answer()
    trail.headers = answer.headers
    trail.hops.append(_hop(trail, target, request, answer))
    wait = retry_after_seconds(answer.headers, now=utc_now()) if honours_retry_after(answer.status) else None
    trail.retry_after_seconds = trail.retry_after_seconds if wait is None else wait
    visit.answered(answer.status, retry_after_seconds=wait)
    return answer


async def _within(
    clock: asyncio.Timeout, asking: Awaitable[aiohttp.ClientResponse]
) -> aiohttp.ClientResponse:
    async with clock:
        return await asking


_TOO_LATE: Mapping[Phase, Failure] = MappingProxyType(
    {
        Phase.DNS: DNS_TIMEOUT,
        Phase.CONNECT: CONNECT_TIMEOUT,
        Phase.TLS: TLS_TIMEOUT,
        Phase.ANSWER: FIRST_BYTE_TIMEOUT,
    }
)


def _hop(trail: Trail, target: URL, request: _Request, answer: aiohttp.ClientResponse) -> HopJson:
    following = next_target(target, answer.headers) if leads_on(answer.status, answer.headers) else None
    recording = trail.recording
    return {
        "method": request.method,
        "url": trail.url,
        "status": answer.status,
        "seconds": recording.header_seconds,
        "ip": recording.ip,
        "family": recording.family,
        "location": str(following) if isinstance(following, URL) else None,
        "timings": recording.timings,
    }


def _next_request(request: _Request, status: int, *, headers: Mapping[str, str]) -> _Request:
    """Return what is asked after a redirect, RFC 9110 section 15.4: 301, 302 and 303 drop the body."""
    if (status == 303 and request.method != "HEAD") or (status in {301, 302} and request.method == "POST"):
        return _Request("GET", None, headers)
    return _Request(request.method, request.body, headers)
