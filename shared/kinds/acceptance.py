"""Which answers a job accepts: statuses, `["200-299", 401]`, and media types, `["text/*"]`."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

MAX_RANGES = 50
SUCCESS = ["200-299"]
_STATUS_PATTERN = r"^[1-9][0-9]{2}(-[1-9][0-9]{2})?$"
_STATUS_RANGE = re.compile(_STATUS_PATTERN, re.ASCII)


def _normalize_status(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _STATUS_RANGE.fullmatch(text):
        raise ValueError("a status or a range of statuses, such as 404 or 200-299")
    lowest, highest = _status_bounds(text)
    if lowest > highest:
        raise ValueError(f"{text} is empty: the lower status comes first")
    return text


StatusRange = Annotated[
    str,
    BeforeValidator(_normalize_status),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _STATUS_PATTERN, "example": "200-299"},
                {"type": "integer", "minimum": 100, "maximum": 999},
            ]
        },
        mode="validation",
    ),
]
Statuses = Annotated[list[StatusRange], Field(min_length=1, max_length=MAX_RANGES)]


def accepts_status(ranges: Iterable[str], status: int) -> bool:
    """Return whether a status is in one of the ranges."""
    return any(lowest <= status <= highest for lowest, highest in map(_status_bounds, ranges))


@lru_cache(maxsize=1_024)
def _status_bounds(text: str) -> tuple[int, int]:
    lowest, _, highest = text.partition("-")
    return int(lowest), int(highest or lowest)


MAX_MEDIA_RANGE_LENGTH = 200

_MEDIA_PATTERN = r"^(\*/\*|[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)$"


def _normalize_media_range(text: str) -> str:
    if len(text) > MAX_MEDIA_RANGE_LENGTH or not re.fullmatch(_MEDIA_PATTERN, text):
        raise ValueError("a media type looks like text/html, a range like text/*; parameters are not taken")
    return text.lower()


MediaRange = Annotated[
    str,
    AfterValidator(_normalize_media_range),
    WithJsonSchema({"type": "string", "maxLength": MAX_MEDIA_RANGE_LENGTH, "pattern": _MEDIA_PATTERN}),
]


def accepts_media_type(accepted: Sequence[str], content_type: str | None) -> bool:
    """Return whether a `Content-Type` is in one of the ranges (RFC 9110 section 12.5.1).

    Parameters such as charset do not count. Without a `Content-Type` it is `application/octet-stream`
    (RFC 9110 section 8.3).
    """
    sent = (content_type or "application/octet-stream").partition(";")[0].strip().lower()
    kind = sent.partition("/")[0]
    return any(one in {"*/*", sent, f"{kind}/*"} for one in accepted)
