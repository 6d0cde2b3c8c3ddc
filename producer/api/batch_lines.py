"""From the lines and records of a streamed body to the arguments of jobs, as they arrive and in flat memory.

A body has one URL a line, one JSON object a line, or is a table (RFC 4180): a header, then one job a record.
What people write around URLs is taken off; what cannot be read is refused by its line, in words for a person.
"""

import csv
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from producer.api.batch_splitting import DELIMITERS, MAX_RECORD_BYTES, LineSplitter, RecordSplitter
from producer.api.guard import CSV_TYPE, TEXT_TYPE, TSV_TYPE
from producer.batch_validation import Arguments, given_text, is_ref
from producer.json_text import read_json
from producer.listed_urls import (
    TAKEN,
    URL_COLUMNS,
    is_header,
    is_markup,
    url_in_cell,
    url_on_line,
)
from producer.records import Rejected
from shared.errors import FieldError, JobInvalid
from shared.kinds.registry import Kind
from shared.kinds.url_words import trimmed
from shared.urls import MAX_URL_LENGTH

# The longest URL in the longest UTF-8; a line beyond it is dropped while it arrives.
_MAX_URL_LINE_BYTES = 4 * MAX_URL_LENGTH
# How alike a name of a column must be to that of an argument to be a typing error.
_TYPING_ERROR = 0.8
_WANTED = {
    "integer": "Must be a whole number",
    "number": "Must be a number such as 2.5",
    "boolean": "Must be true or false",
    "array": "Must be a list as JSON",
    "object": "Must be an object as JSON",
}
_BOOLEANS = frozenset({"true", "false"})
# What Excel reads and writes before the header.
_SEPARATOR = re.compile(f"sep=([{re.escape(DELIMITERS.decode())}])", re.IGNORECASE)

Line = Arguments | Rejected


class LineReader(Protocol):
    """Makes arguments of the chunks of a body, however it is cut, and holds no more than one line of it."""

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that this chunk completes.

        Raises:
            JobInvalid: no line can be read: it is no text, another format, or the header of CSV is at fault.
        """

    def finish(self) -> Iterator[Line]:
        """Yield the line that is left at the end of the body.

        Raises:
            JobInvalid: as `feed` says, or a quoted cell of CSV is never closed.
        """


def open_reader(media_type: str, kind: Kind, defaults: Mapping[str, object]) -> LineReader:
    """Return a reader of a body of this type, whose lines are arguments of a kind beside the defaults."""
    if media_type in (CSV_TYPE, TSV_TYPE):
        return CsvReader(kind, needs_url="url" not in defaults, delimiters=_likely_delimiters(media_type))
    return url_lines() if media_type == TEXT_TYPE else json_lines()


def url_lines() -> "PlainReader":
    """Return a reader of one URL a line."""
    too_long = f"The line is longer than {MAX_URL_LENGTH:,} characters"
    return PlainReader(_UrlList().read, too_long, LineSplitter(_MAX_URL_LINE_BYTES))


def json_lines() -> "PlainReader":
    """Return a reader of one JSON object of arguments a line (NDJSON)."""
    too_long = f"The line is longer than {MAX_RECORD_BYTES:,} bytes"
    return PlainReader(_json_object, too_long, LineSplitter(MAX_RECORD_BYTES))


@dataclass(slots=True)
class PlainReader:
    """Reads one item a line, by `read`; blank lines and blanks around an item are ignored."""

    read: Callable[[int, bytes], Line | None]
    too_long: str
    splitter: LineSplitter

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the items that this chunk completes.

        Raises:
            JobInvalid: the body is something else altogether.
        """
        yield from self._read(self.splitter.feed(chunk))

    def finish(self) -> Iterator[Line]:
        """Yield the last item.

        Raises:
            JobInvalid: the body is something else altogether.
        """
        yield from self._read(self.splitter.finish())

    def _read(self, lines: Iterable[tuple[int, bytes | None]]) -> Iterator[Line]:
        for number, line in lines:
            if line is None:
                yield Rejected(number, _pointer(number), self.too_long)
            elif line and (said := self.read(number, line)) is not None:
                yield said


@dataclass(slots=True)
class _UrlList:
    """Reads a list of URLs; comments are skipped, and a first line that is the name of the column."""

    _has_begun: bool = False

    def read(self, number: int, line: bytes) -> Line | None:
        """Return what a line says, None if it is a comment.

        Raises:
            JobInvalid: the first line tells that the body is no list.
        """
        at = _pointer(number)
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            return Rejected(number, at, _not_utf8(error), given=given_text(line))
        if not self._has_begun and not text.startswith("#"):
            self._has_begun = True
            if _is_name_of_column(trimmed(text), at):
                return None
        try:
            url = url_on_line(text)
        except ValueError as error:
            return Rejected(number, at, str(error), given=given_text(line))
        return None if url is None else Arguments(number, at, {"url": url}, line)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: an argument's name and the types of JSON that it takes; without a name it is ignored."""

    name: str | None
    types: frozenset[str] = frozenset()

    def takes(self, cell: str) -> bool:
        """Return whether a cell gives an argument."""
        # Tables of links have the titles of pages in a column of this name.
        is_title = self.name == "title" and "boolean" in self.types
        return self.name is not None and (not is_title or cell.strip().lower() in _BOOLEANS)

    def read(self, cell: str, *, at: str) -> Any:
        """Return the value of a cell: text as it is, for an argument that takes text; anything else as JSON.

        Raises:
            JobInvalid: it is not one URL where one is wanted, not JSON, or not as `read_json` wants it.
        """
        if self.name == "url":
            try:
                return url_in_cell(cell)
            except ValueError as error:
                raise _invalid(f"{at}/url", str(error)) from None
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
    """Reads records under a header that names arguments of a kind; blank lines are ignored.

    The delimiter is the one that the header has most of, or the one that `sep=;` in a line before it names,
    as Excel writes it.
    """

    kind: Kind
    needs_url: bool = True
    delimiters: bytes = DELIMITERS
    _delimiter: str | None = None
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
        at, cells = _pointer(number), list[str]()
        try:
            if not (text := _record_text(record, at)):
                return
            if self._columns is None:
                self._begin(text, at)
                return
            cells = _cells(text, self._delimiter or ",", at)
            document = _document(self._columns, cells, at=at)
        except JobInvalid as error:
            if self._columns is None:
                raise
            ref = _ref_of(self._columns, cells)
            yield Rejected(number, error.errors[0].loc, error.errors[0].msg, ref, given_text(record))
        else:
            yield Arguments(number, at, document, record)

    def _begin(self, text: str, at: str) -> None:
        if self._delimiter is None and (named := _SEPARATOR.fullmatch(text)):
            self._delimiter = named[1]
        else:
            self._delimiter = self._delimiter or _commonest_delimiter(text, self.delimiters)
            cells = _cells(text, self._delimiter, at)
            self._columns = _read_header(self.kind, cells, at=at, needs_url=self.needs_url)
        self._splitter.delimiters = self._delimiter.encode()


def _json_object(number: int, line: bytes) -> Line:
    try:
        return Arguments(number, _pointer(number), read_json(line, at=_pointer(number)), line)
    except JobInvalid as error:
        loc, msg = error.errors[0].loc, error.errors[0].msg
    except orjson.JSONDecodeError as error:
        loc, msg = _pointer(number), f"The line is not JSON: {error.msg}, at character {error.colno}"
    return Rejected(number, loc, msg, given=given_text(line))


def _is_name_of_column(text: str, at: str) -> bool:
    """Return whether the first line of a list is the name of its column.

    Raises:
        JobInvalid: it is the header of a table, or of XML or HTML.
    """
    if is_markup(text):
        raise _invalid(at, f"It looks like XML or HTML. {TAKEN}")
    if not is_header(text):
        return False
    if text.strip("\"'").lower() in URL_COLUMNS:
        return True
    msg = "It is the header of a table; send the table as text/csv or text/tab-separated-values"
    raise _invalid(at, msg)


def _record_text(record: bytes | None, at: str) -> str:
    """Return a record as text; empty, when its line is blank.

    Raises:
        JobInvalid: it is too long, or not UTF-8.
    """
    if record is None:
        raise _invalid(at, f"The record is longer than {MAX_RECORD_BYTES:,} bytes")
    try:
        return "" if record.isspace() else record.decode()
    except UnicodeDecodeError as error:
        raise _invalid(at, _not_utf8(error)) from None


def _cells(text: str, delimiter: str, at: str) -> list[str]:
    try:
        # One record is one string here, so `csv` gets it at once.
        return next(csv.reader([text], strict=True, delimiter=delimiter))
    except csv.Error as error:
        raise _invalid(at, f"The record is not CSV (RFC 4180): {error}") from None


def _document(columns: list[Column], cells: list[str], *, at: str) -> dict[str, object]:
    """Return the arguments of a record; an empty cell gives none."""
    # Spreadsheets end records with more delimiters than there are columns.
    while len(cells) > len(columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(columns):
        quotes = "; a cell that holds a delimiter stands in quotes" if len(cells) > len(columns) else ""
        raise _invalid(at, f"The record has {len(cells)} cells, the header {len(columns)}{quotes}")
    pairs = zip(columns, cells, strict=True)
    return {
        str(column.name): column.read(cell, at=at) for column, cell in pairs if cell and column.takes(cell)
    }


def _ref_of(columns: list[Column], cells: list[str]) -> str | None:
    """Return the ref of a record that is rejected; None without one, and where it is not sure which it is."""
    if len(cells) != len(columns):
        return None
    pairs = zip(columns, cells, strict=True)
    return next((cell for column, cell in pairs if column.name == "ref" and is_ref(cell)), None)


def _likely_delimiters(media_type: str) -> bytes:
    return b"\t,;|" if media_type == TSV_TYPE else DELIMITERS


def _commonest_delimiter(header: str, delimiters: bytes) -> str:
    """Return the delimiter that a header has most of outside its quotes; the first, if it has none."""
    unquoted = "".join(header.split('"')[::2])
    return max(delimiters.decode(), key=unquoted.count)


def _read_header(kind: Kind, cells: Sequence[str], *, at: str, needs_url: bool) -> list[Column]:
    """Return the columns that a header names; those that name no argument are ignored.

    Raises:
        JobInvalid: a name comes twice, is nearly that of an argument, or no column has URLs. The message
            gives its place and not the name: a body without a header begins with values that may be secret.
    """
    schema = kind.args_model.model_json_schema()
    known: Mapping[str, Any] = {**schema["properties"], "ref": {"type": "string"}}
    names = _argument_names([trimmed(cell) for cell in cells], known)
    errors = [
        FieldError(at, msg)
        for place, name in enumerate(names, start=1)
        if (msg := _header_fault(known, names, place, name))
    ]
    if needs_url and "url" not in names:
        errors = [FieldError(at, _no_url_column(kind, cells, known))]
    if errors:
        raise JobInvalid(errors)
    definitions = schema.get("$defs", {})
    return [
        Column(name, frozenset(_types(known[name], definitions))) if name in known else Column(None)
        for name in names
    ]


def _argument_names(cells: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Return the names of a header, with what only other programs call so put into our words."""
    names, lowered = list(cells), [cell.lower() for cell in cells]
    for ours, theirs in (("url", URL_COLUMNS), ("ref", ("ref",))):
        called = next((name for name in theirs if name in lowered), None)
        if ours in known and ours not in names and called is not None:
            names[lowered.index(called)] = ours
    return names


def _header_fault(known: Mapping[str, Any], names: Sequence[str], place: int, name: str) -> str | None:
    if name in known and (first := names.index(name) + 1) != place:
        return f"Columns {first} and {place} of the header are both {name}"
    if name not in known and "_" in name:
        # Other columns are ignored, and an argument must not be for a typing error.
        alike = difflib.get_close_matches(
            name.lower(), [each for each in known if "_" in each], 1, _TYPING_ERROR
        )
        if alike:
            return f"Column {place} of the header is no argument; did you mean {alike[0]}?"
    return None


def _no_url_column(kind: Kind, cells: Sequence[str], known: Mapping[str, Any]) -> str:
    if is_markup(cells[0]):
        return f"It looks like XML or HTML. {TAKEN}"
    if any("://" in cell for cell in cells):
        return (
            "The first line must name the columns, such as url,title; it has a URL. "
            "A list of URLs alone is sent as text/plain"
        )
    called, known_names = ", ".join(URL_COLUMNS[1:]), ", ".join(known)
    return f"No column of the header is named url, {called}; the arguments of {kind.name} are: {known_names}"


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


def _not_utf8(error: UnicodeDecodeError) -> str:
    at = error.start
    return f"It is not UTF-8: byte {at + 1} of it is 0x{error.object[at]:02X}; save it as UTF-8"


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
