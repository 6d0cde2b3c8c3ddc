"""How a connection speaks HTTP/1.1: uvicorn's protocol, where it falls short of RFC 9110 and RFC 9112.

uvicorn drops the body of a request that offers another protocol, as Java's HttpClient and `curl --http2` do
with `Upgrade: h2c`. A server that speaks only this one ignores the offer (RFC 9110 section 7.8).

And uvicorn bounds nothing: it waits for ever for the head of a request, however large it grows, and for a
client to read its answer, and takes any number of requests ahead of their answers. Decision 0031 says why we
use it.
"""

import asyncio
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from producer.api.connections import Connections, address_of
from producer.api.problems import HttpProblem, problem_response
from producer.api.refusals import Refusal
from shared.patience import Patience

# Many times what browsers and proxies send. A batch may have its defaults and labels in the query.
MAX_HEAD_BYTES = 65_536
MAX_FIELDS = 100
# The beginnings of heads that are no longer have room in any case.
_FREE_HEAD_BYTES = 1_024
# Requests that wait behind the one that is being answered; hardly any client sends even one ahead.
MAX_PIPELINED = 16
# After a refusal as much is read and dropped, for so long: a client that still sends would lose it otherwise.
_DROPPED_BYTES = 1_048_576
_DROPPED_SECONDS = 2.0

# These offer another protocol; without `Upgrade` neither says anything.
_OFFERS = frozenset({b"upgrade", b"http2-settings"})
# What is answered on connections beyond the limit.
_HEALTH = frozenset({b"/livez", b"/readyz", b"/metrics"})


class RequestRefused(HttpProblem):
    """A request that is refused before it is whole."""

    def __init__(
        self, reason: Refusal, status: HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers=headers)
        self.reason = reason


class ApiProtocol(HttpToolsProtocol):
    """One connection to the API. `of` makes the class of those of one server."""

    all_connections: Connections

    @classmethod
    def of(cls, connections: Connections) -> type["ApiProtocol"]:
        """Return the protocol of a server: uvicorn makes one for each connection, and passes nothing on."""
        return type("ApiProtocolOfServer", (cls,), {"all_connections": connections})

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*arguments, **named)
        self.limits = self.all_connections.limits
        self.address = ""
        self.is_surplus = False
        self.waits_since: float | None = self.loop.time()
        self.deadline = self.waits_since + self.limits.head_seconds
        # Requests whose heads have come, and that have no whole answer yet.
        self._unanswered = 0
        self._is_first = True
        self._is_in_head = self._is_in_body = False
        self._fields = self._field_bytes = 0
        # Bytes that came since a head or a piece of a body was complete.
        self._open_bytes = self._kept_bytes = 0
        # What the client is told once the requests before are answered.
        self._refusal: RequestRefused | None = None
        # What is dropped yet, once it has been told; None before.
        self._left_to_drop: int | None = None
        self._unread = Patience(self.limits.unread_seconds)
        self._unsent_bytes = 0

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there may be one more."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self.address = address_of(self.client)
        if not self.all_connections.admit(self):
            self._refuse(_too_many())

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.all_connections.keep_heads(-self._kept_bytes)
        self.all_connections.forget(self)
        super().connection_lost(exc)

    def on_deadline(self) -> None:
        """Refuse a head that has not come; close where none began, or the rest of a body does not come."""
        self.deadline = math.inf
        if self._left_to_drop is not None:
            self.transport.close()
            return
        if self._is_in_head or (self._is_first and self._open_bytes):
            detail = f"The head of the request did not come within {self.limits.head_seconds:g} seconds."
            self._refuse(RequestRefused(Refusal.HEAD_TOO_SLOW, HTTPStatus.REQUEST_TIMEOUT, detail))
            return
        if self._is_in_body:
            self.all_connections.refusals.count(Refusal.BODY_TOO_SLOW, client=self.address)
        self.transport.close()

    def watch_answer(self, seconds: float) -> int:
        """Return how many bytes of answers wait to be read; they may not wait for ever."""
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unread.restore()
        elif self._unsent_bytes:
            self._unread.spend(seconds, moved_bytes=max(self._unsent_bytes - size, 0))
        self._unsent_bytes = size
        return size

    @property
    def reads_on(self) -> bool:
        """Whether what comes next is for the request that is being answered, or dropped."""
        return not self.pipeline and (self._refusal is None or self._left_to_drop is not None)

    @property
    def unread_left_seconds(self) -> float:
        """How long its answer may still stay unread."""
        return self._unread.left_seconds

    def resume_writing(self) -> None:
        """Go on with an answer: tens of kilobytes of it were read."""
        self._unread.restore()
        super().resume_writing()

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abort()

    # --- what comes

    def data_received(self, data: bytes) -> None:
        """Read what came. A request that offers another protocol is read again, without its offer."""
        if self._left_to_drop is not None:
            self._left_to_drop -= len(data)
            if self._left_to_drop < 0:
                self.transport.close()
            return
        if self._refusal is not None:
            return
        self._open_bytes += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserCallbackError as error:
            known = error.__context__ if isinstance(error.__context__, RequestRefused) else None
            self._refuse(known or _no_http())
            return
        except httptools.HttpParserError:
            self._refuse(_no_http())
            return
        if self._open_bytes > MAX_HEAD_BYTES:
            # One field that never ends is not seen by `on_header`, nor are extensions of chunks.
            self._refuse(_head_too_large())
        elif self._open_bytes > _FREE_HEAD_BYTES or self._kept_bytes:
            self._keep_head()

    def on_message_begin(self) -> None:
        """Begin to read a request; its head has to be complete soon."""
        super().on_message_begin()
        self._fields = self._field_bytes = 0
        self._is_in_head = True
        if not self._is_first and not self._unanswered:
            self.deadline = self.loop.time() + self.limits.head_seconds

    def on_url(self, url: bytes) -> None:
        """Read the target.

        Raises:
            RequestRefused: it is too long.
        """
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES:
            detail = f"The target of a request is limited to {MAX_HEAD_BYTES:,} bytes."
            raise RequestRefused(Refusal.HEAD_TOO_LARGE, HTTPStatus.REQUEST_URI_TOO_LONG, detail)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read one field, of the head or behind a body in chunks.

        Raises:
            RequestRefused: there are too many, or they are too large.
        """
        self._fields += 1
        self._field_bytes += len(name) + len(value)
        if self._fields > MAX_FIELDS or self._field_bytes > MAX_HEAD_BYTES:
            raise _head_too_large()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, or let the request wait until those before it are answered.

        A target that is a whole URL may have no path, which is the root; its host goes before `Host` (RFC
        9112 section 3.2.2).

        Raises:
            RequestRefused: too many wait, or there are too many connections for anything but probes.
        """
        if len(self.pipeline) >= MAX_PIPELINED:
            detail = f"At most {MAX_PIPELINED} requests are taken ahead of their answers."
            raise RequestRefused(Refusal.PIPELINE_FULL, HTTPStatus.TOO_MANY_REQUESTS, detail)
        if self.is_surplus and self.url.partition(b"?")[0] not in _HEALTH:
            raise _too_many()
        if not self.url.startswith(b"/") and b"://" in self.url:
            self._read_whole_target()
        super().on_headers_complete()
        self._open_bytes, self._is_in_head = 0, False
        if self.parser.should_upgrade() and self._should_upgrade():
            # It comes again, without its offer.
            return
        self._unanswered += 1
        self._is_first, self._is_in_body = False, True
        self.waits_since, self.deadline = None, math.inf
        if self.is_surplus:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Read a piece of a body; its own limits are those of the body guard.

        As uvicorn's own, in half the time: a client may send a chunk for each byte.
        """
        self._open_bytes = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        self._open_bytes, self._is_in_body = 0, False
        super().on_message_complete()
        if not self._unanswered:
            # It was answered before its body had come, which was discarded since.
            self._wait()

    # --- what goes

    def on_response_complete(self) -> None:
        """Answer the request that comes next, or wait for one; uvicorn's own would set a timer each time."""
        self.server_state.total_requests += 1
        self._unanswered -= 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._end_with(self._refusal)
            return
        self.flow.resume_reading()
        if not self._unanswered:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem, and close the connection."""
        self._refuse(_no_http(msg))

    def _wait(self) -> None:
        self.waits_since = now = self.loop.time()
        if self._is_in_body:
            self.deadline = now + self.limits.body_seconds
        elif self._is_in_head:
            self.deadline = now + self.limits.head_seconds
        else:
            self.deadline = now + self.limits.idle_seconds

    def _keep_head(self) -> None:
        """Count what is kept of a head that is not whole, and refuse it when there is no room."""
        kept = self._open_bytes if self._open_bytes > _FREE_HEAD_BYTES else 0
        more, self._kept_bytes = kept - self._kept_bytes, kept
        if not self.all_connections.keep_heads(more) and more > 0:
            detail = "Too many large heads of requests are arriving at once; try again."
            retry = {"Retry-After": "5"}
            self._refuse(
                RequestRefused(Refusal.HEADS_FULL, HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=retry)
            )

    def _refuse(self, refusal: RequestRefused) -> None:
        """Take nothing more; tell the client why, once the requests that came before are answered."""
        if self.transport.is_closing() or self._refusal is not None:
            return
        self.all_connections.refusals.count(refusal.reason, client=self.address)
        if self._is_in_body and self.pipeline:
            # Its body will never be whole, so it gets the refusal for an answer.
            self.pipeline.popleft()
            self._unanswered -= 1
            self._is_in_body = False
        if self._is_in_body or not self._unanswered:
            self._end_with(refusal)
        else:
            self._refusal = refusal
            self.flow.pause_reading()

    def _end_with(self, refusal: RequestRefused) -> None:
        if self.cycle.response_started if self._unanswered else self._is_in_body:
            # Not into the middle of another answer, nor behind one to the same request.
            self.transport.close()
            return
        if self._unanswered:
            # Its operation has nobody to answer any more, nor to tell to go on.
            self.cycle.waiting_for_100_continue = False
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        response = problem_response(refusal)
        fields = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        status = f"{refusal.status.value} {refusal.status.phrase}".encode()
        self.transport.write(b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, head, bytes(response.body)))
        self.transport.write_eof()
        self._refusal, self._left_to_drop = refusal, _DROPPED_BYTES
        # They keep what has come of a head.
        self.parser, self.headers = None, []  # type: ignore[assignment]
        self.waits_since = now = self.loop.time()
        self.deadline = now + _DROPPED_SECONDS
        self.flow.resume_reading()

    # --- HTTP

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


class _Flow(FlowControl):
    """Reads nothing while requests wait behind the one that is being answered, whose operation asks for more.

    uvicorn's own reads on whenever an operation looks whether its client is still there, and what is read are
    the bodies of those that wait.
    """

    def __init__(self, transport: asyncio.Transport, protocol: ApiProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if self._protocol.reads_on:
            super().resume_reading()


def _no_http(detail: str = "This is no valid HTTP request.") -> RequestRefused:
    return RequestRefused(Refusal.NO_HTTP, HTTPStatus.BAD_REQUEST, detail)


def _head_too_large() -> RequestRefused:
    detail = f"The header fields are limited to {MAX_FIELDS} and to {MAX_HEAD_BYTES:,} bytes."
    return RequestRefused(Refusal.HEAD_TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)


def _too_many() -> RequestRefused:
    detail = "There are too many connections; try again."
    return RequestRefused(
        Refusal.CONNECTIONS_FULL, HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "5"}
    )
