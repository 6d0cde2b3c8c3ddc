"""Stored JSON for people to read: indented, and otherwise as it is. Pure.

Numbers are never read: 9223372036854775808 and 1.10 are shown as they were stored.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SHORT_CHARACTERS: Final = 2_048
"""So much of a document is shown at once."""
MOST_CHARACTERS: Final = 65_536
"""So much is shown when somebody wants to see more; for the rest they download it."""

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_INDENT = "  "
# What is nested more deeply is nothing that somebody reads.
_MOST_LEVELS = 40


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as a page shows it: at once, on demand, and whether there is still more."""

    short: str
    more: str
    is_cut: bool


def show_json(text: str) -> Shown:
    """Return a JSON text as a page shows it."""
    pieces, length = [], 0
    for piece in _indented(text):
        pieces.append(piece)
        length += len(piece)
        if length > MOST_CHARACTERS:
            break
    is_cut = length > MOST_CHARACTERS
    indented = "".join(pieces)[:MOST_CHARACTERS]
    if len(indented) <= SHORT_CHARACTERS:
        return Shown(indented, "", is_cut)
    end = indented.rfind("\n", 0, SHORT_CHARACTERS) + 1 or SHORT_CHARACTERS
    return Shown(indented[:end], indented[end:], is_cut)


def indent(text: str) -> str:
    """Return a JSON text with a line for each value, all of it."""
    return "".join(_indented(text))


def _indented(text: str) -> Iterator[str]:
    depth, was_open = 0, False
    for match in _TOKENS.finditer(text):
        token = match[0]
        match token:
            case "]" | "}":
                depth = max(depth - 1, 0)
                yield token if was_open else f"{_line(depth)}{token}"
                was_open = False
            case ",":
                yield f",{_line(depth)}"
            case ":":
                yield ": "
            case _:
                yield f"{_line(depth)}{token}" if was_open else token
                was_open = token in {"[", "{"}
                depth += was_open


def _line(depth: int) -> str:
    return f"\n{_INDENT * min(depth, _MOST_LEVELS)}"
