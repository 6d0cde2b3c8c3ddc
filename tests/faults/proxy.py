"""A TCP proxy that hurts what goes through it: cuts, delays, and links that are open at one end only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK_BYTES = 65_536


class Proxy:
    """Forwards connections from a port of 127.0.0.1 to another; `port` is where it listens."""

    def __init__(self, *, target_port: int) -> None:
        """Make a proxy that does not listen yet."""
        self.port = 0
        self._target_port = target_port
        self._delay_seconds = 0.0
        self._is_cut = False
        # Set while bytes may flow, to the server and to the client.
        self._upward, self._downward = asyncio.Event(), asyncio.Event()
        self._upward.set()
        self._downward.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Reset every connection, and each new one at once, until `mend`."""
        self._is_cut = True
        self._reset_all()

    def slow(self, delay_seconds: float) -> None:
        """Hold each chunk back for a while, in both directions, until `mend`."""
        self._delay_seconds = delay_seconds

    def half_open(self) -> None:
        """Let nothing through and tell nobody, until `mend`; new connections are taken and hear nothing."""
        self._upward.clear()
        self._downward.clear()

    def hold_upward(self) -> None:
        """Let the server talk and hold back what the client says, until `mend`."""
        self._upward.clear()

    def mend(self) -> None:
        """Forward again. Links that were held are reset, as a router does that has forgotten them."""
        was_held = not (self._upward.is_set() and self._downward.is_set())
        self._is_cut, self._delay_seconds = False, 0.0
        if was_held:
            self._reset_all()
        self._upward.set()
        self._downward.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Proxy"]:
        """Forward while inside."""

        def forward(client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._forward(client_in, client_out))
            self._forwarding.add(task)
            task.add_done_callback(self._forwarding.discard)

        server = await asyncio.start_server(forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._forwarding:
                task.cancel()
            await asyncio.gather(*self._forwarding, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _forward(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        if self._is_cut:
            client_out.transport.abort()
            return
        self._writers.add(client_out)
        server_out: asyncio.StreamWriter | None = None
        try:
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(server_out)
            await self._pump_both(client_in, client_out, server_in, server_out)
        except OSError:
            # A reset on either side, or a server that is away: the client sees a reset, too.
            pass
        finally:
            for writer in (client_out, server_out):
                if writer is not None:
                    self._writers.discard(writer)
                    writer.transport.abort()

    async def _pump_both(
        self,
        client_in: asyncio.StreamReader,
        client_out: asyncio.StreamWriter,
        server_in: asyncio.StreamReader,
        server_out: asyncio.StreamWriter,
    ) -> None:
        pumps = {
            asyncio.create_task(self._pump(client_in, server_out, self._upward)),
            asyncio.create_task(self._pump(server_in, client_out, self._downward)),
        }
        try:
            # The end of one direction is the end of both: neither AMQP nor PostgreSQL half-closes.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, may_flow: asyncio.Event
    ) -> None:
        while chunk := await source.read(_CHUNK_BYTES):
            await may_flow.wait()
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            sink.write(chunk)
            await sink.drain()
