"""What a program writes to one stream: its beginning and its end, however much lies between."""

import asyncio
import os
from collections import deque

from shared.kinds.command import OutputText

_CHUNK_BYTES = 262_144
# Pieces of the tail may be of one byte each.
_MOST_PIECES = 1_000
_LONGEST_CHARACTER = 4


class StreamCapture:
    """Reads a pipe to its end and keeps at most so many bytes: half of the beginning, half of the end."""

    def __init__(self, *, kept_bytes: int) -> None:
        """Make an empty one."""
        self._head = bytearray()
        self._head_bytes = kept_bytes - kept_bytes // 2
        # Not one long buffer: what comes in small pieces would move it all each time.
        self._tail: deque[bytes] = deque()
        self._tail_bytes = kept_bytes // 2
        self._in_tail = 0
        self.received_bytes = 0
        self.ended = asyncio.Event()

    def read_from(self, pipe: int, loop: asyncio.AbstractEventLoop) -> None:
        """Read a pipe, which is closed at its end."""
        os.set_blocking(pipe, False)
        loop.add_reader(pipe, self._read, pipe, loop)

    def _read(self, pipe: int, loop: asyncio.AbstractEventLoop) -> None:
        try:
            data = os.read(pipe, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            self.add(data)
            return
        loop.remove_reader(pipe)
        os.close(pipe)
        self.ended.set()

    def add(self, data: bytes) -> None:
        """Keep what belongs to beginning or end."""
        self.received_bytes += len(data)
        room = self._head_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data or not self._tail_bytes:
            return
        data = data[-self._tail_bytes :]
        self._tail.append(data)
        self._in_tail += len(data)
        while self._in_tail - len(self._tail[0]) >= self._tail_bytes:
            self._in_tail -= len(self._tail.popleft())
        if len(self._tail) > _MOST_PIECES:
            self._tail = deque([b"".join(self._tail)[-self._tail_bytes :]])
            self._in_tail = len(self._tail[0])

    def text(self) -> OutputText:
        """Return what was written so far."""
        tail = b"".join(self._tail)[-self._tail_bytes :] if self._tail else b""
        head = bytes(self._head)
        omitted = self.received_bytes - len(head) - len(tail)
        if omitted == 0:
            return OutputText(text=_readable(head + tail), bytes=self.received_bytes)
        # A character that was cut in two belongs to what is left out.
        whole_head, whole_tail = head[: len(head) - _cut_at_end(head)], tail[_cut_at_start(tail) :]
        return OutputText(
            text=_readable(whole_head),
            tail=_readable(whole_tail),
            bytes=self.received_bytes,
            omitted_bytes=self.received_bytes - len(whole_head) - len(whole_tail),
        )


def _readable(octets: bytes) -> str:
    # PostgreSQL keeps no NUL in a text.
    return octets.decode("utf-8", "replace").replace("\0", "\ufffd")


def _cut_at_start(octets: bytes) -> int:
    """Return how many bytes at the start continue a character that began before."""
    count = 0
    while count < min(len(octets), _LONGEST_CHARACTER - 1) and octets[count] & 0xC0 == 0x80:
        count += 1
    return count


def _cut_at_end(octets: bytes) -> int:
    """Return how many bytes at the end begin a character that goes on after."""
    for count in range(1, min(len(octets), _LONGEST_CHARACTER - 1) + 1):
        octet = octets[-count]
        if octet & 0xC0 == 0xC0:
            needed = 2 if octet < 0xE0 else 3 if octet < 0xF0 else 4
            return count if needed > count else 0
        if octet & 0xC0 != 0x80:
            return 0
    return 0
