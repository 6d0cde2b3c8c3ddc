"""A publisher of AMQP frames byte for byte: properties and keys that no library would write."""

import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import commands, header
from pamqp.base import Frame

_METHOD, _HEADER, _BODY = 1, 2, 3
_END = b"\xce"
_BASIC = 60
_PUBLISH = 40
_SECONDS = 30.0
_CHANNEL = 1


class Refused(Exception):
    """The broker has closed the channel or the connection, and says why."""


class RawPublisher:
    """One connection with one confirming channel, opened anew when the broker has closed it."""

    def __init__(self, url: str) -> None:
        """Connect to the broker of an AMQP address."""
        self._url = urlsplit(url)
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._socket.close()

    def publish(self, exchange: bytes, key: bytes, body: bytes, properties: bytes = b"\x00\x00") -> None:
        """Publish a message, and return when the broker has confirmed it, or has nowhere to put it.

        Args:
            properties: The flags and the values of a content header, as they go on the wire.

        Raises:
            Refused: the broker closed the channel or the connection; the next message has a new one.
        """
        method = struct.pack(">HHH", _BASIC, _PUBLISH, 0) + _short(exchange) + _short(key) + b"\x00"
        content = struct.pack(">HHQ", _BASIC, 0, len(body)) + properties
        frames = [_frame(_METHOD, method), _frame(_HEADER, content)]
        frames += [_frame(_BODY, body[at : at + 100_000]) for at in range(0, len(body), 100_000)]
        try:
            self._socket.sendall(b"".join(frames))
            self._wait_for(commands.Basic.Ack, commands.Basic.Nack)
        except (Refused, OSError) as error:
            self._socket.close()
            self._open()
            raise Refused(str(error)) from error

    def _open(self) -> None:
        url = self._url
        self._arrived = b""
        self._socket = socket.create_connection((url.hostname, url.port or 5672), timeout=_SECONDS)
        self._socket.sendall(header.ProtocolHeader(0, 9, 1).marshal())
        self._wait_for(commands.Connection.Start)
        login = f"\0{unquote(url.username or '')}\0{unquote(url.password or '')}"
        self._send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), channel=0)
        tune = self._wait_for(commands.Connection.Tune)
        assert isinstance(tune, commands.Connection.Tune)
        self._send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), channel=0)
        self._send(commands.Connection.Open(unquote(url.path[1:]) or "/"), channel=0)
        self._wait_for(commands.Connection.OpenOk)
        self._send(commands.Channel.Open())
        self._wait_for(commands.Channel.OpenOk)
        self._send(commands.Confirm.Select())
        self._wait_for(commands.Confirm.SelectOk)

    def _send(self, method: Frame, *, channel: int = _CHANNEL) -> None:
        self._socket.sendall(pamqp.frame.marshal(method, channel))

    def _wait_for(self, *wanted: type[Frame]) -> Frame:
        while True:
            frame = self._next()
            if isinstance(frame, wanted):
                return frame
            if isinstance(frame, commands.Connection.Close | commands.Channel.Close):
                raise Refused(f"{frame.reply_code} {frame.reply_text}")

    def _next(self) -> Frame | None:
        """Return the next method; None for any other frame."""
        while len(self._arrived) < 8 or len(self._arrived) < 8 + (size := _size(self._arrived)):
            more = self._socket.recv(65_536)
            if not more:
                raise Refused("the connection was closed")
            self._arrived += more
        frame, self._arrived = self._arrived[: 8 + size], self._arrived[8 + size :]
        if frame[0] != _METHOD:
            return None
        method = pamqp.frame.unmarshal(frame)[2]
        return method if isinstance(method, Frame) else None


def _size(arrived: bytes) -> int:
    return int.from_bytes(arrived[3:7])


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, _CHANNEL, len(payload)) + payload + _END


def _short(octets: bytes) -> bytes:
    return bytes((min(len(octets), 255),)) + octets[:255]
