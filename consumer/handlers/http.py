"""The one HTTP session of a worker: guarded, without memory of cookies, without hidden repeats."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from consumer.egress import guarded_socket_factory
from consumer.handlers.connector import RecordingConnector
from consumer.resolver import BoundedResolver
from shared.settings import Settings

KEEPALIVE_SECONDS = 1.0
"""Far below the idle limits of common servers (5 s at Node and Apache), so that few kept connections turn
out dead; and short, because a batch over thousands of hosts holds a socket of each for so long."""

DNS_CACHE_NAMES = 10_000

ACCEPT_ENCODING = "gzip, deflate, br"
"""What `consumer.handlers.body` can expand to the last byte."""


@asynccontextmanager
async def open_session(
    settings: Settings, *, resolver: AbstractResolver | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Give the session that all handlers of a worker share, and close it at the end.

    The pool has no limit: how many requests run at once is decided by the prefetch, so that waiting
    for a turn never looks like a target's timeout. Connections are kept for a moment, since HEAD then GET,
    redirects and batches ask the same host again, and a new TLS handshake each time is a cost to that host.
    Requests are made by `consumer.handlers.asking`.

    Args:
        settings: Read for `egress_allow`, `egress_deny_ports`, the `User-Agent` and those of the DNS.
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
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            headers={
                "User-Agent": settings.full_user_agent,
                "Accept": "*/*",
                "Accept-Encoding": ACCEPT_ENCODING,
            },
        ) as session,
    ):
        yield session


@asynccontextmanager
async def _closing(resolver: AbstractResolver) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await resolver.close()
