"""What commands print: data to stdout in the format that was asked for, words to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

from retriever_client.models import Shown

FORMATS: Final = ("table", "plain", "json", "ndjson")
# What a cell of a table has at most.
_CELL = 60


def show_many(found: Iterable[Shown], columns: Sequence[str], output: str) -> int:
    """Print models as they come, and return how many there were; a table only when all are there."""
    count = 0
    match output:
        case "json":
            documents = [dict(each.raw) for each in found]
            click.echo(json.dumps(documents, indent=2))
            return len(documents)
        case "table":
            rows = [[_cell(each, name)[:_CELL] for name in columns] for each in found]
            heads = [name.upper() for name in columns]
            widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
            for row in (heads, *rows):
                click.echo("  ".join(map(str.ljust, row, widths)).rstrip())
            return len(rows)
        case _:
            for each in found:
                count += 1
                is_plain = output == "plain"
                line = "\t".join(_cell(each, name) for name in columns) if is_plain else json.dumps(each.raw)
                click.echo(line)
            return count


def show_one(found: Shown, columns: Sequence[str], output: str) -> None:
    """Print one model: as its document, or its fields a line each."""
    match output:
        case "json" | "ndjson":
            click.echo(json.dumps(found.raw, indent=2 if output == "json" else None))
        case _:
            for name in columns:
                click.echo(
                    f"{name}\t{_cell(found, name)}"
                    if output == "plain"
                    else f"{name:<14}{_cell(found, name)}"
                )


def say(words: str) -> None:
    """Tell a person something."""
    click.echo(words, file=sys.stderr)


def _cell(found: Shown, name: str) -> str:
    value: Any = getattr(found, name)
    match value:
        case None:
            text = "-"
        case Mapping():
            text = " ".join(f"{key}={each}" for key, each in value.items() if each)
        case _:
            text = str(value)
    # What a stranger's page said must not draw on a terminal.
    return "".join(char if char.isprintable() else " " for char in text)
