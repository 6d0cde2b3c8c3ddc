"""Frames of AMQP 0-9-1 as bytes: writing a publish, and reading what a connection brings.

pamqp writes the same bytes in several times the time, which is much of what a publish costs; a test holds
each frame against pamqp's. aiormq's own reader takes a lock and makes three reads for each frame, and decodes
the properties of every message, which few readers look at. Here a read takes all that the socket has, and
properties are decoded when somebody asks. https://www.rabbitmq.com/amqp-0-9-1-protocol
"""

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pamqp.frame
from aio_pika import DeliveryMode
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError, ProtocolSyntaxError
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

from shared.broker.outgoing import APP_ID, Outgoing, properties_of

# Section 4.2.3: type, channel and size; the payload and an end octet follow.
_FRAME = struct.Struct(">BHI")
_METHOD_FRAME, _HEADER_FRAME, _BODY_FRAME = 1, 2, 3
_END = 0xCE
_END_OCTET = bytes([_END])
# Class, weight and size of the body; then, in what is written, which properties follow.
_CONTENT = struct.Struct(">HHQ")
_CONTENT_FLAGS = struct.Struct(">HHQH")
# Content type, delivery mode, correlation id, message id, type and application.
_FLAGS = 0x8000 | 0x1000 | 0x0400 | 0x0080 | 0x0020 | 0x0008
_PERSISTENT = bytes([DeliveryMode.PERSISTENT])
# The routes that one process publishes on: kinds by lanes, states and steps of delay.
_ROUTES = 4_096
_READ_BYTES = 262_144
MAX_HEADER_BYTES = 65_536
"""The largest header that is decoded; one frame could have 128 KiB.

pamqp copies what is left of a table for each of its values: 129 KB of them took it 170 ms, these take 45.
"""
_DELIVER = Basic.Deliver.index.to_bytes(4)
# The delivery's tag, and whether it was delivered before.
_DELIVERY = struct.Struct(">Q?")


@dataclass(frozen=True, slots=True)
class FrameWriter:
    """Writes the frames of messages for one channel; a body frame holds at most `max_content_bytes`."""

    channel: int
    max_content_bytes: int

    def publish(self, message: Outgoing, message_id: str) -> bytes:
        """Return method, header and body of a publish.

        Raises:
            ValueError: the routing key, or another short string, has more than 255 bytes.
        """
        method = _method(self.channel, message.exchange, message.routing_key, message.is_mandatory)
        header = self._frame(_HEADER_FRAME, _header(message, message_id))
        return b"".join((method, header, *self._content(message.body)))

    def _content(self, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), self.max_content_bytes):
            yield self._frame(_BODY_FRAME, body[start : start + self.max_content_bytes])

    def _frame(self, kind: int, payload: bytes) -> bytes:
        return b"".join((_FRAME.pack(kind, self.channel, len(payload)), payload, _END_OCTET))


@lru_cache(maxsize=_ROUTES)
def _method(channel: int, exchange: str, routing_key: str, is_mandatory: bool) -> bytes:
    if len(routing_key.encode()) > 255:
        raise ValueError("a routing key has at most 255 bytes")
    method = Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=is_mandatory)
    return pamqp.frame.marshal(method, channel)


def _header(message: Outgoing, message_id: str) -> bytes:
    if message.headers or not message.job_id:
        return ContentHeader(
            body_size=len(message.body), properties=properties_of(message, message_id)
        ).marshal()
    return b"".join(
        (
            _CONTENT_FLAGS.pack(Basic.frame_id, 0, len(message.body), _FLAGS),
            _short(message.content_type),
            _PERSISTENT,
            _short(message.job_id),
            _short(message_id),
            _short(message.type),
            _short(APP_ID),
        )
    )


def _short(text: str) -> bytes:
    octets = text.encode()
    return bytes((len(octets),)) + octets


class FrameReader(FrameReceiver):
    """Cuts frames out of the bytes that have arrived; reads more only when they hold no whole frame."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        """Read from an open connection."""
        super().__init__(reader)
        self._arrived = b""
        self._at = 0

    async def get_frame(self) -> Any:
        """Return size, channel and content of the next frame.

        Raises:
            AMQPConnectionError: the connection was lost.
            InvalidFrameError, ProtocolSyntaxError: the bytes that came are no frame.
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


class LazyHeader(ContentHeader):
    """The header of a message, whose properties are decoded when somebody asks for them.

    Properties that cannot be decoded count as none, and so do such as are too large to be: the broker takes
    them from anybody, and whoever reads the message must be able to put it aside.
    """

    def __init__(self, payload: bytes) -> None:
        """Read what every message needs."""
        self.class_id, self.weight, self.body_size = _CONTENT.unpack_from(payload)
        self._payload = payload
        self._properties: Basic.Properties | None = None

    def holds(self, octets: bytes) -> bool:
        """Return whether these octets are somewhere in it."""
        return octets in self._payload

    @property
    def properties(self) -> Basic.Properties:  # type: ignore[override]
        """What the publisher noted on the message."""
        if self._properties is None:
            self._properties = _properties_in(self._payload)
        return self._properties


def mentions(header: ContentHeader, name: str) -> bool:
    """Return whether a header of this name may be on a message; most often that is known without decoding."""
    if isinstance(header, LazyHeader):
        return header.holds(name.encode())
    return name in (header.properties.headers or {})


def _properties_in(payload: bytes) -> Basic.Properties:
    if len(payload) > MAX_HEADER_BYTES:
        return Basic.Properties()
    header = ContentHeader()
    try:
        header.unmarshal(payload)
    except (struct.error, ValueError, LookupError, OverflowError, RecursionError):
        return Basic.Properties()
    return header.properties


class QuickDeliver(Basic.Deliver):
    """A `basic.deliver` read from its payload at once, without pamqp's loop over its fields.

    What is no UTF-8 in a routing key is read as `?`: the broker takes it from anybody, and whoever reads the
    message must be able to put it aside, under a key that is no longer than this one.
    """

    def __init__(self, payload: bytes) -> None:
        """Read the payload of its frame, the number of the method included."""
        tag_at = 5 + payload[4]
        self.consumer_tag = payload[5:tag_at].decode()
        self.delivery_tag, self.redelivered = _DELIVERY.unpack_from(payload, tag_at)
        exchange_at = tag_at + _DELIVERY.size + 1
        key_at = exchange_at + payload[exchange_at - 1] + 1
        self.exchange = _text(payload[exchange_at : key_at - 1])
        self.routing_key = _text(payload[key_at : key_at + payload[key_at - 1]])


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", "?")
