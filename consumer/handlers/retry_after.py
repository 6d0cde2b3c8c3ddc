"""How long a target asks us to stay away: `Retry-After`, RFC 9110 section 10.2.3, and its dialects."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

MAX_SECONDS = 366 * 86_400.0
"""Nobody means more; and a number this side of infinity survives JSON."""

_SECONDS = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
# "30s" and "1m30s" are seen in the wild (linkinator issue 713).
_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d+)?)s)?", re.ASCII | re.IGNORECASE)
# RFC 9110 section 5.6.7: IMF-fixdate, RFC 850 and asctime.
_DATE_FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


def honours_retry_after(status: int) -> bool:
    """Return whether the field means anything in an answer of this status."""
    return status in {429, 503} or 300 <= status < 400


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return for how long a target asks us to stay away, or None if it does not, or not intelligibly.

    A date is measured against the answer's own `Date`, when it has one, so that a clock that is
    wrong at either end does not matter.

    Args:
        headers: The answer's; names in any case if the mapping allows it, as aiohttp's does.
        now: Our own time, aware.

    Returns:
        Seconds in [0, a year]; a date in the past is 0.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    seconds = _duration_seconds(text)
    if seconds is None and (until := _http_date(text)):
        seconds = (until - (_http_date(headers.get("Date", "").strip()) or now)).total_seconds()
    return None if seconds is None else min(max(seconds, 0.0), MAX_SECONDS)


def _duration_seconds(text: str) -> float | None:
    if _SECONDS.fullmatch(text):
        return float(text)
    if match := _DURATION.fullmatch(text):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return hours * 3_600 + minutes * 60 + seconds
    return None


def _http_date(text: str) -> datetime | None:
    for date_format in _DATE_FORMATS:
        try:
            return datetime.strptime(text, date_format).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
