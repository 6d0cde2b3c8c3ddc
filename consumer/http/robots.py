"""robots.txt for the jobs that respect it (RFC 9309): read once an origin, politely and through the guard."""

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from consumer.compute.answers import RobotsVerdict
from consumer.compute.pool import ComputePool
from consumer.compute.robots import SMALL_FILE_CHARACTERS, look_up
from consumer.compute.shares import Names
from consumer.http.body import content_codings, read_body
from consumer.http.failures import ROBOTS_DENIED, ROBOTS_UNREACHABLE, Failure, failure_of_error
from consumer.politeness.host_limiters import HostLimiters
from shared.hosts import MIN_RATE_PER_SECOND, host_key

MAX_REDIRECTS = 5
"""RFC 9309 section 2.3.1.2."""

MAX_FILE_BYTES = 500 * 1_024
"""RFC 9309 section 2.5; what comes after that is not read."""

KEPT_SECONDS = 86_400.0
"""RFC 9309 section 2.4: no longer than a day."""

KEPT_UNREACHABLE_SECONDS = 60.0
MAX_KEPT_BYTES = 33_554_432
LONGEST_CRAWL_DELAY_SECONDS = 300.0

Request = Callable[[str, int], AbstractAsyncContextManager[aiohttp.ClientResponse | Failure]]
"""Requests a URL and follows at most so many redirects."""


class RobotsFiles:
    """The robots.txt files of all origins that this worker's jobs respect."""

    def __init__(self, user_agent: str = "Retriever") -> None:
        """Make one that has read nothing; `user_agent` begins with our product token."""
        self._token = user_agent.partition("/")[0].strip()
        self._cache = RobotsCache()
        self._reading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def denial(
        self, target: URL, *, request: Request, limiters: HostLimiters, compute: ComputePool, names: Names
    ) -> Failure | None:
        """Return None when a URL may be requested, or why not.

        Args:
            target: The URL that is about to be requested.
            request: Reads the robots.txt of its origin, if it is not known.
            limiters: Are told of a crawl delay.
            compute: Looks a URL up in a large file.
            names: For whom.
        """
        origin = str(target.origin())
        lock = self._reading.setdefault(origin, asyncio.Lock())
        # One job reads, the others of the origin wait. When it is cancelled, the next one reads.
        async with lock:
            rules = self._cache.get(origin, now=time.monotonic()) or await self._read(origin, request)
        if isinstance(rules, Failure):
            return rules
        if not rules.is_reachable:
            return ROBOTS_UNREACHABLE
        verdict = await rules.look_up(str(target.with_fragment(None)), compute, names)
        if isinstance(verdict, Failure):
            return verdict
        _keep_crawl_delay(verdict.crawl_delay_seconds, origin, limiters)
        return None if verdict.allows else ROBOTS_DENIED

    async def _read(self, origin: str, request: Request) -> "RobotsRules | Failure":
        rules = await self._request(origin, request)
        if isinstance(rules, RobotsRules):
            self._cache.put(origin, rules, now=time.monotonic())
        return rules

    async def _request(self, origin: str, request: Request) -> "RobotsRules | Failure":
        async with request(f"{origin}/robots.txt", MAX_REDIRECTS) as answer:
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
        return RobotsRules(self._token, text)

    def _without_answer(self, failure: Failure) -> "RobotsRules | Failure":
        if failure.before_sending:
            # The job's own request would meet the same, and its reason says more.
            return failure
        # More redirects than five, or in a circle, are like no file (section 2.3.1.2).
        return RobotsRules(self._token, is_reachable=not failure.transient)


def _keep_crawl_delay(delay_seconds: float | None, origin: str, limiters: HostLimiters) -> None:
    host = host_key(origin)
    if delay_seconds and host:
        limiters.limit_rate(
            host, max(1 / min(delay_seconds, LONGEST_CRAWL_DELAY_SECONDS), MIN_RATE_PER_SECOND)
        )


async def _text(answer: aiohttp.ClientResponse) -> str | Failure:
    if content_codings(answer.headers):
        # A compressed file that is larger than the limit is not read at all.
        body = await read_body(answer, max_bytes=MAX_FILE_BYTES)
        return body if isinstance(body, Failure) else body.decode("utf-8-sig", "replace")
    octets = bytearray()
    try:
        async for chunk in answer.content.iter_chunked(MAX_FILE_BYTES):
            octets += chunk
            if len(octets) >= MAX_FILE_BYTES:
                # The rest is cut off, and with it the line that the cut goes through.
                octets = octets[:MAX_FILE_BYTES].rpartition(b"\n")[0]
                break
    except (aiohttp.ClientError, OSError) as error:
        return failure_of_error(error)
    return octets.decode("utf-8-sig", "replace")


@dataclass(frozen=True, slots=True)
class RobotsRules:
    """The rules of one origin for one product token.

    Attributes:
        text: The file, which is read again when a URL is looked up: what it says may take fifty times the
            memory. Empty allows everything.
        is_reachable: Whether the file was read or does not exist; otherwise nothing is allowed.
    """

    token: str
    text: str = ""
    is_reachable: bool = True

    async def look_up(self, url: str, compute: ComputePool, names: Names) -> RobotsVerdict | Failure:
        """Return what the file says to us of a URL, or why nobody can find that out now."""
        if not self.text:
            return RobotsVerdict()
        if len(self.text) <= SMALL_FILE_CHARACTERS:
            return look_up(self.text, self.token, url)
        return await compute.run(names, look_up, self.text, self.token, url)


class RobotsCache:
    """Rules by origin, for at most a day and in bounded memory; the rules unused longest go first."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: OrderedDict[str, tuple[float, RobotsRules]] = OrderedDict()
        self._kept_bytes = 0

    def get(self, origin: str, *, now: float) -> RobotsRules | None:
        """Return what is remembered of an origin."""
        until, rules = self._kept.get(origin, (now, None))
        if rules is None or until <= now:
            return None
        self._kept.move_to_end(origin)
        return rules

    def put(self, origin: str, rules: RobotsRules, *, now: float) -> None:
        """Remember the rules of an origin."""
        self._forget(origin)
        seconds = KEPT_SECONDS if rules.is_reachable else KEPT_UNREACHABLE_SECONDS
        self._kept[origin] = now + seconds, rules
        self._kept_bytes += _cost_bytes(rules)
        while self._kept_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, origin: str) -> None:
        if (kept := self._kept.pop(origin, None)) is not None:
            self._kept_bytes -= _cost_bytes(kept[1])


def _cost_bytes(rules: RobotsRules) -> int:
    return (sys.getsizeof(rules.text) if rules.text else 0) + 1_024
