"""Which statuses of an answer a job accepts, as people write them: `200-299,404`. Shared by all kinds."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

MAX_STATUSES_LENGTH = 200
SUCCESS = "200-299"

_PATTERN = r"^\s*[1-9]\d\d(\s*-\s*[1-9]\d\d)?(\s*,\s*[1-9]\d\d(\s*-\s*[1-9]\d\d)?)*\s*$"


def _normalize(text: str) -> str:
    if not re.fullmatch(_PATTERN, text, re.ASCII):
        raise ValueError("statuses look like 200-299,404")
    written = re.sub(r"\s", "", text)
    for lowest, highest in _ranges(written):
        if lowest > highest:
            raise ValueError(f"{lowest}-{highest} is empty: the lower status comes first")
    return written


Statuses = Annotated[
    str,
    Field(max_length=MAX_STATUSES_LENGTH),
    AfterValidator(_normalize),
    WithJsonSchema(
        {"type": "string", "maxLength": MAX_STATUSES_LENGTH, "pattern": _PATTERN, "example": "200-299,404"}
    ),
]


def accepts_status(statuses: str, status: int) -> bool:
    """Return whether a status is one of those that `Statuses` names."""
    return any(lowest <= status <= highest for lowest, highest in _ranges(statuses))


def _ranges(statuses: str) -> list[tuple[int, int]]:
    pairs = (part.partition("-") for part in statuses.split(","))
    return [(int(lowest), int(highest or lowest)) for lowest, _, highest in pairs]
