"""Types of options that several commands take, and how they take several options."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)


def several(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return what gives a command options, in the order in which its help shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Duration(click.ParamType[float]):
    """A time as people write it: `90`, `90s`, `15m`, `12h`, `1d`; in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is no time such as 90s, 15m, 12h or 1d.", param, ctx)
        return float(match[1]) * _UNITS[match[2].lower()]


class Pattern(click.ParamType[re.Pattern[str]]):
    """A regular expression of Python."""

    name = "regex"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[str]:
        """Return the pattern."""
        try:
            return re.compile(value)
        except re.error as error:
            self.fail(f"{value!r} is no regular expression: {error}.", param, ctx)


class Pair(click.ParamType[tuple[str, str]]):
    """A name and a value with a mark between them; of header fields without blanks around the value."""

    name = "pair"

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return both."""
        if isinstance(value, tuple):
            return value[0], value[1]
        name, mark, text = value.partition(self._mark)
        if not mark or not name.strip():
            self.fail(f"{value!r} has no name and value with {self._mark!r} between them.", param, ctx)
        return name.strip(), text.strip() if mark == ":" else text


class Choices(click.ParamType[tuple[str, ...]]):
    """Words of a list, with commas between them."""

    name = "words"

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the words, each once."""
        if isinstance(value, tuple):
            return value
        chosen = tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
        for word in chosen:
            if word not in self._words:
                self.fail(f"{word!r} is none of {', '.join(self._words)}.", param, ctx)
        return chosen


class ReportTarget(click.ParamType[tuple[str, Path]]):
    """A format and the file of its report: `junit=report.xml`."""

    name = "FORMAT=PATH"

    def __init__(self, formats: tuple[str, ...]) -> None:
        self._formats = formats

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """Return both, when a file can be there."""
        if isinstance(value, tuple):
            return value[0], value[1]
        name, mark, path = value.partition("=")
        if not mark or not path or name not in self._formats:
            self.fail(f"{value!r} is not FORMAT=PATH with one of {', '.join(self._formats)}.", param, ctx)
        if not Path(path).parent.is_dir():
            self.fail(f"{path}: there is no such folder.", param, ctx)
        return name, Path(path)
