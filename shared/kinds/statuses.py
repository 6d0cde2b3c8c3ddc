"""Which statuses of an answer a job accepts: a list of statuses and ranges, `["200-299", 401]`."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

MAX_RANGES = 50
SUCCESS = ["200-299"]
_PATTERN = r"^[1-9][0-9]{2}(-[1-9][0-9]{2})?$"
_RANGE = re.compile(_PATTERN, re.ASCII)


def _normalize(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _RANGE.fullmatch(text):
        raise ValueError("a status or a range of statuses, such as 404 or 200-299")
    lowest, highest = _bounds(text)
    if lowest > highest:
        raise ValueError(f"{text} is empty: the lower status comes first")
    return text


StatusRange = Annotated[
    str,
    BeforeValidator(_normalize),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _PATTERN, "example": "200-299"},
                {"type": "integer", "minimum": 100, "maximum": 999},
            ]
        },
        mode="validation",
    ),
]
Statuses = Annotated[list[StatusRange], Field(min_length=1, max_length=MAX_RANGES)]


def accepts_status(ranges: Iterable[str], status: int) -> bool:
    """Return whether a status is in one of the ranges."""
    return any(lowest <= status <= highest for lowest, highest in map(_bounds, ranges))


@lru_cache(maxsize=1_024)
def _bounds(text: str) -> tuple[int, int]:
    lowest, _, highest = text.partition("-")
    return int(lowest), int(highest or lowest)
