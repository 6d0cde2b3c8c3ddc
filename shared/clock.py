"""Wall-clock time. Durations are measured with `time.monotonic`, never with this."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
