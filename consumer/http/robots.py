"""robots.txt for the jobs that respect it (RFC 9309): read once an origin, politely and through the guard."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Self
from weakref import WeakValueDictionary

import aiohttp
from protego import Protego
from yarl import URL

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

    async def denial(self, target: URL, *, request: Request, limiters: HostLimiters) -> Failure | None:
        """Return None when a URL may be requested, or why not.

        Args:
            target: The URL that is about to be requested.
            request: Reads the robots.txt of its origin, if it is not known.
            limiters: Are told of a crawl delay.
        """
        origin = str(target.origin())
        lock = self._reading.setdefault(origin, asyncio.Lock())
        # One job reads, the others of the origin wait. When it is cancelled, the next one reads.
        async with lock:
            rules = self._cache.get(origin, now=time.monotonic()) or await self._read(origin, request)
        if isinstance(rules, Failure):
            return rules
        _keep_crawl_delay(rules, origin, limiters)
        if not rules.is_reachable:
            return ROBOTS_UNREACHABLE
        return None if rules.allows(str(target.with_fragment(None))) else ROBOTS_DENIED

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
        return await asyncio.to_thread(RobotsRules.parse, text, token=self._token)

    def _without_answer(self, failure: Failure) -> "RobotsRules | Failure":
        if failure.before_sending:
            # The job's own request would meet the same, and its reason says more.
            return failure
        # More redirects than five, or in a circle, are like no file (section 2.3.1.2).
        return RobotsRules(self._token, is_reachable=not failure.transient)


def _keep_crawl_delay(rules: "RobotsRules", origin: str, limiters: HostLimiters) -> None:
    delay_seconds, host = rules.crawl_delay_seconds, host_key(origin)
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
        parsed: None allows or denies everything.
        is_reachable: Whether the file was read or does not exist; otherwise nothing is allowed.
    """

    token: str
    parsed: Protego | None = None
    is_reachable: bool = True
    size_bytes: int = 0

    @classmethod
    def parse(cls, text: str, *, token: str) -> Self:
        """Return the rules in a file; what is no rule is passed over."""
        ours = token.lower()
        lines = "\n".join(_only_ours(line, ours) for line in text.splitlines())
        return cls(token, Protego.parse(lines), size_bytes=len(text))

    def allows(self, url: str) -> bool:
        """Return whether we may request a URL."""
        if not self.is_reachable:
            return False
        return self.parsed is None or self.parsed.can_fetch(url, self.token)

    @property
    def crawl_delay_seconds(self) -> float | None:
        """The time that the host wants between our requests, if it says so."""
        return None if self.parsed is None else self.parsed.crawl_delay(self.token)


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
    return rules.size_bytes + 1_024


_AGENT_LINE = re.compile(r"[ \t]*user[- ]?agent[ \t]*:?[ \t]*([^#\r\n]*).*", re.IGNORECASE)
_SOMEBODY_ELSE = "user-agent: somebody-else"


def _only_ours(line: str, token: str) -> str:
    # The parser gives every rule of a group to each of its agents: ten thousand agents and as many rules
    # would be 100 million. So all agents but ours become one.
    match = _AGENT_LINE.fullmatch(line)
    if match is None or (agent := match[1].strip().lower()) == "*" or (agent and token.startswith(agent)):
        return line
    return _SOMEBODY_ELSE
