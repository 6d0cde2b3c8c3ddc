"""Batches as CSV (RFC 4180), read as they arrive, in flat memory: a header of arguments, one job a record."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from producer.api.csv_columns import Column, read_header
from producer.api.lines import BYTE_ORDER_MARK, MAX_RECORD_BYTES, NOT_UTF8, Said, pointer
from producer.batch_validation import Arguments
from producer.records import Rejected
from shared.errors import FieldError, JobInvalid
from shared.kinds.registry import Kind


class _In(Enum):
    """Where in a record the next byte is; only at the start of a cell does a quote open one."""

    START = auto()
    PLAIN = auto()
    QUOTED = auto()
    AFTER_QUOTE = auto()


@dataclass(slots=True)
class RecordSplitter:
    """Cuts chunks into records, each with the number of the line it begins in; too long ones come as None.

    A line feed in a quoted cell is part of it. A record is followed to its end even when it is dropped.
    """

    max_record_bytes: int = MAX_RECORD_BYTES
    _line: int = 1
    _begins_in: int = 1
    _place: _In = _In.START
    _parts: list[bytes] = field(default_factory=list)
    _bytes: int = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the records that this chunk completes."""
        first, *others = chunk.split(b"\n")
        self._take(first)
        for piece in others:
            self._line += 1
            if self._place is _In.QUOTED:
                self._take(b"\n")
            else:
                yield self._end_record()
            self._take(piece)

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last record, when the body did not end with a line feed.

        Raises:
            JobInvalid: a quoted cell is never closed, so nobody can tell what followed it.
        """
        if self._place is _In.QUOTED:
            raise JobInvalid([FieldError(pointer(self._begins_in), "A quoted cell of it is never closed")])
        if self._bytes:
            yield self._end_record()

    def _take(self, piece: bytes) -> None:
        self._place = _follow(self._place, piece)
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


def _follow(place: _In, piece: bytes) -> _In:
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
                # Every comma here starts a cell; the one before a quote is the next that matters.
                quoted = piece.find(b',"', at)
                if quoted < 0:
                    return _In.START if piece.endswith(b",") else place
                place, at = _In.QUOTED, quoted + 2
            case _In.START | _In.AFTER_QUOTE if piece.startswith(b'"', at):
                place, at = _In.QUOTED, at + 1
            case _In.START | _In.AFTER_QUOTE:
                place = _In.PLAIN
    return place


@dataclass(slots=True)
class CsvLines:
    """Reads records under a header that names arguments of a kind; blank lines are ignored."""

    kind: Kind
    _columns: list[Column] | None = None
    _splitter: RecordSplitter = field(default_factory=RecordSplitter)

    def feed(self, chunk: bytes) -> Iterator[Said]:
        """Yield the records that this chunk completes.

        Raises:
            JobInvalid: the header is at fault.
        """
        for number, record in self._splitter.feed(chunk):
            yield from self._read(number, record)

    def finish(self) -> Iterator[Said]:
        """Yield the last record.

        Raises:
            JobInvalid: the header is at fault, or a quoted cell is never closed.
        """
        for number, record in self._splitter.finish():
            yield from self._read(number, record)

    def _read(self, number: int, record: bytes | None) -> Iterator[Said]:
        try:
            cells = _cells(number, record)
            if not cells:
                return
            if self._columns is None:
                self._columns = read_header(self.kind, cells, at=pointer(number))
                return
            document = _document(self._columns, cells, at=pointer(number))
        except JobInvalid as error:
            if self._columns is None:
                raise
            yield Rejected(number, error.errors[0].loc, error.errors[0].msg)
        else:
            yield Arguments(number, pointer(number), document)


def _cells(number: int, record: bytes | None) -> list[str]:
    """Return the cells of a record; none, when its line is blank."""
    if record is None:
        raise _invalid(pointer(number), f"The record is longer than {MAX_RECORD_BYTES:,} bytes")
    if number == 1:
        record = record.removeprefix(BYTE_ORDER_MARK)
    if not record.strip():
        return []
    try:
        # One record is one string here, so `csv` gets it at once.
        return next(csv.reader([record.decode()], strict=True))
    except UnicodeDecodeError:
        raise _invalid(pointer(number), NOT_UTF8) from None
    except csv.Error:
        raise _invalid(pointer(number), "The record is not CSV (RFC 4180)") from None


def _document(columns: list[Column], cells: list[str], *, at: str) -> dict[str, object]:
    """Return the arguments of a record; an empty cell gives none."""
    if len(cells) != len(columns):
        raise _invalid(at, f"The record has {len(cells)} cells, the header {len(columns)}")
    pairs = zip(columns, cells, strict=True)
    return {column.name: column.read(cell, at=at) for column, cell in pairs if cell}


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
