"""The search language of the dashboard: `state:parked host:example.com docs`. Pure.

Each word is a filter of `GET /jobs` by a shorter name; what is none is looked for in the URL. The address of
a page has the filters by the names that the API gives them: it can be kept, sent, and asked of the API.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from producer.unknown_fields import no_such
from shared.times import parse_time

WORDS: Final[Mapping[str, str]] = {
    "url": "url",
    "host": "host",
    "kind": "kind",
    "state": "state",
    "reason": "reason",
    "label": "label",
    "batch": "batch_id",
    "schedule": "schedule_id",
    "ref": "ref",
    "after": "created_after",
    "before": "created_before",
}
"""The words of the language, and which parameter of `GET /jobs` each is."""

_NAMES = {parameter: word for word, parameter in WORDS.items()} | {"batch": "batch", "schedule": "schedule"}
_TIMES = frozenset({"after", "before"})
_AGE = re.compile(r"(\d{1,6})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_WORD = re.compile(r"([a-z_]+):(?!//)(.*)", re.DOTALL)
# A quoted value may have blanks; a quote inside is doubled.
_TOKEN = re.compile(r'(?:[^\s"]|"(?:[^"]|"")*"?)+')
_QUOTED = re.compile(r'[\s"]')
_MAX_LENGTH = 4_000


class SearchInvalid(ValueError):
    """What was searched for cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of a list: the parameter's name as the API has it, and its value."""

    name: str
    value: str

    @property
    def word(self) -> str:
        """The filter as somebody would type it."""
        word, value = _NAMES.get(self.name, self.name), self.value
        if _QUOTED.search(value):
            value = '"{}"'.format(value.replace('"', '""'))
        return f"{word}:{value}"


def read_search(text: str, *, now: datetime) -> list[Filter]:
    """Return the filters that a text asks for.

    Raises:
        SearchInvalid: it has a word that is none, or a time that cannot be read.
    """
    if len(text) > _MAX_LENGTH:
        raise SearchInvalid(f"A search has at most {_MAX_LENGTH:,} characters.")
    found: list[Filter] = []
    for token in _TOKEN.findall(text):
        match = _WORD.fullmatch(token)
        if match is None:
            found.append(Filter("url", _unquoted(token)))
            continue
        word, value = match[1], _unquoted(match[2])
        if word not in WORDS:
            raise SearchInvalid(f"{no_such('word', list(WORDS))}: {word}. Quote what you look for in URLs.")
        if not value:
            raise SearchInvalid(f"Say which {word} you look for: {word}:…")
        if word == "label" and ":" not in value:
            # As the command line has it.
            value = value.replace("=", ":", 1)
        found.append(Filter(WORDS[word], _time(value, now) if word in _TIMES else value))
    return found


def as_text(filters: Iterable[Filter]) -> str:
    """Return filters as the text that asks for them."""
    return " ".join(each.word for each in filters)


def looked_for_id(text: str) -> UUID | None:
    """Return the id that somebody has pasted, and nothing else."""
    try:
        found = UUID(text.strip())
    except ValueError:
        return None
    return found if str(found) == text.strip().lower() else None


def as_command(filters: Sequence[Filter]) -> list[str]:
    """Return the arguments with which the command line lists the same; none when it cannot."""
    arguments = ["retriever", "jobs", "list"]
    for each in filters:
        match each.name:
            case "state" | "kind" | "host" | "url" | "reason" | "ref":
                arguments += [f"--{each.name}", each.value]
            case "batch_id" | "batch":
                arguments += ["--batch", each.value]
            case "label":
                name, _, value = each.value.partition(":")
                arguments += ["--label", f"{name}={value}"]
            case _:
                return []
    return arguments


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    inner = text[1:-1] if len(text) > 1 and text.endswith('"') else text[1:]
    return inner.replace('""', '"')


def _time(text: str, now: datetime) -> str:
    """Return a time as the API takes it: a date, a time of RFC 3339, or how long ago, such as `2h`."""
    if (age := _AGE.fullmatch(text)) is not None:
        try:
            return (now - timedelta(**{_UNITS[age[2]]: int(age[1])})).isoformat(timespec="seconds")
        except OverflowError:
            raise SearchInvalid(f"{text} ago there was nothing.") from None
    if _DATE.fullmatch(text):
        text = f"{text}T00:00:00Z"
    try:
        parse_time(text)
    except ValueError as error:
        raise SearchInvalid(
            f"{text[:50]} is no time: {error}. "
            "Write 2026-01-02, 2026-01-02T12:00:00Z, or 2h for two hours ago."
        ) from None
    return text
