"""A site that answers every request with 200, so that a measurement is of us and not of it.

`GET /served` answers with how many other requests it has heard, as proof that work was done. A path
`/due/1764104400000` says when the request should have come, in milliseconds since 1970, and `GET /lateness`
how late they were.
"""

import asyncio
import time
from typing import cast

import click
import orjson
import uvloop

from bench.summary import percentiles
from deploy.local.ports import LOOPBACK

_END = b"\r\n\r\n"
_LONGEST_REQUEST = 65_536
_SERVED, _LATENESS, _DUE = b"GET /served ", b"GET /lateness ", b"GET /due/"


class Site:
    """What all connections share: the page, how long it takes, and how often it was asked for."""

    def __init__(self, *, delay_ms: int, body_bytes: int) -> None:
        """Make a site that nobody has asked."""
        self.delay_seconds = delay_ms / 1_000
        self.served = 0
        self._late_ms: list[float] = []
        self._page = _answer(b"x" * body_bytes)
        self._head = self._page[: -body_bytes or None]

    def answer(self, request: bytes) -> bytes:
        """Return the answer to a request, and count it."""
        if request.startswith(_SERVED):
            return _answer(str(self.served).encode())
        if request.startswith(_LATENESS):
            return _answer(orjson.dumps(percentiles(self._late_ms) if self._late_ms else None))
        self.served += 1
        if request.startswith(_DUE):
            due_ms = int(request.removeprefix(_DUE).split(b" ", 1)[0])
            self._late_ms.append(time.time() * 1_000 - due_ms)
        return self._head if request.startswith(b"HEAD ") else self._page


class Answering(asyncio.Protocol):
    """One connection: every request that is complete is answered, in order."""

    def __init__(self, site: Site) -> None:
        """Make a connection that has heard nothing."""
        self._site = site
        self._heard = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer the requests that this completes; nobody sends us bodies."""
        *requests, self._heard = (self._heard + data).split(_END)
        if self._transport is None or len(self._heard) > _LONGEST_REQUEST:
            return
        for request in requests:
            answer = self._site.answer(request)
            if self._site.delay_seconds:
                asyncio.get_running_loop().call_later(self._site.delay_seconds, self._transport.write, answer)
            else:
                self._transport.write(answer)


@click.command()
@click.option("--port", required=True, type=click.IntRange(1, 65_535))
@click.option("--delay-ms", default=0, show_default=True, type=click.IntRange(0))
@click.option("--body-bytes", default=2, show_default=True, type=click.IntRange(0))
def main(port: int, delay_ms: int, body_bytes: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    uvloop.run(_serve(port, Site(delay_ms=delay_ms, body_bytes=body_bytes)))


async def _serve(port: int, site: Site) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Answering(site), LOOPBACK, port)
    async with server:
        await server.serve_forever()


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


if __name__ == "__main__":
    main()
