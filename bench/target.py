"""A site that answers every request with 200 at once, so that a measurement is of us and not of it."""

import asyncio
from typing import cast

import click
import uvloop

from deploy.local.ports import LOOPBACK

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n"
_END = b"\r\n\r\n"
_LONGEST_REQUEST = 65_536


class Answering(asyncio.Protocol):
    """One connection: every request that is complete is answered, in order."""

    def __init__(self) -> None:
        """Make a connection that has heard nothing."""
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
            self._transport.write(_HEAD if request.startswith(b"HEAD ") else _HEAD + b"ok")


@click.command()
@click.option("--port", required=True, type=click.IntRange(1, 65_535))
def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    uvloop.run(_serve(port))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, LOOPBACK, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    main()
