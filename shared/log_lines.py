"""How a log line is written: nothing that a stranger sent ends it, hides in it, fills it or opens anything.

Both formats show the same. A value is cut, loses its secrets (`shared.redaction`), and has every character
that prints nothing written out as Python would: line ends, escape sequences, marks of direction.
"""

import logging
import re
import sys
import threading
from datetime import datetime
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from shared.redaction import is_secret_name, masked, redact_logged

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

logger = logging.getLogger(__name__)

MAX_VALUE_CHARACTERS: Final = 2_000
"""Of one value; what is cut off is counted in the line."""
MAX_TRACEBACK_CHARACTERS: Final = 20_000
"""Of a traceback, half from its beginning and half from its end, where the error is."""
_MAX_ITEMS = 100
_MAX_DEPTH = 5
_LONGEST_NAME = 100

# Most values: names and ids.
_PLAIN = re.compile(r"[0-9A-Za-z_.,/-]*+")
_NEVER_TEXT = frozenset({int, float, bool, type(None), datetime})
# What logging puts on every record; everything else was given as `extra` and is shown.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class ConsoleFormatter(logging.Formatter):
    """One readable line: time, level, event, then the facts. A traceback follows, further to the right."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = " ".join(
            f"{printable(key)}={_shown(key, value)}"
            for key, value in vars(record).items()
            if key not in _STANDARD
        )
        event = printable(record.getMessage())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {event:<26} {facts}".rstrip()
        if not record.exc_info:
            return line
        # No line of it can be taken for one of ours.
        return "\n    ".join((line, *self.formatException(record.exc_info).split("\n")))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return a traceback as it is shown."""
        return printable_lines(super().formatException(ei))


class JsonLines(JsonFormatter):
    """One JSON object a line."""

    def __init__(self, *, process: str) -> None:
        """Take the name that each line has as `process`."""
        super().__init__(
            "{message}{levelname}{name}",
            style="{",
            timestamp="at",
            rename_fields={"message": "event", "levelname": "level", "name": "logger"},
            static_fields={"process": process},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Return the fields as they are shown."""
        if _is_plain(log_data):
            return log_data
        return {printable(key): self._field(key, value) for key, value in log_data.items()}

    def _field(self, key: str, value: Any) -> Any:
        if key in {"exc_info", "stack_info"}:
            return printable_lines(str(value))
        return masked(value) if isinstance(value, str) and value and is_secret_name(key) else _cleaned(value)


def printable(text: str, *, limit: int = MAX_VALUE_CHARACTERS) -> str:
    """Return a text for one line of a log or a terminal: cut, without secrets, nothing unseen in it."""
    if len(text) <= limit and _PLAIN.fullmatch(text):
        return text
    # A little more than is shown, so that a password at the end is known for one.
    shown = escaped(redact_logged(text[: 2 * limit]))
    if len(text) <= limit and len(shown) <= 2 * limit:
        return shown
    return f"{shown[:limit]}... ({len(text):,} characters)"


def printable_lines(text: str) -> str:
    """Return a traceback, or another text of several lines, as it is shown."""
    half = MAX_TRACEBACK_CHARACTERS // 2
    if len(text) > 2 * half:
        text = f"{text[:half]}\n... ({len(text) - 2 * half:,} characters are left out)\n{text[-half:]}"
    return "\n".join(map(escaped, redact_logged(text).split("\n")))


def escaped(text: str) -> str:
    """Return a text with every character written out that prints nothing."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def log_what_nobody_catches() -> None:
    """Have errors that end a process or thread, and warnings, logged as all else; Python prints them raw."""
    logging.captureWarnings(capture=True)

    def log_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            logger.critical("process_crashed", exc_info=(kind, error, trace))

    def log_thread_end(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and args.exc_type is not SystemExit:
            logger.error("thread_crashed", exc_info=(args.exc_type, args.exc_value, args.exc_traceback))

    def log_unraisable(args: "UnraisableHookArgs") -> None:
        error = args.exc_value or args.exc_type()
        logger.error("error_ignored", exc_info=(args.exc_type, error, args.exc_traceback))

    sys.excepthook = log_end
    threading.excepthook = log_thread_end
    sys.unraisablehook = log_unraisable


def _is_plain(fields: dict[str, Any]) -> bool:
    """Return quickly whether fields are shown as they are, as nearly all are: thousands a second."""
    texts = []
    for key, value in fields.items():
        if type(value) is str:
            texts.append(value)
        elif type(value) not in _NEVER_TEXT:
            return False
        if not _is_plain_name(key):
            return False
    together = "".join(texts)
    return len(together) <= MAX_VALUE_CHARACTERS and _PLAIN.fullmatch(together) is not None


@lru_cache(maxsize=1_024)
def _is_plain_name(key: str) -> bool:
    return len(key) <= _LONGEST_NAME and _PLAIN.fullmatch(key) is not None and not is_secret_name(key)


def _shown(key: str, value: object) -> str:
    return (
        masked(value) if isinstance(value, str) and value and is_secret_name(key) else printable(str(value))
    )


def _cleaned(value: Any, depth: int = _MAX_DEPTH) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return printable(value)
        case dict() if depth:
            items = list(value.items())[:_MAX_ITEMS]
            return {
                printable(str(name)): masked(inner)
                if isinstance(inner, str) and is_secret_name(str(name))
                else _cleaned(inner, depth - 1)
                for name, inner in items
            }
        case list() | tuple() if depth:
            return [_cleaned(inner, depth - 1) for inner in value[:_MAX_ITEMS]]
        case _ if hasattr(value, "isoformat"):
            return value.isoformat()
        case _:
            return printable(str(value))
