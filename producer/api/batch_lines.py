"""From the bytes of a streamed body to the arguments of jobs, as they arrive and in flat memory.

A body has one URL a line, one JSON object a line, or CSV (RFC 4180): a header of arguments, one job a record.
It is read in the chunks that the network gives, so a wrong header is refused before the rest has arrived.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

import orjson

from producer.api.guard import CSV_TYPE, TEXT_TYPE
from producer.batch_validation import Arguments
from producer.json_text import read_json
from producer.records import Rejected
from shared.errors import FieldError, JobInvalid
from shared.kinds.registry import Kind
from shared.urls import MAX_URL_LENGTH

# All arguments of a job as JSON or CSV.
MAX_RECORD_BYTES = 65_536

# The longest URL in the longest UTF-8; a line beyond it is dropped while it arrives.
_MAX_URL_LINE_BYTES = 4 * MAX_URL_LENGTH
_BLANKS = b" \t\r"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NOT_UTF8 = "It is not UTF-8"
_WANTED = {
    "integer": "Must be a whole number",
    "number": "Must be a number such as 2.5",
    "boolean": "Must be true or false",
    "array": "Must be a list as JSON",
    "object": "Must be an object as JSON",
}
_BOOLEANS = frozenset({"true", "false"})

Line = Arguments | Rejected


class LineReader(Protocol):
    """Makes arguments of the chunks of a body, however it is cut, and holds no more than one line of it."""

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that this chunk completes.

        Raises:
            JobInvalid: the header of CSV is at fault.
        """

    def finish(self) -> Iterator[Line]:
        """Yield the line that is left at the end of the body.

        Raises:
            JobInvalid: as `feed` says, or a quoted cell of CSV is never closed.
        """


def open_reader(media_type: str, kind: Kind) -> LineReader:
    """Return a reader of a body of this type, whose lines are arguments of a kind."""
    if media_type == CSV_TYPE:
        return CsvReader(kind)
    return url_lines() if media_type == TEXT_TYPE else json_lines()


def url_lines() -> "PlainReader":
    """Return a reader of one URL a line."""
    too_long = f"The line is longer than {MAX_URL_LENGTH:,} characters"
    return PlainReader(_url, too_long, LineSplitter(_MAX_URL_LINE_BYTES))


def json_lines() -> "PlainReader":
    """Return a reader of one JSON object of arguments a line (NDJSON)."""
    too_long = f"The line is longer than {MAX_RECORD_BYTES:,} bytes"
    return PlainReader(_json_object, too_long, LineSplitter(MAX_RECORD_BYTES))


@dataclass(slots=True)
class PlainReader:
    """Reads one item a line, by `read`; blank lines and blanks around an item are ignored."""

    read: Callable[[int, bytes], Line]
    too_long: str
    splitter: "LineSplitter"

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the items that this chunk completes."""
        yield from self._read(self.splitter.feed(chunk))

    def finish(self) -> Iterator[Line]:
        """Yield the last item."""
        yield from self._read(self.splitter.finish())

    def _read(self, lines: Iterable[tuple[int, bytes | None]]) -> Iterator[Line]:
        for number, line in lines:
            if line is None:
                yield Rejected(number, _pointer(number), self.too_long)
            elif line:
                yield self.read(number, line)


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
            line = line.removeprefix(_BYTE_ORDER_MARK)
        return self._number, None if is_too_long else line.strip(_BLANKS)


class _In(Enum):
    """Where in a record the next byte is; only at the start of a cell does a quote open one."""

    START = auto()
    PLAIN = auto()
    QUOTED = auto()
    AFTER_QUOTE = auto()


@dataclass(slots=True)
class RecordSplitter:
    """Cuts chunks into records, each with the number of the line it begins in; too long ones come as None.

    A line feed in a quoted cell is part of it. A record is followed to its end even when it is dropped: `csv`
    alone would take the rest of a record that is too long for the next one.
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
            raise _invalid(_pointer(self._begins_in), "A quoted cell of it is never closed")
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


@dataclass(frozen=True, slots=True)
class Column:
    """One column: an argument's name and the types of JSON that it takes."""

    name: str
    types: frozenset[str]

    def read(self, cell: str, *, at: str) -> Any:
        """Return the value of a cell: text as it is, for an argument that takes text; anything else as JSON.

        Raises:
            JobInvalid: it is not JSON, or not as `read_json` wants it.
        """
        if "string" in self.types:
            return cell
        text = cell.strip()
        # Spreadsheets write TRUE.
        text = text.lower() if text.lower() in _BOOLEANS else text
        try:
            return read_json(text, at=f"{at}/{self.name}")
        except orjson.JSONDecodeError:
            msg = next((_WANTED[name] for name in sorted(self.types) if name in _WANTED), "Must be JSON")
            raise _invalid(f"{at}/{self.name}", msg) from None


@dataclass(slots=True)
class CsvReader:
    """Reads records under a header that names arguments of a kind; blank lines are ignored."""

    kind: Kind
    _columns: list[Column] | None = None
    _splitter: RecordSplitter = field(default_factory=RecordSplitter)

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the records that this chunk completes.

        Raises:
            JobInvalid: the header is at fault.
        """
        for number, record in self._splitter.feed(chunk):
            yield from self._read(number, record)

    def finish(self) -> Iterator[Line]:
        """Yield the last record.

        Raises:
            JobInvalid: the header is at fault, or a quoted cell is never closed.
        """
        for number, record in self._splitter.finish():
            yield from self._read(number, record)

    def _read(self, number: int, record: bytes | None) -> Iterator[Line]:
        try:
            cells = _cells(number, record)
            if not cells:
                return
            if self._columns is None:
                self._columns = _read_header(self.kind, cells, at=_pointer(number))
                return
            document = _document(self._columns, cells, at=_pointer(number))
        except JobInvalid as error:
            if self._columns is None:
                raise
            yield Rejected(number, error.errors[0].loc, error.errors[0].msg)
        else:
            yield Arguments(number, _pointer(number), document)


def _url(number: int, line: bytes) -> Line:
    try:
        return Arguments(number, _pointer(number), {"url": line.decode()})
    except UnicodeDecodeError:
        return Rejected(number, _pointer(number), _NOT_UTF8)


def _json_object(number: int, line: bytes) -> Line:
    try:
        return Arguments(number, _pointer(number), read_json(line, at=_pointer(number)))
    except JobInvalid as error:
        return Rejected(number, error.errors[0].loc, error.errors[0].msg)
    except orjson.JSONDecodeError as error:
        msg = f"The line is not JSON: {error.msg}, at character {error.colno}"
        return Rejected(number, _pointer(number), msg)


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


def _cells(number: int, record: bytes | None) -> list[str]:
    """Return the cells of a record; none, when its line is blank."""
    if record is None:
        raise _invalid(_pointer(number), f"The record is longer than {MAX_RECORD_BYTES:,} bytes")
    if number == 1:
        record = record.removeprefix(_BYTE_ORDER_MARK)
    if not record.strip():
        return []
    try:
        # One record is one string here, so `csv` gets it at once.
        return next(csv.reader([record.decode()], strict=True))
    except UnicodeDecodeError:
        raise _invalid(_pointer(number), _NOT_UTF8) from None
    except csv.Error:
        raise _invalid(_pointer(number), "The record is not CSV (RFC 4180)") from None


def _document(columns: list[Column], cells: list[str], *, at: str) -> dict[str, object]:
    """Return the arguments of a record; an empty cell gives none."""
    if len(cells) != len(columns):
        raise _invalid(at, f"The record has {len(cells)} cells, the header {len(columns)}")
    pairs = zip(columns, cells, strict=True)
    return {column.name: column.read(cell, at=at) for column, cell in pairs if cell}


def _read_header(kind: Kind, cells: Sequence[str], *, at: str) -> list[Column]:
    """Return the columns that a header names.

    Raises:
        JobInvalid: a name is no argument of the kind, or comes twice. The message gives its place and not the
            name: a body without a header begins with values, and these may be secret.
    """
    schema = kind.args_model.model_json_schema()
    known: Mapping[str, Any] = {**schema["properties"], "ref": {"type": "string"}}
    names = [cell.strip() for cell in cells]
    errors = [
        FieldError(at, msg)
        for place, name in enumerate(names, start=1)
        if (msg := _header_fault(kind, known, names, place, name))
    ]
    if errors:
        raise JobInvalid(errors)
    definitions = schema.get("$defs", {})
    return [Column(name, frozenset(_types(known[name], definitions))) for name in names]


def _header_fault(
    kind: Kind, known: Mapping[str, Any], names: Sequence[str], place: int, name: str
) -> str | None:
    if name not in known:
        listed = ", ".join(known)
        return f"Column {place} of the header is no argument of {kind.name}; there are: {listed}"
    if (first := names.index(name) + 1) != place:
        return f"Columns {first} and {place} of the header are both {name}"
    return None


def _types(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the types of JSON that a schema takes."""
    if "$ref" in schema:
        yield from _types(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "type" in schema:
        yield from [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _types(choice, definitions)


def _pointer(number: int) -> str:
    """Return the JSON pointer of a line, as errors name it."""
    return f"/lines/{number}"


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
