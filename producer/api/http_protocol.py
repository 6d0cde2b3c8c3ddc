"""How a connection speaks HTTP/1.1: uvicorn's protocol, where it falls short of RFC 9110 and RFC 9112.

uvicorn drops the body of a request that offers another protocol, as Java's HttpClient and `curl --http2` do
with `Upgrade: h2c`. A server that speaks only this one ignores the offer (RFC 9110 section 7.8).
"""

from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from producer.api.problems import HttpProblem, problem_response

# These offer another protocol; without `Upgrade` neither says anything.
_OFFERS = frozenset({b"upgrade", b"http2-settings"})


class ApiProtocol(HttpToolsProtocol):
    """One connection to the API."""

    def data_received(self, data: bytes) -> None:
        """Read what came. A request that offers another protocol is read again, without its offer."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("This is no valid HTTP request.")

    def on_headers_complete(self) -> None:
        """Begin to answer; a target that is a whole URL may have no path, which is the root."""
        if not self.url.startswith(b"/") and self._method() not in {b"CONNECT", b"OPTIONS"}:
            target = httptools.parse_url(self.url)
            if target.path is None:
                self.url = b"/" if target.query is None else b"/?" + target.query
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a problem, and close the connection."""
        response = problem_response(HttpProblem(HTTPStatus.BAD_REQUEST, msg))
        fields = [*response.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (head, bytes(response.body)))
        self.transport.close()

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
