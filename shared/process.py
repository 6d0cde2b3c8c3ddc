"""What every process sets up before it begins: logs, patches of libraries, garbage collection, signals."""

import asyncio
import gc
import logging
import resource
import signal
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from shared.broker.fast.patches import patch_libraries
from shared.settings import LogFormat, Settings

logger = logging.getLogger(__name__)

# What logging puts on every record; everything else was given as `extra` and is shown.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# How often the middle and the old generation of objects are looked at, in collections of the one before.
_OLDER_EVERY = (20, 50)


def prepare_process(settings: Settings, *, process: str, collect_every: int = 5_000) -> None:
    """Configure logs, patch the AMQP libraries unless `RETRIEVER_AMQP_PLAIN`, and tune the garbage collector.

    The process may then have as many files and connections open as the system lets it have.

    Args:
        process: The name that log lines carry.
        collect_every: After how many new objects, less those freed, the youngest are searched for cycles.
    """
    _configure_logging(settings, process=process)
    patch_libraries(plain=settings.amqp_plain)
    _raise_descriptor_limit()
    _collect_seldom(collect_every)


def descriptor_limit() -> int:
    """Return how many files and connections this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def stop_event() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. Call it on the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _configure_logging(settings: Settings, *, process: str) -> None:
    """Send the logs of this process to standard output in the chosen format."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        _json_formatter(process) if settings.log_format is LogFormat.JSON else _ConsoleFormatter()
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    # The AMQP libraries log every connection refused, some with a traceback; we log it once, as an event.
    for noisy, level in {
        "aio_pika": logging.ERROR,
        "aiormq": logging.ERROR,
        "aiormq.connection": logging.CRITICAL,
        "alembic": logging.WARNING,
    }.items():
        logging.getLogger(noisy).setLevel(level)


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


def _raise_descriptor_limit() -> None:
    # The soft limit is low for programs that use select(); none of ours does.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        logger.warning("descriptor_limit_kept", extra={"limit": soft, "error": str(error)})


def _collect_seldom(collect_every: int) -> None:
    # Hundreds of jobs in hand are thousands of objects that come and go. Python searches for cycles after 700
    # more objects have come than gone, and now and then through all of our imports: a fifth of a worker's
    # time. What has been imported stays, so it is not searched again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(collect_every, *_OLDER_EVERY)
