"""The one HTTP session of a worker: guarded, without memory of cookies, without hidden repeats."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import NEEDS_CLEANUP_CLOSED
from yarl import URL

from consumer.egress import guarded_socket_factory
from consumer.http import fast, plain
from consumer.http.body_room import BodyRoom
from consumer.http.recording import RecordedRequest, Recording, RecordingConnector
from consumer.resolver import BoundedResolver
from shared.settings import Settings

KEEPALIVE_SECONDS = 1.0
"""Far below the idle limits of common servers (5 s at Node and Apache), so that few kept connections turn
out dead; and short, because a batch over thousands of hosts holds a socket of each for so long."""

DNS_CACHE_NAMES = 10_000

ACCEPT_ENCODING = "gzip, deflate, br"
"""What `consumer.http.body` can expand to the last byte."""

_IDLE_TOO_LONG = 408
# RFC 9110 section 9.2.2.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@asynccontextmanager
async def open_session(
    settings: Settings, *, resolver: AbstractResolver | None = None
) -> AsyncIterator["HttpSession"]:
    """Give the session that all handlers of a worker share, and close it at the end.

    The pool has no limit: the prefetch decides how many requests run at once, so that waiting for a
    connection never looks like a target's timeout. Connections are kept for a moment, since HEAD then GET,
    redirects and batches ask the same host again, and each new TLS handshake costs that host.

    Args:
        settings: Read for `http_plain`, `egress_allow`, `egress_deny_ports`, the `User-Agent` and the DNS.
        resolver: Looks names up; None is a `BoundedResolver`.
    """
    names = BoundedResolver.of(settings) if resolver is None else resolver
    connector = RecordingConnector(
        limit=0,
        socket_factory=guarded_socket_factory(settings.egress_allow, settings.egress_deny_ports),
        resolver=names,
        keepalive_timeout=KEEPALIVE_SECONDS,
        dns_cache_max_size=DNS_CACHE_NAMES,
        # Without it some versions of Python leak the transport of a TLS peer that never says goodbye.
        enable_cleanup_closed=NEEDS_CLEANUP_CLOSED,
    )
    async with (
        _closing(names),
        aiohttp.ClientSession(
            connector=connector,
            request_class=RecordedRequest,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            headers={
                "User-Agent": settings.full_user_agent,
                "Accept": "*/*",
                "Accept-Encoding": ACCEPT_ENCODING,
            },
        ) as session,
    ):
        send = plain.send_request if settings.http_plain else fast.send_request
        yield HttpSession(session, connector, send)


@asynccontextmanager
async def _closing(resolver: AbstractResolver) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await resolver.close()


class SendRequest(Protocol):
    """A way to send one request and wait for the header of the answer; `fast` and `plain` each have one.

    It follows no redirect, expands no body, sends no cookie and no credentials but those in `headers`, uses
    no proxy and repeats nothing.
    """

    async def __call__(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        recording: Recording,
    ) -> aiohttp.ClientResponse:
        """Return the answer, its body unread.

        Raises:
            aiohttp.ClientError: there was none.
            OSError: there was none, either.
        """


class HttpSession:
    """Sends requests over the connections of a worker.

    Attributes:
        connector: Makes the connections, each through the guard.
        bodies: What its large bodies may take together.
    """

    __slots__ = ("_send", "_session", "bodies", "connector")

    def __init__(
        self, session: aiohttp.ClientSession, connector: RecordingConnector, send: SendRequest
    ) -> None:
        """Make one; `open_session` does."""
        self.connector = connector
        self.bodies = BodyRoom()
        self._session = session
        self._send = send

    async def send_request(
        self, method: str, url: URL, *, headers: Mapping[str, str], body: bytes | None, recording: Recording
    ) -> aiohttp.ClientResponse:
        """Return the answer to one request, its body unread.

        A request that was dropped on a kept connection is sent again, once: the host may have closed it just
        then (RFC 9112 section 9.3.1). So is one that no HTTP answers there: it may be what the host sent too
        much of the answer before. A 408 is what load balancers say to an idle connection, and browsers repeat
        the request too (RFC 9110 section 15.5.9). On a new connection that would double the load of every
        host that answers by hanging up (blackbox_exporter issue 1453).

        Raises:
            aiohttp.ClientError: there was none.
            OSError: there was none, either.
        """
        session, send = self._session, self._send
        try:
            answer = await send(session, method, url, headers=headers, body=body, recording=recording)
            if answer.status != _IDLE_TOO_LONG or method not in _IDEMPOTENT or not recording.is_reused:
                return answer
            answer.close()
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError):
            if method not in _IDEMPOTENT or not recording.is_reused:
                raise
        return await send(session, method, url, headers=headers, body=body, recording=recording)
