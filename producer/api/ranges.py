"""Which bytes a request asks for, and whether it has them already (RFC 9110 sections 13 and 14). Pure."""

import re

# A longer number is behind the end of anything.
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


class RangeUnsatisfiable(ValueError):
    """The range begins behind the end."""


def wanted_range(header: str | None, size: int) -> range | None:
    """Return the bytes that a `Range` header asks for; None means all.

    Several ranges, and what is no range of bytes, may be answered with everything (RFC 9110 section 14.2).

    Raises:
        RangeUnsatisfiable: there is none of these bytes.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        wanted = range(max(size - int(last), 0), size)
    elif last and int(last) < int(first):
        return None
    else:
        wanted = range(int(first), min(int(last) + 1, size) if last else size)
    if not wanted:
        raise RangeUnsatisfiable
    return wanted


def names_etag(header: str | None, etag: str) -> bool:
    """Return whether an `If-None-Match` header names this version, compared weakly (section 13.1.2)."""
    if header is None:
        return False
    named = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in named or etag in named
