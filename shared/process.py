"""What every process sets up before it begins: logs, patches of libraries, garbage collection, signals."""

import asyncio
import base64
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from urllib.parse import urlsplit

from shared.broker.addresses import hosts_of
from shared.broker.fast.patches import patch_libraries
from shared.log_lines import ConsoleFormatter, JsonLines, log_what_nobody_catches
from shared.redaction import use_mask_key
from shared.settings import LogFormat, Settings
from shared.tls import exposure, warn_of_exposure

logger = logging.getLogger(__name__)

# How often the middle and the old generation of objects are looked at, in collections of the one before.
_OLDER_EVERY = (20, 50)


def prepare_process(settings: Settings, *, process: str, collect_every: int = 5_000) -> None:
    """Configure logs and masks, patch the AMQP libraries unless told not to, and tune the garbage collector.

    The process may then have as many files and connections open as the system lets it have, what it writes
    can be read by its own user alone, and large memory goes back to the system when it is free.

    Args:
        process: The name that log lines carry.
        collect_every: After how many new objects, less those freed, the youngest are searched for cycles.
    """
    os.umask(0o077)
    _use_mask_key(settings)
    _configure_logging(settings, process=process)
    patch_libraries(plain=settings.amqp_plain)
    _raise_descriptor_limit()
    _collect_seldom(collect_every)
    _return_large_memory()


def warn_of_open_broker(settings: Settings) -> None:
    """Log if RabbitMQ or its management API is on another machine, and the way there is open."""
    management = settings.management_url.get_secret_value() if settings.management_url is not None else None
    if management is not None:
        warn_of_exposure(
            exposure(management),
            setting="RETRIEVER_MANAGEMENT_URL",
            hosts=[urlsplit(management).hostname or ""],
            unwarned=settings.no_tls_hosts,
        )
    warn_of_exposure(
        exposure(settings.amqp_url),
        setting="RETRIEVER_AMQP_URL",
        hosts=hosts_of(settings.amqp_url),
        unwarned=settings.no_tls_hosts,
    )


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


def _use_mask_key(settings: Settings) -> None:
    """Let people tell masked values apart, if there is a key for it."""
    if settings.mask_key is not None:
        use_mask_key(base64.b64decode(settings.mask_key.get_secret_value()))


def _return_large_memory() -> None:
    """Let the system have large pieces of memory back as soon as they are free.

    glibc takes pieces of 128 KiB and more from the system one by one, until it has seen a larger one freed:
    from then on it takes those from its heap, too, where one small piece above keeps all below. A worker that
    had a hundred large bodies in hand kept 120 MB for good. A fixed limit stays (mallopt(3)).
    """
    with suppress(AttributeError, OSError):  # Without glibc there is nothing to do.
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 131_072


def _configure_logging(settings: Settings, *, process: str) -> None:
    """Send the logs of this process to standard output in the chosen format."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        JsonLines(process=process) if settings.log_format is LogFormat.JSON else ConsoleFormatter()
    )
    # What libraries say at DEBUG shows rows, statements and headers: only our own rooms do.
    ours, others = settings.log_level, "INFO" if settings.log_level == "DEBUG" else settings.log_level
    logging.basicConfig(handlers=[handler], level=others, force=True)
    for room in ("producer", "consumer", "shared", "__main__"):
        logging.getLogger(room).setLevel(ours)
    log_what_nobody_catches()
    # The AMQP libraries log every connection refused, some with a traceback; we log it once, as an event.
    for noisy, level in {
        "aio_pika": logging.ERROR,
        "aiormq": logging.ERROR,
        "aiormq.connection": logging.CRITICAL,
        "alembic": logging.WARNING,
    }.items():
        logging.getLogger(noisy).setLevel(level)


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
