"""The connector of the one session: guarded, and recording what aiohttp keeps to itself."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

import aiohappyeyeballs
import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from consumer.egress import AddressInfo
from consumer.handlers.recording import Recording, current_recording

SocketFactory = Callable[[AddressInfo], Any]


class RecordingConnector(aiohttp.TCPConnector):
    """A connector that writes into the current recording.

    `connect` is public. `_wrap_create_connection` is not, but the same since aiohttp 3.9, and the only
    place where TCP and TLS can be told apart; a test notices when it is gone.
    """

    def __init__(self, *, socket_factory: SocketFactory, **options: Any) -> None:
        """Make a connector; every socket comes from the factory, the guard."""
        super().__init__(socket_factory=socket_factory, **options)
        self._guarded_socket = socket_factory

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's.
    ) -> Connection:
        """Return a connection for a request, kept or new."""
        recording = current_recording()
        recording.begin()
        connection = await super().connect(req, traces, timeout)
        recording.connect(connection.transport)
        return connection

    async def _wrap_create_connection(self, *args: Any, **options: Any) -> Any:
        recording = current_recording()
        addresses = options["addr_infos"]
        is_literal = addresses[0][4][0] == options["req"].url.host
        recording.dial(addresses, is_literal=is_literal, is_tls=options.get("ssl") is not None)

        def make_protocol() -> asyncio.Protocol:
            # The event loop asks for the protocol once it has the connected socket, before TLS.
            recording.reach()
            return cast("asyncio.Protocol", args[0]())

        return await super()._wrap_create_connection(make_protocol, *args[1:], **options)

    async def peek_certificate(self, recording: Recording, host: str) -> bool:
        """Read the certificate that could not be verified into the recording; return whether that worked.

        It takes a second handshake, with the same addresses and through the same guard. Nothing is
        verified by it and so nothing is sent over it: it ends with the handshake.

        Raises:
            OSError: there was no connection, or the guard denied it.
        """
        connected = await aiohappyeyeballs.start_connection(
            addr_infos=cast("Any", list(recording.addresses)), socket_factory=self._guarded_socket
        )
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(
                asyncio.Protocol, sock=connected, ssl=_unverified(), server_hostname=host
            )
        except BaseException:
            connected.close()
            raise
        try:
            recording.connect(transport)
        finally:
            transport.abort()
        return recording.certificate is not None


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
