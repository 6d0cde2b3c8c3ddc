"""Structured logs on standard output: a constant event name, and facts as fields."""

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from shared.settings import LogFormat, Settings

# What logging puts on every record; everything else was given as `extra` and is shown.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure_logging(settings: Settings, *, process: str) -> None:
    """Send the logs of this process to standard output in the chosen format."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        _json_formatter(process) if settings.log_format is LogFormat.JSON else _ConsoleFormatter()
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    # The AMQP libraries log every connection refused with a traceback; we log it once, as an event.
    for noisy in ("aio_pika", "aiormq", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR if noisy != "alembic" else logging.WARNING)


def _json_formatter(process: str) -> logging.Formatter:
    return JsonFormatter(
        "{message}{levelname}{name}",
        style="{",
        timestamp="at",
        rename_fields={"message": "event", "levelname": "level", "name": "logger"},
        static_fields={"process": process},
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],
    )


class _ConsoleFormatter(logging.Formatter):
    """One readable line: time, level, event, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        line = (
            f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {record.getMessage():<26} {facts}"
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line.rstrip()
