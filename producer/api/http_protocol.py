"""How a connection speaks HTTP/1.1: uvicorn's protocol, where it falls short of RFC 9110 and RFC 9112.

uvicorn drops the body of a request that offers another protocol, as Java's HttpClient and `curl --http2` do
with `Upgrade: h2c`. A server that speaks only this one ignores the offer (RFC 9110 section 7.8).

And uvicorn waits for ever for the head of a request, the request line and the header fields, however large it
grows, and takes connections until the process has no file descriptor left for its store.
"""

import asyncio
import logging
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from producer.api.problems import HttpProblem, problem_response
from shared.repeated_warning import RepeatedWarning
from shared.settings import Settings

logger = logging.getLogger(__name__)

# Many times what browsers and proxies send. A batch may have its defaults and labels in the query.
MAX_HEAD_BYTES = 65_536
MAX_FIELDS = 100
# When there are too many connections, this part of them is closed at once: finding the oldest takes a while.
_CLOSED_AT_ONCE = 16

# These offer another protocol; without `Upgrade` neither says anything.
_OFFERS = frozenset({b"upgrade", b"http2-settings"})


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long a request may take to say what it wants, and how many connections there may be."""

    head_seconds: float = 15.0
    max_connections: int = 10_000


class ApiProtocol(HttpToolsProtocol):
    """One connection to the API."""

    limits = ConnectionLimits()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*arguments, **named)
        self.waits_since: float | None = self.loop.time()
        """When the connection began to wait for a request; None while one is being answered."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._fields = self._field_bytes = 0
        self._is_in_head = False
        # Bytes that came since a head or a piece of a body was complete.
        self._open_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; when there are too many, those that have waited longest are closed for it."""
        super().connection_made(transport)
        self._start_head_timer()
        if len(self.connections) > self.limits.max_connections and not self._make_room():
            detail = "There are too many connections; try again."
            self._refuse(HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came. A request that offers another protocol is read again, without its offer."""
        self._open_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserCallbackError as error:
            known = error.__context__ if isinstance(error.__context__, HttpProblem) else None
            self._refuse(known or HttpProblem(HTTPStatus.BAD_REQUEST, "This is no valid HTTP request."))
            return
        except httptools.HttpParserError:
            self.send_400_response("This is no valid HTTP request.")
            return
        if self._open_bytes > MAX_HEAD_BYTES:
            # One field that never ends is not seen by `on_header`, nor are extensions of chunks.
            self._refuse(_head_too_large())
        elif self._head_timer is not None or self.waits_since is None or not self._open_bytes:
            # Line feeds between two requests begin none, so they do not keep a connection.
            self._unset_keepalive_if_required()

    def on_message_begin(self) -> None:
        """Begin to read a request; its head has to be complete soon."""
        super().on_message_begin()
        self._fields = self._field_bytes = 0
        self._is_in_head = True
        self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        """Read the target.

        Raises:
            HttpProblem: it is too long.
        """
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES:
            detail = f"The target of a request is limited to {MAX_HEAD_BYTES:,} bytes."
            raise HttpProblem(HTTPStatus.REQUEST_URI_TOO_LONG, detail)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read one field, of the head or behind a body in chunks.

        Raises:
            HttpProblem: there are too many, or they are too large.
        """
        self._fields += 1
        self._field_bytes += len(name) + len(value)
        if self._fields > MAX_FIELDS or self._field_bytes > MAX_HEAD_BYTES:
            raise _head_too_large()
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Read a piece of a body; its own limits are those of the body guard."""
        self._open_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        self._open_bytes = 0
        super().on_message_complete()
        if self.waits_since is not None:
            # It was refused before its body had come, which was discarded since.
            self._start_head_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request, or answer the next one that waits."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self.waits_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Begin to answer.

        A target that is a whole URL may have no path, which is the root; its host goes before `Host` (RFC
        9112 section 3.2.2).
        """
        if not self.url.startswith(b"/") and b"://" in self.url:
            self._read_whole_target()
        super().on_headers_complete()
        self._stop_head_timer()
        self._open_bytes, self._is_in_head, self.waits_since = 0, False, None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem, and close the connection."""
        self._refuse(HttpProblem(HTTPStatus.BAD_REQUEST, msg))

    def _refuse(self, problem: HttpProblem) -> None:
        """Answer with a problem outside of any request that was read, and close the connection."""
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        # Not into the middle of another answer.
        if self.waits_since is not None or not self.cycle.response_started:
            response = problem_response(problem)
            fields = [*response.raw_headers, (b"connection", b"close")]
            head = b"".join(b"%b: %b\r\n" % field for field in fields)
            status = f"{problem.status.value} {problem.status.phrase}".encode()
            self.transport.write(b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, head, bytes(response.body)))
        self.transport.close()

    def _on_late_head(self) -> None:
        self._head_timer = None
        if self.waits_since is None:
            # It came behind a request that is still being answered, and reading may rest until that is done.
            self._start_head_timer()
        elif self._open_bytes or self._is_in_head:
            detail = f"The head of the request did not come within {self.limits.head_seconds:g} seconds."
            self._refuse(HttpProblem(HTTPStatus.REQUEST_TIMEOUT, detail))
        else:
            self.transport.close()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self._on_late_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _make_room(self) -> bool:
        """Close the connections that have waited longest for a request, and return whether there were any."""
        waiting = [each for each in self.connections if isinstance(each, ApiProtocol) and each is not self]
        oldest = sorted(
            (each for each in waiting if each.waits_since is not None),
            key=lambda each: each.waits_since or 0.0,
        )[: max(1, self.limits.max_connections // _CLOSED_AT_ONCE)]
        for each in oldest:
            # Who says nothing may not read either, so nothing is flushed.
            each.transport.abort()
            self.connections.discard(each)
        _TOO_MANY.tell("api_connections_full", {"limit": self.limits.max_connections})
        return bool(oldest)

    def _should_upgrade(self) -> bool:
        # uvicorn's seam: whether its own handling of this request ends here. CONNECT is answered, with 405.
        return self._method() != b"CONNECT"

    def _feed(self, data: bytes) -> bytes:
        """Parse bytes and return those that are to be parsed next: none, or a request without its offer."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return self._request_without_offer(rest=data[offer.args[0] :])
        return b""

    def _read_whole_target(self) -> None:
        authority = re.split(rb"[/?#]", self.url.partition(b"://")[2], maxsplit=1)[0]
        target = httptools.parse_url(self.url)
        if target.path is None:
            self.url = b"/" if target.query is None else b"/?" + target.query
        hosts = [field for field in self.headers if field[0] == b"host"]
        if len(hosts) == 1:
            self.headers[self.headers.index(hosts[0])] = (b"host", authority)

    def _request_without_offer(self, *, rest: bytes) -> bytes:
        """Return the request whose headers were just read, without its offer, and the bytes behind it."""
        if self._method() == b"CONNECT":
            # What follows is meant for somebody else.
            self.cycle.keep_alive = False
            return b""
        version = self.parser.get_http_version().encode()
        kept = [field for field in self.headers if field[0] not in _OFFERS]
        head = b"".join(b"%b: %b\r\n" % field for field in kept)
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (self._method(), self.url, version, head, rest)

    def _method(self) -> bytes:
        return self.parser.get_method()


def api_protocol(settings: Settings, *, max_connections: int) -> type[ApiProtocol]:
    """Return the protocol of a server: with its limits, because uvicorn makes one for each connection."""
    limits = ConnectionLimits(settings.api_header_seconds, max_connections)
    return type("LimitedApiProtocol", (ApiProtocol,), {"limits": limits})


def _head_too_large() -> HttpProblem:
    detail = f"The header fields are limited to {MAX_FIELDS} and to {MAX_HEAD_BYTES:,} bytes."
    return HttpProblem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)


_TOO_MANY = RepeatedWarning(logger)
