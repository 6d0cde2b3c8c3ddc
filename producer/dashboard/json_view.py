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


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as a page shows it: at once, on demand, and whether there is still more."""

    short: str
    more: str
    is_cut: bool


def show_json(text: str) -> Shown:
    """Return a JSON text as a page shows it."""
    # Indented a text is longer, so no more of it is needed.
    indented = "".join(_indented(text[: MOST_CHARACTERS + 1]))
    is_cut = len(text) > MOST_CHARACTERS or len(indented) > MOST_CHARACTERS
    indented = indented[:MOST_CHARACTERS]
    if len(indented) <= SHORT_CHARACTERS:
        return Shown(indented, "", is_cut)
    end = indented.rfind("\n", 0, SHORT_CHARACTERS) + 1 or SHORT_CHARACTERS
    return Shown(indented[:end], indented[end:], is_cut)


def _indented(text: str) -> Iterator[str]:
    depth, was_open = 0, False
    for match in _TOKENS.finditer(text):
        token = match[0]
        match token:
            case "]" | "}":
                depth = max(depth - 1, 0)
                yield token if was_open else f"\n{_INDENT * depth}{token}"
                was_open = False
            case ",":
                yield f",\n{_INDENT * depth}"
            case ":":
                yield ": "
            case _:
                yield f"\n{_INDENT * depth}{token}" if was_open else token
                was_open = token in {"[", "{"}
                depth += was_open
