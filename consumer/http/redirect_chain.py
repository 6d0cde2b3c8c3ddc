"""A chain of requests from a URL to its final answer: each one polite, guarded, recorded and timed."""

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

from consumer.http.client import Client, HttpRequest
from consumer.http.cookies import ChainCookies, with_cookies
from consumer.http.failures import (
    CONNECT_FAILED,
    CONNECT_TIMEOUT,
    CONNECTION_RESET,
    DNS_TIMEOUT,
    FIRST_BYTE_TIMEOUT,
    INVALID_URL,
    REDIRECT_DOWNGRADE,
    REDIRECT_LOOP,
    REDIRECT_REFUSED,
    REDIRECT_WITH_BODY,
    TLS_INTERRUPTED,
    TLS_TIMEOUT,
    Failure,
    failure_of_error,
    host_without_permit,
    redirect_unsafe,
    too_many_redirects,
)
from consumer.http.handshakes import shown_certificates
from consumer.http.header_fields import honours_retry_after, leads_on, retry_after_seconds
from consumer.http.recording import Phase, Recording
from consumer.http.target import Target, redirect_target, split_credentials, target_of
from consumer.politeness.address_limiters import AddressBusy, AddressPermits, address_words
from consumer.politeness.host_limiter import PermitRequest, Priority, Refusal
from consumer.politeness.host_limiters import Permit
from shared.clock import utc_now
from shared.hosts import host_key
from shared.kinds.check import HopJson
from shared.kinds.requests import Redirects, Robots
from shared.origins import Barrier, across
from shared.outcomes import DeferralReason

_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())


@dataclass(slots=True)
class RedirectChain:
    """Every answer of one attempt, in order. It outlives whatever ends the attempt.

    Attributes:
        url: The URL that was requested last.
        retry_after_seconds: What the answer to the last request asked for with `Retry-After`; what a redirect
            asks for is over with the next request.
        headers: Those of the last answer.
        redirects_to_http: Whether a redirect led from https to http.
        has_left: Whether it has gone to another origin than its first URL's; it stays so when it returns.
        brings_fragment: Whether a redirect named a fragment, which took the place of that of the first URL.
        following: Where the last answer leads, or why it leads nowhere; None when it is no redirect.
        awaits_host: Whether a request waits for a permit for its host.
    """

    url: str
    hops: list[HopJson] = field(default_factory=list)
    retry_after_seconds: float | None = None
    headers: CIMultiDictProxy[str] = field(default_factory=lambda: _NO_HEADERS)
    started: float = field(default_factory=time.monotonic)
    redirects_to_http: bool = False
    has_left: bool = False
    brings_fragment: bool = False
    following: Target | Failure | None = None
    awaits_host: bool = False
    _recording: Recording | None = None
    _begins_at: int = 0

    @property
    def recording(self) -> Recording:
        """The recording of the last request."""
        if self._recording is None:
            self._recording = Recording()
        return self._recording

    @property
    def awaits_permit(self) -> bool:
        """Whether a request waits for a permit, so that what ends it now is no fault of the target."""
        return self.awaits_host or self.recording.phase is Phase.PERMIT

    @property
    def status(self) -> int | None:
        """The status of the last answer, if there was any."""
        return self.hops[-1]["status"] if self.hops else None

    @property
    def asks_us_to_wait(self) -> bool:
        """Whether the last answer says for how long it wants no further request; a redirect wants one."""
        return (self.status or 0) >= 400 and bool(self.retry_after_seconds)

    @property
    def total_seconds(self) -> float:
        """How long the attempt has taken so far."""
        return round(time.monotonic() - self.started, 6)

    @property
    def latency_seconds(self) -> float:
        """How long the requests since `begin` took to their answers, without bodies."""
        return sum(hop["seconds"] for hop in self.hops[self._begins_at :])

    def begin(self) -> None:
        """Note that the URL is requested from the start, with another method."""
        self._begins_at = len(self.hops)
        self.has_left = False
        self.brings_fragment = False

    def begin_request(self, recording: Recording) -> None:
        """Note that a request is made, with this recording."""
        self._recording = recording
        self.retry_after_seconds = None

    def end_body(self) -> None:
        """Note that the body of the last answer is there; its time belongs to the last hop."""
        self.recording.end()
        self.hops[-1]["timings"] = self.recording.timings


def final_answer(
    client: Client, chain: RedirectChain, request: HttpRequest
) -> AbstractAsyncContextManager[aiohttp.ClientResponse | Failure]:
    """Give the final answer to a request, its body unread, or why there is none.

    Bodies on the way are not read. What `shared.origins.across` does not name goes to the request's own
    origin only, and not there any more once the chain has left it: another one chose the URL then.
    Credentials in a `Location` go nowhere. Cookies that redirects set go back to their hosts, in this chain
    alone. A redirect from https to http is followed, as one to any other origin, unless the request forbids
    it; the chain notes it.

    Args:
        chain: Grows as answers come, so that a time limit loses none.
        request: With `max_redirects` 0, any redirect that is to be followed is a failure.
    """
    return _FinalAnswer(client, chain, request)


class _FinalAnswer:
    # A class, and no generator, because every request passes here.
    __slots__ = ("_answer", "_chain", "_client", "_polite", "_request")

    def __init__(self, client: Client, chain: RedirectChain, request: HttpRequest) -> None:
        self._client = client
        self._chain = chain
        self._request = request
        self._polite = PoliteRequest(client)
        self._answer: aiohttp.ClientResponse | Failure | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse | Failure:
        self._chain.begin()
        try:
            self._answer = await _follow(self._client, self._polite, self._chain, self._request)
        except BaseException:
            self._polite.release()
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
            self._polite.release()


async def _follow(
    client: Client, polite: "PoliteRequest", chain: RedirectChain, request: HttpRequest
) -> aiohttp.ClientResponse | Failure:
    try:
        url, credentials = split_credentials(request.url)
        own_target = target_of(url)
    except ValueError:
        return INVALID_URL
    # What `auth` says comes after what the URL says, and wins.
    own = _Message(request.method, request.body, {**credentials, **request.headers})
    target, message = own_target, own
    requested: set[tuple[str, URL, str]] = set()
    cookies: ChainCookies | None = None
    for _ in range(request.max_redirects + 1):
        if requested and _identity(message, target) in requested:
            return REDIRECT_LOOP
        chain.url = target.url
        answer = await _refusal(client, polite, chain, request, target) or await _send(
            client, polite, chain, target=target, message=message, request=request
        )
        if isinstance(answer, Failure) or chain.following is None or request.redirects is Redirects.REPORT:
            return answer
        requested.add(_identity(message, target))
        # Unread: a body that has not fully arrived costs the connection, and nothing is waited for.
        answer.release()
        cookies = _noted_cookies(cookies, answer, target)
        following = _allowed_target(chain, request, target, chain.following)
        if isinstance(following, Failure):
            return following
        chain.brings_fragment |= "#" in answer.headers["Location"]
        target = following
        message = _next_message(message, answer.status, own=own)
        leaves = not chain.has_left and following.wire.origin() != own_target.wire.origin()
        chain.has_left |= leaves
        if chain.has_left:
            crossing = _message_elsewhere(message, request)
            if isinstance(crossing, Failure):
                return crossing
            if leaves and _is_private(own, crossing):
                # They may stand for what stays behind, as that of a log-in does.
                cookies = None
            message = crossing
        message = _with_cookies(message, cookies, target)
    return too_many_redirects(request.max_redirects)


async def _refusal(
    client: Client, polite: "PoliteRequest", chain: RedirectChain, request: HttpRequest, target: Target
) -> Failure | None:
    """Return why a target may not be asked now, after waiting for a permit; None when it may."""
    if request.robots is Robots.RESPECT and (denied := await _robots_denial(client, polite, target.wire)):
        return denied
    if polite.has_first_permit(target.url):
        return None
    chain.awaits_host = True
    refusal = await polite.permit(target.url)
    chain.awaits_host = False
    return refusal


class _Message(NamedTuple):
    """What is sent to one target of the chain.

    Attributes:
        cookies: Those in the headers that were set on the way.
    """

    method: str
    body: bytes | None
    headers: Mapping[str, str]
    cookies: str = ""

    def __repr__(self) -> str:
        return f"_Message({self.method!r})"


def _identity(message: _Message, target: Target) -> tuple[str, URL, str]:
    # The fragment is never sent, so two URLs that differ in it alone are one (RFC 9110 section 4.2.5).
    return message.method, target.wire, message.cookies


def _noted_cookies(
    cookies: ChainCookies | None, answer: aiohttp.ClientResponse, target: Target
) -> ChainCookies | None:
    if "Set-Cookie" not in answer.headers:
        return cookies
    cookies = cookies or ChainCookies()
    cookies.note(answer.headers, URL(target.url, encoded=True))
    return cookies


def _with_cookies(message: _Message, cookies: ChainCookies | None, target: Target) -> _Message:
    sent = cookies.sent_to(URL(target.url, encoded=True)) if cookies else ""
    if not sent:
        return message
    return message._replace(headers=with_cookies(message.headers, sent), cookies=sent)


async def _robots_denial(client: Client, polite: "PoliteRequest", target: URL) -> Failure | None:
    polite.release()  # The permit before is over, and reading the file takes one of its own.
    read = partial(_robots_file, client)
    return await client.robots.denial(
        target,
        request=read,
        limiters=client.limiters,
        compute=client.compute,
        names=client.names(str(target)),
    )


def _robots_file(
    client: Client, url: str, max_redirects: int
) -> AbstractAsyncContextManager[aiohttp.ClientResponse | Failure]:
    request = HttpRequest("GET", url, {"Accept-Encoding": "identity"}, max_redirects=max_redirects)
    return final_answer(client, RedirectChain(url), request)


async def _send(
    client: Client,
    polite: "PoliteRequest",
    chain: RedirectChain,
    request: HttpRequest,
    *,
    target: Target,
    message: _Message,
) -> aiohttp.ClientResponse | Failure:
    # The clock has the limit for connecting; the recording sets it to the next one.
    clock = asyncio.timeout(request.connect_timeout_seconds) if request.is_timed else None
    recording = Recording(request.first_byte_timeout_seconds, clock, polite.addresses)
    chain.begin_request(recording)
    try:
        sending = client.session.send_request(
            message.method, target.wire, headers=message.headers, body=message.body, recording=recording
        )
        answer = await (sending if clock is None else _within(clock, sending))
    except AddressBusy as busy:
        recording.clock = None
        return polite.without_address(busy)
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        recording.clock = None
        failure = failure_of_error(error)
        # aiohttp has one limit, and one error, for TCP and TLS.
        is_late = (clock is not None and clock.expired()) or failure is CONNECT_TIMEOUT
        failure = _TOO_LATE.get(recording.phase, failure) if is_late else failure
        if recording.phase is Phase.TLS and failure in {CONNECT_FAILED, CONNECTION_RESET}:
            failure = TLS_INTERRUPTED  # To the event loop a host that hangs up then has reset the connection.
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            recording.certificate = next(iter(shown_certificates(error.certificate_error)), None)
        polite.failed(failure)
        return failure
    recording.answer()
    chain.headers = answer.headers
    leads = leads_on(answer.status, answer.headers)
    chain.following = redirect_target(target, answer.headers["Location"]) if leads else None
    chain.hops.append(_hop(chain, message, answer.status))
    wait = retry_after_seconds(answer.headers, now=utc_now()) if honours_retry_after(answer.status) else None
    chain.retry_after_seconds = wait
    polite.answered(answer.status, retry_after_seconds=wait)
    return answer


async def _within(
    clock: asyncio.Timeout, sending: Awaitable[aiohttp.ClientResponse]
) -> aiohttp.ClientResponse:
    async with clock:
        return await sending


_TOO_LATE: Mapping[Phase, Failure] = MappingProxyType(
    {
        Phase.DNS: DNS_TIMEOUT,
        Phase.CONNECT: CONNECT_TIMEOUT,
        Phase.TLS: TLS_TIMEOUT,
        Phase.ANSWER: FIRST_BYTE_TIMEOUT,
    }
)


def _hop(chain: RedirectChain, message: _Message, status: int) -> HopJson:
    recording, following = chain.recording, chain.following
    return {
        "method": message.method,
        "url": chain.url,
        "status": status,
        "seconds": recording.header_seconds,
        "ip": recording.ip,
        "family": recording.family,
        "location": following.url if isinstance(following, Target) else None,
        "timings": recording.timings,
    }


def _allowed_target(
    chain: RedirectChain, request: HttpRequest, current: Target, following: Target | Failure
) -> Target | Failure:
    if request.redirects is Redirects.REFUSE:
        return REDIRECT_REFUSED
    if isinstance(following, Failure) or (current.wire.scheme, following.wire.scheme) != ("https", "http"):
        return following
    chain.redirects_to_http = True
    return following if request.allow_downgrade else REDIRECT_DOWNGRADE


def _next_message(message: _Message, status: int, *, own: _Message) -> _Message:
    """Return what is sent after a redirect (RFC 9110 section 15.4): 301, 302 and 303 drop the body.

    With the body goes all that describes it, for the rest of the chain.
    """
    method, body, headers = message.method, message.body, own.headers
    if (status == 303 and method != "HEAD") or (status in {301, 302} and method == "POST"):
        method, body = "GET", None
    if method != own.method:
        headers = {name: value for name, value in headers.items() if not _describes_body(name.lower())}
    return _Message(method, body, headers)


def _describes_body(name: str) -> bool:
    # RFC 9110 section 15.4, item 2.1, and RFC 9530; a key names the one request whose repetition it guards.
    return name.startswith("content-") or name in {
        "digest",
        "repr-digest",
        "last-modified",
        "idempotency-key",
    }


def _message_elsewhere(message: _Message, request: HttpRequest) -> _Message | Failure:
    """Return what of a message goes to another origin, or why nothing does."""
    headers = {name: value for name, value in request.headers.items() if name not in request.secret_headers}
    crossing = across(message.method, headers, has_body=message.body is not None)
    if isinstance(crossing, Barrier):
        return REDIRECT_WITH_BODY if crossing is Barrier.BODY else redirect_unsafe(message.method)
    return _Message(message.method, None, crossing)


def _is_private(own: _Message, crossing: _Message) -> bool:
    return own.body is not None or own.headers.keys() != crossing.headers.keys()


class PoliteRequest:
    """Gives each request of a chain its permits, one after the other, and notes how hosts answer.

    The host's is given before the request, those of its addresses when one is dialled.
    """

    __slots__ = ("_client", "_permit", "addresses")

    def __init__(self, client: Client) -> None:
        """Begin a chain; no permit is asked for yet."""
        self._client = client
        self._permit: Permit | None = None
        self.addresses: AddressPermits | None = None

    def has_first_permit(self, url: str) -> bool:
        """Return whether the attempt came with a permit for this URL's host, and take it."""
        self.release()
        host = host_key(url)
        permit = None if host is None else self._client.first_permit.take(host)
        if permit is None:
            return False
        self._begin(permit)
        return True

    async def permit(self, url: str) -> Failure | None:
        """Return None when a request to this URL may start now, or why not.

        It goes before all jobs that wait, and waits for a moment itself, within the attempt's time.
        """
        host = host_key(url)
        if host is None:
            return None  # Sending it fails, and says why.
        seconds = self._client.first_permit.max_wait_seconds
        permit = await self._client.limiters.permit(host, PermitRequest(Priority.UNDER_WAY, seconds))
        if isinstance(permit, Refusal):
            return host_without_permit(permit.reason, host, permit.seconds)
        self._begin(permit)
        return None

    def without_address(self, busy: AddressBusy) -> Failure:
        """Return the failure of a request whose address has no permit."""
        assert self._permit is not None
        whom = address_words(busy.address, self._permit.host).rstrip(",")
        refusal = busy.refusal
        return host_without_permit(
            DeferralReason.BUSY if refusal is None else refusal.reason,
            whom,
            None if refusal is None else refusal.seconds,
        )

    def _begin(self, permit: Permit) -> None:
        client = self._client
        self._permit = permit
        client.first_permit.note_request(permit.host)
        if client.addresses.limits_nothing:
            # No address can be busy, so nothing gives the attempt back.
            client.first_permit.request = None
        else:
            self.addresses = AddressPermits(
                client.addresses, client.limiters, permit.host, client.first_permit
            )

    def answered(self, status: int, *, retry_after_seconds: float | None) -> None:
        """Note an answer for the ledger, and stay away at once where the host asks for it."""
        permit = self._permit
        if permit is None:
            return
        pause_seconds = 0.0
        if retry_after_seconds is not None and (status in {403, 429} or status >= 500):
            pause_seconds = retry_after_seconds
            permit.pause(pause_seconds)
        self._client.first_permit.note_answer(permit.host, _sort_of(status), pause_seconds)

    def failed(self, failure: Failure) -> None:
        """Note a request without an answer for the ledger.

        Only what concerns the whole host counts: that no connection could be made, for now. A name that does
        not exist and a bad certificate are answers.
        """
        # Something was found out, so the attempt has begun, though nothing was sent.
        self._client.first_permit.request = None
        if self._permit is not None and failure.before_sending and failure.transient and not failure.is_ours:
            self._client.first_permit.note_answer(self._permit.host, "silent")

    def release(self) -> None:
        """End the permit of the last request; its answer has been read, or is not wanted."""
        # The address first: who gets the host's permit next finds its address free.
        if self.addresses is not None:
            self.addresses.release()
            self.addresses = None
        if self._permit is not None:
            self._permit.release()
            self._permit = None


def _sort_of(status: int) -> str:
    """Return as what the ledger counts an answer of this status."""
    match status:
        case 429:
            return "too_many"
        case 503:
            return "busy"
        case _:
            return "broken" if status >= 500 else "good"
