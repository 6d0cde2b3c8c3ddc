"""From the bytes of a streamed body to numbered lines and records of CSV, however it is cut, in flat memory.

A line ends with CR, LF or both, as files of Windows, Unix and old Macs do. NEL, U+2028 and U+2029 end none.
UTF-8 is taken with and without its byte order mark, UTF-16 with one: spreadsheets and PowerShell write it.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from shared.errors import FieldError, JobInvalid

# All arguments of a job as JSON or CSV.
MAX_RECORD_BYTES = 65_536
# What may stand between the cells of a table, the likeliest first.
DELIMITERS = b",;\t|"

_LINE_ENDS = b"\r\n"
_BLANKS = b" \t" + _LINE_ENDS
# The most bytes that tell what a body is.
_HEAD_BYTES = 4
_UTF16_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_NO_TEXT = {
    b"PK\x03\x04": "It is a ZIP archive or an Excel workbook; save the table as CSV and send that",
    b"\xd0\xcf\x11\xe0": "It is an Excel workbook; save the table as CSV and send that",
    b"\x1f\x8b": "It is compressed with gzip; send it as it is",
    b"%PDF": "It is a PDF; send a list or a table",
}
_UNMARKED = "It has NUL characters, as UTF-16 without a byte order mark has; save it as UTF-8"


@dataclass(slots=True)
class TextDecoder:
    """Makes UTF-8 without a byte order mark of the chunks of a text; what is no UTF-8 passes as it is."""

    _head: bytes | None = b""
    _utf16: codecs.IncrementalDecoder | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Return as much as this chunk completes.

        Raises:
            JobInvalid: the body is no text at all.
        """
        if self._head is not None:
            self._head += chunk
            if len(self._head) < _HEAD_BYTES:
                return b""
            chunk = self._begin(self._head)
        return self._utf8(chunk) if self._utf16 else chunk

    def finish(self) -> bytes:
        """Return what is left.

        Raises:
            JobInvalid: as `feed` says.
        """
        rest = self._begin(self._head) if self._head is not None else b""
        return self._utf8(rest, is_last=True) if self._utf16 else rest

    def _begin(self, head: bytes) -> bytes:
        self._head = None
        for magic, msg in _NO_TEXT.items():
            if head.startswith(magic):
                raise JobInvalid([FieldError("", msg)])
        if encoding := _UTF16_MARKS.get(head[:2]):
            self._utf16 = codecs.getincrementaldecoder(encoding)("surrogatepass")
            return head[2:]
        if b"\0" in head[:_HEAD_BYTES]:
            raise JobInvalid([FieldError("", _UNMARKED)])
        return head.removeprefix(codecs.BOM_UTF8)

    def _utf8(self, chunk: bytes, *, is_last: bool = False) -> bytes:
        assert self._utf16 is not None
        try:
            # Half of a pair passes, and spoils the UTF-8 of its own line alone.
            return self._utf16.decode(chunk, is_last).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            # The last character is cut off.
            return b"\xff"


@dataclass(slots=True)
class LineSplitter:
    """Cuts chunks of bytes into numbered lines without blanks around; one that is too long comes as None."""

    max_line_bytes: int
    _text: TextDecoder = field(default_factory=TextDecoder)
    _number: int = 0
    _rest: bytes = b""
    _is_dropping: bool = False

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines that this chunk completes.

        Raises:
            JobInvalid: the body is no text at all.
        """
        yield from self._split(self._text.feed(chunk))

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield what is left: the last line, when the body did not end with a line end.

        Raises:
            JobInvalid: as `feed` says.
        """
        yield from self._split(self._text.finish())
        if self._rest or self._is_dropping:
            yield self._end_line(self._rest)

    def _split(self, text: bytes) -> Iterator[tuple[int, bytes | None]]:
        lines = (self._rest + text).splitlines(keepends=True)
        # A CR at the end may be half of a CRLF.
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        for line in lines:
            yield self._end_line(line)
        # What is over the limit is forgotten, so that no line fills the memory.
        if self._is_dropping or len(self._rest.rstrip(_LINE_ENDS)) > self.max_line_bytes:
            self._is_dropping = True
            self._rest = b"\r" if self._rest.endswith(b"\r") else b""

    def _end_line(self, line: bytes) -> tuple[int, bytes | None]:
        self._number += 1
        if self._is_dropping or len(line) > self.max_line_bytes:
            is_too_long = self._is_dropping or len(line.rstrip(_LINE_ENDS)) > self.max_line_bytes
            self._is_dropping = False
            if is_too_long:
                return self._number, None
        return self._number, line.strip(_BLANKS)


class _In(Enum):
    """Where in a record the next byte is; only at the start of a cell does a quote open one."""

    START = auto()
    PLAIN = auto()
    QUOTED = auto()
    AFTER_QUOTE = auto()


@dataclass(slots=True)
class RecordSplitter:
    """Cuts chunks into records, each with the number of the line it begins in; too long ones come as None.

    A line end in a quoted cell is part of it. A record is followed to its end even when it is dropped: `csv`
    alone would take the rest of a record that is too long for the next one. Any of the delimiters ends a cell
    until the reader of the header says which.
    """

    max_record_bytes: int = MAX_RECORD_BYTES
    delimiters: bytes = DELIMITERS
    _text: TextDecoder = field(default_factory=TextDecoder)
    _line: int = 1
    _begins_in: int = 1
    _place: _In = _In.START
    _held: bytes = b""
    _parts: list[bytes] = field(default_factory=list)
    _bytes: int = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the records that this chunk completes.

        Raises:
            JobInvalid: the body is no text at all.
        """
        yield from self._split(self._text.feed(chunk))

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last record, when the body did not end with a line end.

        Raises:
            JobInvalid: a quoted cell is never closed, so nobody can tell what followed it, or as `feed` says.
        """
        yield from self._split(self._text.finish())
        if self._place is _In.QUOTED:
            at = f"/lines/{self._begins_in}"
            raise JobInvalid([FieldError(at, "A quoted cell of it is never closed")])
        if self._bytes:
            yield self._end_record()

    def _split(self, text: bytes) -> Iterator[tuple[int, bytes | None]]:
        text = self._held + text
        # A CR at the end may be half of a CRLF.
        self._held = b"\r" if text.endswith(b"\r") else b""
        for line in text.removesuffix(b"\r").splitlines(keepends=True):
            piece = line.rstrip(_LINE_ENDS)
            self._take(piece)
            if ending := line[len(piece) :]:
                self._line += 1
                if self._place is _In.QUOTED:
                    self._take(ending)
                else:
                    yield self._end_record()

    def _take(self, piece: bytes) -> None:
        self._place = _follow(self._place, piece, self.delimiters)
        self._bytes += len(piece)
        if self._bytes <= self.max_record_bytes:
            self._parts.append(piece)
        else:
            # Forgotten, so that no record fills the memory.
            self._parts.clear()

    def _end_record(self) -> tuple[int, bytes | None]:
        is_too_long = self._bytes > self.max_record_bytes
        record = (self._begins_in, None if is_too_long else b"".join(self._parts))
        self._begins_in, self._place, self._bytes = self._line, _In.START, 0
        self._parts.clear()
        return record


def _follow(place: _In, piece: bytes, delimiters: bytes) -> _In:
    """Return where a record is after some more bytes of it, as `csv` would read them."""
    at, end = 0, len(piece)
    while at < end:
        match place:
            case _In.QUOTED:
                quote = piece.find(b'"', at)
                if quote < 0:
                    return place
                place, at = _In.AFTER_QUOTE, quote + 1
            case _In.PLAIN:
                # Every delimiter here starts a cell; the one before a quote is the next that matters.
                quoted = _next_quoted(piece, at, delimiters)
                if quoted < 0:
                    return _In.START if piece[-1] in delimiters else place
                place, at = _In.QUOTED, quoted + 2
            case _In.START | _In.AFTER_QUOTE if piece.startswith(b'"', at):
                place, at = _In.QUOTED, at + 1
            case _In.START | _In.AFTER_QUOTE:
                place = _In.PLAIN
    return place


def _next_quoted(piece: bytes, at: int, delimiters: bytes) -> int:
    if len(delimiters) == 1:
        return piece.find(delimiters + b'"', at)
    found = re.compile(b"[" + re.escape(delimiters) + b']"').search(piece, at)
    return found.start() if found else -1
