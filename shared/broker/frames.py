"""The frames of a publish, AMQP 0-9-1 section 4.2, as bytes.

pamqp writes the same ones and takes several times as long, which is much of what a publish costs; a test
holds each against pamqp's. https://www.rabbitmq.com/amqp-0-9-1-protocol
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import pamqp.frame
from aio_pika import DeliveryMode
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker.outgoing import Outgoing

APP_ID = "retriever"

_HEADER_FRAME, _BODY_FRAME, _END = 2, 3, b"\xce"
_FRAME = struct.Struct(">BHI")
# Class, weight, size of the body, and which properties follow.
_CONTENT = struct.Struct(">HHQH")
# Content type, delivery mode, correlation id, message id, type and application.
_WHICH = 0x8000 | 0x1000 | 0x0400 | 0x0080 | 0x0020 | 0x0008
_PERSISTENT = bytes([DeliveryMode.PERSISTENT])
# Routes that one process publishes on: kinds by lanes, states and steps of delay.
_ROUTES = 4_096


def properties_of(message: Outgoing, message_id: str) -> Basic.Properties:
    """Return the properties of a message, for pamqp."""
    return Basic.Properties(
        delivery_mode=DeliveryMode.PERSISTENT,
        content_type=message.content_type,
        message_id=message_id,
        correlation_id=message.job_id or None,
        message_type=message.type,
        app_id=APP_ID,
        headers=dict(message.headers),
    )


@dataclass(frozen=True, slots=True)
class FrameWriter:
    """Writes the frames of messages for one channel; one of a body holds at most `max_content_bytes`."""

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
        return b"".join((_FRAME.pack(kind, self.channel, len(payload)), payload, _END))


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
            _CONTENT.pack(Basic.frame_id, 0, len(message.body), _WHICH),
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
