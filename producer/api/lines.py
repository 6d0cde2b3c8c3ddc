"""Batches of lines, read as they arrive, in flat memory: one URL a line, or one JSON object a line."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from producer.judging import Arguments
from producer.records import Rejected
from shared.kinds.urls import MAX_URL_LENGTH

# The longest URL in the longest UTF-8; a line beyond it is dropped while it arrives.
MAX_URL_LINE_BYTES = 4 * MAX_URL_LENGTH
# All arguments of a job as JSON or CSV.
MAX_RECORD_BYTES = 65_536
BLANKS = b" \t\r"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Said = Arguments | Rejected


class Reader(Protocol):
    """Makes arguments of the chunks of a body, however it is cut, and holds no more than one line of it."""

    def feed(self, chunk: bytes) -> Iterator[Said]:
        """Yield what this chunk completes."""

    def finish(self) -> Iterator[Said]:
        """Yield what is left at the end of the body."""


@dataclass(slots=True)
class LineSplitter:
    """Cuts chunks of bytes into numbered lines; a line that is too long comes as None."""

    max_line_bytes: int
    _number: int = 0
    _rest: bytes = b""
    _is_dropping: bool = False

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines that this chunk completes."""
        *complete, rest = (self._rest + chunk).split(b"\n")
        for line in complete:
            yield self._end_line(line)
        # What is over the limit is forgotten, so that no line fills the memory.
        self._is_dropping = self._is_dropping or len(rest) > self.max_line_bytes
        self._rest = b"" if self._is_dropping else rest

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last line, when the body did not end with a line feed."""
        if self._rest or self._is_dropping:
            yield self._end_line(self._rest)

    def _end_line(self, line: bytes) -> tuple[int, bytes | None]:
        self._number += 1
        is_too_long = self._is_dropping or len(line) > self.max_line_bytes
        self._is_dropping = False
        if self._number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        return self._number, None if is_too_long else line.strip(BLANKS)


@dataclass(slots=True)
class UrlLines:
    """Reads one URL a line; blank lines and blanks around a URL are ignored."""

    _splitter: LineSplitter = field(default_factory=lambda: LineSplitter(MAX_URL_LINE_BYTES))

    def feed(self, chunk: bytes) -> Iterator[Said]:
        """Yield the URLs that this chunk completes."""
        for number, line in self._splitter.feed(chunk):
            yield from self._read(number, line)

    def finish(self) -> Iterator[Said]:
        """Yield the last URL."""
        for number, line in self._splitter.finish():
            yield from self._read(number, line)

    def _read(self, number: int, line: bytes | None) -> Iterator[Said]:
        at = pointer(number)
        if line is None:
            yield Rejected(number, at, f"The line is longer than {MAX_URL_LENGTH:,} characters")
        elif line:
            try:
                yield Arguments(number, at, {"url": line.decode()})
            except UnicodeDecodeError:
                yield Rejected(number, at, NOT_UTF8)


@dataclass(slots=True)
class JsonLines:
    """Reads one JSON object of arguments a line (NDJSON); blank lines are ignored."""

    _splitter: LineSplitter = field(default_factory=lambda: LineSplitter(MAX_RECORD_BYTES))

    def feed(self, chunk: bytes) -> Iterator[Said]:
        """Yield the objects that this chunk completes."""
        for number, line in self._splitter.feed(chunk):
            yield from self._read(number, line)

    def finish(self) -> Iterator[Said]:
        """Yield the last object."""
        for number, line in self._splitter.finish():
            yield from self._read(number, line)

    def _read(self, number: int, line: bytes | None) -> Iterator[Said]:
        at = pointer(number)
        if line is None:
            yield Rejected(number, at, f"The line is longer than {MAX_RECORD_BYTES:,} bytes")
        elif line:
            try:
                yield Arguments(number, at, orjson.loads(line))
            except orjson.JSONDecodeError as error:
                yield Rejected(number, at, f"The line is not JSON: {error.msg}, at character {error.colno}")


NOT_UTF8 = "It is not UTF-8"


def pointer(number: int) -> str:
    """Return the JSON pointer of a line, as errors name it."""
    return f"/lines/{number}"
