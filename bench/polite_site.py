"""Many hosts in one process, on 127.0.0.0/8, that count who asks how hard, and complain as they are told.

A host is an address. The path says what a request gets: `/flaky/7` is 503 twice and 200 from then on where
the number ends in 0, `/slow/7` takes two seconds, `/limited/7` is 429 with `Retry-After: 30` once a host,
when it has answered a hundred requests. All else is 200 at once.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

FLAKY_SECONDS, SLOW_SECONDS = 0.02, 2.0
RETRY_AFTER_SECONDS = 30
_END = b"\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_LIMITED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Host:
    """What one host has seen."""

    asked_at: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    limited_at: float | None = None


def most_within(times: Sequence[float], seconds: float = 1.0) -> int:
    """Return how many requests came within any such time."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


class PoliteSite:
    """The hosts, by address."""

    def __init__(self) -> None:
        """Make hosts that nobody has asked."""
        self.hosts: defaultdict[str, Host] = defaultdict(Host)
        self._asked: Counter[bytes] = Counter()

    def connect(self) -> "Asked":
        """Return what answers on a new connection."""
        return Asked(self)

    def begin(self, host: Host) -> None:
        """Note a request."""
        host.asked_at.append(time.monotonic())
        host.at_once += 1
        host.most_at_once = max(host.most_at_once, host.at_once)

    def answer(self, host: Host, method: bytes, path: bytes) -> tuple[float, bytes]:
        """Return what a request gets, and after how many seconds."""
        body = b"" if method == b"HEAD" else b"ok"
        if path.startswith(b"/flaky/"):
            self._asked[path] += 1
            fails = path.endswith(b"0") and self._asked[path] <= 2
            return FLAKY_SECONDS, _BUSY if fails else _OK + body
        if path.startswith(b"/slow/"):
            return SLOW_SECONDS, _OK + body
        if path.startswith(b"/limited/") and host.limited_at is None and len(host.asked_at) >= 100:
            host.limited_at = time.monotonic()
            return 0.0, _LIMITED
        return 0.0, _OK + body


class Asked(asyncio.Protocol):
    """One connection."""

    def __init__(self, site: PoliteSite) -> None:
        self._site = site
        self._heard = b""
        self._transport: asyncio.Transport | None = None
        self._host = Host()
        self._open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find the host by the address that was dialled."""
        self._transport = cast("asyncio.Transport", transport)
        self._host = self._site.hosts[transport.get_extra_info("sockname")[0]]

    def connection_lost(self, _: Exception | None) -> None:
        """Nobody waits for the answers any more."""
        self._host.at_once -= self._open
        self._open = 0
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer the requests that this completes."""
        *requests, self._heard = (self._heard + data).split(_END)
        for request in requests:
            method, path, _ = request.split(b" ", 2)
            self._site.begin(self._host)
            self._open += 1
            seconds, answer = self._site.answer(self._host, method, path)
            asyncio.get_running_loop().call_later(seconds, self._send, answer)

    def _send(self, answer: bytes) -> None:
        if self._transport is not None:
            self._host.at_once -= 1
            self._open -= 1
            self._transport.write(answer)
