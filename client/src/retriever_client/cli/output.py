"""What commands print: data to stdout in the format that was asked for, words to stderr.

A list is printed as it is read: a table knows its widths after the first rows, and all else needs none. What
strangers said is escaped wherever a terminal may show it. Columns are only ever added, at the end.
"""

import csv
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, Final

import click

FORMATS: Final = ("table", "plain", "json", "ndjson", "csv")
# What a cell of a table has at most; other formats have all of it.
_CELL: Final = 60
# So many rows are looked at for the widths of a table.
ROWS_LOOKED_AT: Final = 200
# No narrower than this, so that rows which come one by one stand below each other.
_WIDTHS: Final = {
    "id": 36,
    "kind": 7,
    "state": 9,
    "verdict": 7,
    "created_at": 20,
    "type": 15,
    "reason": 12,
    "url": 40,
}
_COLOURS: Final = {
    **dict.fromkeys(("succeeded", "ok", "done", "active"), "green"),
    **dict.fromkeys(("parked", "broken", "down", "revoked", "open"), "red"),
    **dict.fromkeys(("delayed", "blocked", "cancelled", "paused", "expired"), "yellow"),
    **dict.fromkeys(("running", "queued"), "cyan"),
}
_COLOURED: Final = frozenset({"state", "verdict", "breaker"})


@dataclass(slots=True)
class Output:
    """In which format to print, and what of it.

    Attributes:
        query: What to take of the documents; None takes all, as the command shows it.
    """

    format: str = "table"
    query: Callable[[Any], Any] | None = None

    def set_query(self, expression: str) -> None:
        """Take of all documents what a JMESPath expression says.

        Raises:
            click.BadParameter: it is none.
        """
        import jmespath  # noqa: PLC0415 - few ask for it

        try:
            self.query = jmespath.compile(expression).search
        except jmespath.exceptions.JMESPathError as error:
            raise click.BadParameter(f"{expression!r} is no JMESPath: {error}") from None

    def many(
        self, found: Iterable[Any], columns: Sequence[str], *, at_once: bool = False, is_whole: bool = False
    ) -> int:
        """Print models or documents as they come, and return how many there were.

        Args:
            columns: Which fields a table, plain text and CSV have: each a path, or a name, `=` and a path.
            at_once: Each row when it comes, rather than after the first were looked at for their widths.
            is_whole: Cut no cell of a table.
        """
        counted = _Counted(found)
        if self.query is not None:
            documents = (_document(each) for each in counted)
            if self.format == "ndjson":
                self._lines(self._ask(self.query, each) for each in documents)
            else:
                self.value(self._ask(self.query, [*documents]))
        elif self.format == "json":
            _print_array(_document(each) for each in counted)
        elif self.format == "ndjson":
            self._lines(_document(each) for each in counted)
        else:
            rows = ([_field(each, name) for name in columns] for each in counted)
            looked_at = 1 if at_once else ROWS_LOOKED_AT
            self._rows(rows, [*map(_name, columns)], looked_at=looked_at, is_whole=is_whole)
        return counted.count

    def one(self, found: Any, columns: Sequence[str]) -> None:
        """Print one model or document: a table has a line for each field."""
        document = _document(found)
        if self.query is not None:
            self.value(self._ask(self.query, document))
        elif self.format in {"json", "ndjson"}:
            click.echo(json.dumps(document, indent=2 if self.format == "json" else None))
        elif self.format == "csv":
            self._rows([[_field(found, name) for name in columns]], [*map(_name, columns)])
        else:
            self._fields({_name(each): _field(found, each) for each in columns})

    def value(self, value: Any) -> None:
        """Print any JSON value, such as what a query found."""
        match value:
            case _ if self.format == "json":
                click.echo(json.dumps(value, indent=2))
            case _ if self.format == "ndjson":
                self._lines(value if isinstance(value, list) else [value])
            case Mapping() if self.format == "csv":
                self._rows([[*value.values()]], [*value])
            case Mapping():
                self._fields(value)
            case [Mapping(), *_] if all(isinstance(each, Mapping) for each in value):
                columns = [*value[0]]
                self._rows([[each.get(name) for name in columns] for each in value], columns)
            case [list(), *_] if all(isinstance(each, list) for each in value):
                self._rows(value, None)
            case list():
                self._rows([[each] for each in value], None)
            case _:
                click.echo(_text(value))

    def _ask(self, query: Callable[[Any], Any], document: Any) -> Any:
        from jmespath.exceptions import JMESPathError  # noqa: PLC0415 - few ask for it

        try:
            return query(document)
        except JMESPathError as error:
            raise click.UsageError(f"--query: {error}") from None

    def _lines(self, values: Iterable[Any]) -> None:
        for each in values:
            click.echo(json.dumps(each))

    def _fields(self, values: Mapping[str, Any]) -> None:
        width = max((len(name) for name in values), default=0) + 2
        for name, value in values.items():
            text = _text(value)
            click.echo(
                f"{name}\t{text}" if self.format == "plain" else f"{name:<{width}}{_coloured(name, text)}"
            )

    def _rows(
        self,
        rows: Iterable[Sequence[Any]],
        columns: Sequence[str] | None,
        *,
        looked_at: int = ROWS_LOOKED_AT,
        is_whole: bool = False,
    ) -> None:
        match self.format:
            case "csv":
                writer = csv.writer(_Echo(), lineterminator="\n")
                if columns is not None:
                    writer.writerow(columns)
                for row in rows:
                    writer.writerow(["" if value is None else escaped(_plain(value)) for value in row])
            case "plain":
                for row in rows:
                    click.echo("\t".join(_text(value) for value in row))
            case _:
                _print_table(iter(rows), columns, looked_at, None if is_whole else _CELL)


def say(words: str) -> None:
    """Tell a person something, on stderr."""
    click.echo(escaped(words, keep="\n"), file=sys.stderr)


def colour_choice(asked: str) -> bool | None:
    """Return whether colours are wanted: None leaves it to whether a terminal is there.

    See https://no-color.org; CLICOLOR_FORCE is that of https://bixense.com/clicolors.
    """
    if asked != "auto":
        return asked == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("CLICOLOR_FORCE", "0") != "0" else None


def escaped(text: str, *, keep: str = "") -> str:
    r"""Return text in which what could draw on a terminal is written as `\n`, `\x1b` or `\u202e`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def _print_array(documents: Iterable[Any]) -> None:
    """Print a JSON array an item at a time."""
    opened = False
    for each in documents:
        click.echo(",\n" if opened else "[\n", nl=False)
        opened = True
        click.echo("  " + json.dumps(each, indent=2).replace("\n", "\n  "), nl=False)
    click.echo("\n]" if opened else "[]")


def _print_table(
    rows: Iterator[Sequence[Any]], columns: Sequence[str] | None, looked_at: int, most: int | None
) -> None:
    names = None if columns is None else list(columns)
    first = [_cells(row, most) for row in islice(rows, looked_at)]
    heads = [] if names is None else [[name.upper() for name in names]]
    floors = (
        [0] * len(first[0] if first else ()) if names is None else [_WIDTHS.get(each, 0) for each in names]
    )
    widths = [max(widths) for widths in zip(*(map(_width, row) for row in (*heads, *first)), strict=True)]
    if looked_at == 1:
        widths = [max(pair) for pair in zip(widths, floors, strict=True)]
    for row in heads:
        click.echo(click.style(_line(row, widths, None), bold=True))
    for row in chain(first, (_cells(row, most) for row in rows)):
        click.echo(_line(row, widths, names))


def _cells(row: Sequence[Any], most: int | None) -> list[str]:
    texts = (_short(value) for value in row)
    return [text if most is None or len(text) <= most else f"{text[: most - 1]}…" for text in texts]


def _line(cells: Sequence[str], widths: Sequence[int], names: Sequence[str] | None) -> str:
    padded = [
        (_coloured(name, cell), max(0, width - _width(cell)))
        for name, cell, width in zip(names or [""] * len(cells), cells, widths, strict=False)
    ]
    last = len(padded) - 1
    return "  ".join(
        text + " " * (blanks if place < last else 0) for place, (text, blanks) in enumerate(padded)
    ).rstrip()


def _coloured(name: str, text: str) -> str:
    colour = _COLOURS.get(text) if name in _COLOURED else None
    return text if colour is None else click.style(text, fg=colour)


def _width(text: str) -> int:
    """Return how many places of a terminal a text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _short(value: Any) -> str:
    """Return a value as a table has it: a time without its fractions."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _text(value)


def _text(value: Any) -> str:
    """Return a value on one line; nothing is a dash, so that no column is empty."""
    return escaped(_plain(value)) or "-"


def _plain(value: Any) -> str:
    match value:
        case None:
            text = ""
        case str():
            text = value
        case bool():
            text = "yes" if value else "no"
        case datetime():
            text = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case float():
            text = f"{value:g}"
        case Mapping() if all(isinstance(each, str | int) for each in value.values()):
            text = " ".join(f"{key}={each}" for key, each in value.items() if each)
        case tuple() | list() if all(isinstance(each, str | int | datetime) for each in value):
            text = ",".join(map(_plain, value))
        case _:
            text = json.dumps(_document(value), default=str)
    return text


def _document(found: Any) -> Any:
    """Return what there is as JSON has it: of a model the whole document."""
    match found:
        case list() | tuple():
            return [_document(each) for each in found]
        case _ if hasattr(found, "raw"):
            return found.raw
        case _ if is_dataclass(found) and not isinstance(found, type):
            return {each.name: _document(getattr(found, each.name)) for each in fields(found)}
        case _:
            return found


def _field(found: Any, column: str) -> Any:
    """Return what a model or document has there, such as `limit.concurrency`; None where it has nothing."""
    _, _, path = column.rpartition("=")
    for name in path.split("."):
        match found:
            case Mapping():
                found = found.get(name)
            case list() | tuple() if name.isdecimal():
                found = found[int(name)] if int(name) < len(found) else None
            case _:
                found = getattr(found, name, None)
    return found


def _name(column: str) -> str:
    return column.partition("=")[0]


class _Counted:
    """Yields what another does, and knows how many there were."""

    def __init__(self, found: Iterable[Any]) -> None:
        self._found = found
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        for each in self._found:
            self.count += 1
            yield each


class _Echo:
    """Where the `csv` module writes to."""

    def write(self, text: str) -> None:
        click.echo(text, nl=False)
