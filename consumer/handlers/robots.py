"""Reading robots.txt for the jobs that respect it: once an origin, by the same guarded and polite way."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from consumer.handlers.body import read_body
from consumer.handlers.client_errors import failure_of_error
from consumer.handlers.failures import ROBOTS_DENIED, ROBOTS_UNREACHABLE, Failure
from consumer.politeness.gates import Gates
from consumer.politeness.robots import MAX_FILE_BYTES, RobotsCache, RobotsRules
from shared.hosts import MIN_RATE_PER_SECOND, host_key

MAX_REDIRECTS = 5
"""RFC 9309 section 2.3.1.2."""

LONGEST_CRAWL_DELAY_SECONDS = 300.0

Ask = Callable[[str, int], AbstractAsyncContextManager[aiohttp.ClientResponse | Failure]]
"""Asks for a URL with a limit of redirects."""


class RobotsFiles:
    """The robots.txt files of all origins that jobs of this worker respect."""

    def __init__(self, user_agent: str = "Retriever") -> None:
        """Make one that has read nothing; `user_agent` is what we call ourselves, its product comes first."""
        self._token = user_agent.partition("/")[0].strip()
        self._cache = RobotsCache()
        self._reading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def denial(self, target: URL, *, ask: Ask, gates: Gates) -> Failure | None:
        """Return None when a URL may be asked for, or why not.

        Args:
            target: The URL that is about to be asked for.
            ask: How its origin's robots.txt is read, if it is not known.
            gates: Are told of a crawl delay.
        """
        origin = str(target.origin())
        lock = self._reading.setdefault(origin, asyncio.Lock())
        # One reads, the others of the origin wait. When that one is cancelled, the next reads.
        async with lock:
            rules = self._cache.get(origin, now=time.monotonic()) or await self._read(origin, ask)
        if isinstance(rules, Failure):
            return rules
        _keep_crawl_delay(rules, origin, gates)
        if not rules.is_reachable:
            return ROBOTS_UNREACHABLE
        return None if rules.allows(str(target.with_fragment(None))) else ROBOTS_DENIED

    async def _read(self, origin: str, ask: Ask) -> RobotsRules | Failure:
        rules = await self._ask_for(origin, ask)
        if isinstance(rules, RobotsRules):
            self._cache.put(origin, rules, now=time.monotonic())
        return rules

    async def _ask_for(self, origin: str, ask: Ask) -> RobotsRules | Failure:
        async with ask(f"{origin}/robots.txt", MAX_REDIRECTS) as answer:
            if isinstance(answer, Failure):
                return self._without_answer(answer)
            if answer.status == 429 or answer.status >= 500:
                return RobotsRules(self._token, is_reachable=False)
            if not 200 <= answer.status < 300:
                # RFC 9309 section 2.3.1.3: a file that is not there allows everything.
                return RobotsRules(self._token)
            text = await _text(answer)
        if isinstance(text, Failure):
            return RobotsRules(self._token, is_reachable=False)
        return await asyncio.to_thread(RobotsRules.parse, text, token=self._token)

    def _without_answer(self, failure: Failure) -> RobotsRules | Failure:
        if failure.before_sending:
            # The request itself would meet the same, and its name says more.
            return failure
        # More redirects than five, or in a circle, are like no file (section 2.3.1.2).
        return RobotsRules(self._token, is_reachable=not failure.transient)


def _keep_crawl_delay(rules: RobotsRules, origin: str, gates: Gates) -> None:
    delay_seconds, host = rules.crawl_delay_seconds, host_key(origin)
    if delay_seconds and host:
        gates.limit_rate(host, max(1 / min(delay_seconds, LONGEST_CRAWL_DELAY_SECONDS), MIN_RATE_PER_SECOND))


async def _text(answer: aiohttp.ClientResponse) -> str | Failure:
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        # A compressed file that is larger than the limit is not read at all.
        body = await read_body(answer, max_bytes=MAX_FILE_BYTES)
        return body if isinstance(body, Failure) else body.decode("utf-8-sig", "replace")
    octets = bytearray()
    try:
        async for chunk in answer.content.iter_chunked(MAX_FILE_BYTES):
            octets += chunk
            if len(octets) >= MAX_FILE_BYTES:
                # The rest is cut off, and the line that the cut goes through with it.
                octets = octets[:MAX_FILE_BYTES].rpartition(b"\n")[0]
                break
    except (aiohttp.ClientError, OSError) as error:
        return failure_of_error(error)
    return octets.decode("utf-8-sig", "replace")
