"""Batches of lines, read as they arrive, in flat memory: one URL a line, or one JSON object a line."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import orjson

from producer.batch_validation import Arguments
from producer.records import Rejected
from shared.kinds.requests import MAX_URL_LENGTH

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
class Lines:
    """Reads one item a line, by `read`; blank lines and blanks around an item are ignored."""

    read: Callable[[int, bytes], Said]
    too_long: str
    splitter: LineSplitter

    def feed(self, chunk: bytes) -> Iterator[Said]:
        """Yield the items that this chunk completes."""
        yield from self._read(self.splitter.feed(chunk))

    def finish(self) -> Iterator[Said]:
        """Yield the last item."""
        yield from self._read(self.splitter.finish())

    def _read(self, lines: Iterable[tuple[int, bytes | None]]) -> Iterator[Said]:
        for number, line in lines:
            if line is None:
                yield Rejected(number, pointer(number), self.too_long)
            elif line:
                yield self.read(number, line)


def url_lines() -> Lines:
    """Return a reader of one URL a line."""
    too_long = f"The line is longer than {MAX_URL_LENGTH:,} characters"
    return Lines(_url, too_long, LineSplitter(MAX_URL_LINE_BYTES))


def json_lines() -> Lines:
    """Return a reader of one JSON object of arguments a line (NDJSON)."""
    too_long = f"The line is longer than {MAX_RECORD_BYTES:,} bytes"
    return Lines(_json_object, too_long, LineSplitter(MAX_RECORD_BYTES))


def _url(number: int, line: bytes) -> Said:
    try:
        return Arguments(number, pointer(number), {"url": line.decode()})
    except UnicodeDecodeError:
        return Rejected(number, pointer(number), NOT_UTF8)


def _json_object(number: int, line: bytes) -> Said:
    try:
        return Arguments(number, pointer(number), orjson.loads(line))
    except orjson.JSONDecodeError as error:
        said = f"The line is not JSON: {error.msg}, at character {error.colno}"
        return Rejected(number, pointer(number), said)


NOT_UTF8 = "It is not UTF-8"


def pointer(number: int) -> str:
    """Return the JSON pointer of a line, as errors name it."""
    return f"/lines/{number}"
