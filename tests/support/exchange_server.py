"""A server that plays the turns of an exchange, byte for byte."""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from aiohttp.client_proto import ResponseHandler

from tests.support.exchanges import Exchange, Piece, Then, Turn, octets_of

PAUSE_SECONDS = 5.0
"""How long a pause waits for the client at most; when one never reads on, the test fails anyway."""

NOTHING_HERE = Turn(say="HTTP/1.1 404 Nothing here\r\nContent-Length: 0\r\n\r\n")
CONNECT = "connect"
_CONTENT_LENGTH = re.compile(r"\r\nContent-Length: (\d+)\r\n")

Pause = Callable[[int, int], Awaitable[None]]
"""Waits until the client has read so many bytes on the connection that comes from a port."""


@dataclass(slots=True)
class ExchangeServer:
    """A running server; it records the head of every request.

    Attributes:
        places: What stands for its addresses in an exchange, such as `{port}`.
    """

    exchange: Exchange
    pause: Pause
    places: dict[str, str] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    _played: Counter[int] = field(default_factory=Counter)

    def filled(self, text: str) -> str:
        """Return a text with the addresses of this server in it."""
        for place, value in self.places.items():
            text = text.replace(place, value)
        return text

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            is_open = await self._play(self._turn(CONNECT), reader, writer)
            while is_open:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if length := _CONTENT_LENGTH.search(head):
                    # Closing a connection with bytes unread resets it.
                    await reader.readexactly(int(length[1]))
                self.heads.append(head)
                is_open = await self._play(self._turn(head) or NOTHING_HERE, reader, writer)

    def _turn(self, head: str) -> Turn | None:
        for index, turn in enumerate(self.exchange.server):
            if self._played[index] != turn.times and self._fits(turn, head):
                self._played[index] += 1
                return turn
        return None

    def _fits(self, turn: Turn, head: str) -> bool:
        if CONNECT in (turn.to, head):
            return turn.to == head
        method, target, _ = head.split(" ", 2)
        is_meant = turn.to is None or self.filled(turn.to) in {f"{method} {target}", f"* {target}"}
        return is_meant and all(self.filled(line) in head.split("\r\n") for line in turn.having)

    async def _play(
        self, turn: Turn | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Say what a turn says, and return whether the connection goes on."""
        if turn is None:
            return True
        said = 0
        for part in turn.parts:
            octets = self.filled(part).encode("latin-1") if isinstance(part, str) else octets_of(part)
            writer.write(octets)
            said += len(octets)
            await writer.drain()
            if isinstance(part, Piece) and part.pause is not None:
                await self.pause(writer.get_extra_info("peername")[1], said)
        if turn.then is Then.SILENT:
            await reader.read()
        if turn.then is Then.RESET:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return turn.then is Then.KEEP


@contextlib.asynccontextmanager
async def exchange_server(
    exchange: Exchange, *, pause: Pause, tls: ssl.SSLContext | None = None, closed_port: int = 1
) -> AsyncIterator[ExchangeServer]:
    """Serve an exchange on loopback, with `tls` on a second port too.

    Args:
        closed_port: A port on which nobody listens, `{closed_port}`.
    """
    server = ExchangeServer(exchange, pause)
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await server.serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Noted at once and not when the task begins, so that none is forgotten at the end.
        serving[asyncio.create_task(serve(reader, writer))] = writer

    listeners = [await asyncio.start_server(accept, "127.0.0.1", 0)]
    if tls is not None:
        listeners.append(await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls))
    ports = [listener.sockets[0].getsockname()[1] for listener in listeners]
    server.places = {"{port}": str(ports[0]), "{tls_port}": str(ports[-1]), "{closed_port}": str(closed_port)}
    try:
        yield server
    finally:
        for listener in listeners:
            listener.close()
        for writer in serving.values():
            writer.transport.abort()
        await asyncio.gather(*serving)


class ReadingClients:
    """Knows how much the clients of this process have read of each connection; no server can see that."""

    def __init__(self) -> None:
        """Know of no connection."""
        self._read_bytes: Counter[int] = Counter()
        self._gone: set[int] = set()
        self._changed = asyncio.Event()

    async def pause(self, port: int, count: int) -> None:
        """Wait until so many bytes were read on the connection from a port, or it is gone."""
        async with asyncio.timeout(PAUSE_SECONDS):
            while port not in self._gone and self._read_bytes[port] < count:
                self._changed.clear()
                await self._changed.wait()

    def read(self, port: int, count: int) -> None:
        """Note that so many bytes more were read."""
        self._read_bytes[port] += count
        self._changed.set()

    def end(self, port: int) -> None:
        """Note that a connection is gone."""
        self._gone.add(port)
        self._changed.set()


@contextlib.contextmanager
def reading_clients() -> Iterator[ReadingClients]:
    """Watch what aiohttp reads."""
    clients = ReadingClients()
    ports: WeakKeyDictionary[ResponseHandler, int] = WeakKeyDictionary()
    names = ("connection_made", "data_received", "connection_lost")
    made, received, lost = originals = [getattr(ResponseHandler, name) for name in names]

    def connection_made(self: ResponseHandler, transport: asyncio.BaseTransport) -> None:
        ports[self] = transport.get_extra_info("sockname")[1]
        made(self, transport)

    def data_received(self: ResponseHandler, data: bytes) -> None:
        received(self, data)
        clients.read(ports[self], len(data))

    def connection_lost(self: ResponseHandler, error: BaseException | None) -> None:
        lost(self, error)
        clients.end(ports[self])

    for name, watching in zip(names, (connection_made, data_received, connection_lost), strict=True):
        setattr(ResponseHandler, name, watching)
    try:
        yield clients
    finally:
        for name, original in zip(names, originals, strict=True):
            setattr(ResponseHandler, name, original)
