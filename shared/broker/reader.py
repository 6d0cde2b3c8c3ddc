"""Reading the frames of a connection: as many as the socket gave at once, and each only as far as needed.

aiormq's own reader takes a lock and makes three reads for each frame, and pamqp decodes the properties of
every message, which few of ours look at.
"""

import asyncio
import struct
from typing import Any

import aiormq.connection
import pamqp.frame
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError, ProtocolSyntaxError
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

_READ_BYTES = 262_144
_HEADER_FRAME, _END = 2, 0xCE
# AMQP 0-9-1 section 4.2.3: type, channel and size; the payload and an octet follow.
_FRAME = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")
_METHOD_FRAME, _DELIVER = 1, Basic.Deliver.index.to_bytes(4)
# The delivery's tag, and whether it was delivered before.
_DELIVERY = struct.Struct(">Q?")


class LazyHeader(ContentHeader):
    """The header of a message, whose properties are decoded when somebody asks for them.

    Properties that nobody can decode are none. The broker takes them from anybody, and whoever reads the
    message must be able to put it aside.
    """

    def __init__(self, payload: bytes) -> None:
        """Read what every message needs."""
        self.class_id, self.weight, self.body_size = _CONTENT.unpack_from(payload)
        self._payload = payload
        self._properties: Basic.Properties | None = None

    @property
    def properties(self) -> Basic.Properties:  # type: ignore[override]
        """What the publisher said of the message."""
        if self._properties is None:
            self._properties = _properties_in(self._payload)
        return self._properties


def _properties_in(payload: bytes) -> Basic.Properties:
    header = ContentHeader()
    try:
        header.unmarshal(payload)
    except (struct.error, ValueError, LookupError, OverflowError):
        return Basic.Properties()
    return header.properties


class QuickDeliver(Basic.Deliver):
    """A `basic.deliver` that is read from its payload without a loop over what it might consist of."""

    def __init__(self, payload: bytes) -> None:
        """Read the payload of its frame, the number of the method included."""
        tag_at = 5 + payload[4]
        self.consumer_tag = payload[5:tag_at].decode()
        self.delivery_tag, self.redelivered = _DELIVERY.unpack_from(payload, tag_at)
        exchange_at = tag_at + _DELIVERY.size + 1
        key_at = exchange_at + payload[exchange_at - 1] + 1
        self.exchange = payload[exchange_at : key_at - 1].decode()
        self.routing_key = payload[key_at : key_at + payload[key_at - 1]].decode()


class FrameReader(FrameReceiver):
    """Cuts frames out of what has arrived; reads more only when that holds no whole one."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        """Read from a connection that is open."""
        super().__init__(reader)
        self._arrived = b""
        self._at = 0

    async def get_frame(self) -> Any:
        """Return size, channel and content of the next frame.

        Raises:
            AMQPConnectionError: the connection was lost.
            InvalidFrameError, ProtocolSyntaxError: what came is no frame.
        """
        while (frame := self._cut()) is None:
            await self._read()
        return frame

    def _cut(self) -> Any:
        start = self._at
        if len(self._arrived) < start + _FRAME.size:
            return None
        kind, channel, size = _FRAME.unpack_from(self._arrived, start)
        if not self.started and self._arrived.startswith(b"AMQP"):
            raise ProtocolSyntaxError("Unexpected AMQP protocol header")
        end = start + _FRAME.size + size + 1
        if len(self._arrived) < end:
            return None
        self.started, self._at = True, end
        try:
            if self._arrived[end - 1] == _END:
                payload = self._arrived[start + _FRAME.size : end - 1]
                if kind == _HEADER_FRAME:
                    return end - start, channel, LazyHeader(payload)
                if kind == _METHOD_FRAME and payload.startswith(_DELIVER):
                    return end - start, channel, QuickDeliver(payload)
            return pamqp.frame.unmarshal(self._arrived[start:end])
        except (PAMQPException, struct.error, IndexError, UnicodeDecodeError) as error:
            raise InvalidFrameError(str(error)) from error

    async def _read(self) -> None:
        try:
            more = await self.reader.read(_READ_BYTES)
        except OSError as error:
            raise AMQPConnectionError(f"Server communication error: {error!r}") from error
        if not more:
            raise AMQPConnectionError("Server connection unexpectedly closed.")
        self._arrived, self._at = self._arrived[self._at :] + more, 0


def choose_reader(*, plain: bool) -> None:
    """Let the connections of this process read with ours, or with aiormq's own; it lets nobody choose."""
    aiormq.connection.FrameReceiver = FrameReceiver if plain else FrameReader  # type: ignore[misc]
