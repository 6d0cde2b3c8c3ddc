"""Media types as a job accepts them, and whether what a target sent is one (RFC 9110 section 12.5.1)."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

MAX_MEDIA_RANGE_LENGTH = 200

_PATTERN = r"^(\*/\*|[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)$"


def _normalize(text: str) -> str:
    if len(text) > MAX_MEDIA_RANGE_LENGTH or not re.fullmatch(_PATTERN, text):
        raise ValueError("a media type looks like text/html, a range like text/*; parameters are not taken")
    return text.lower()


MediaRange = Annotated[
    str,
    AfterValidator(_normalize),
    WithJsonSchema({"type": "string", "maxLength": MAX_MEDIA_RANGE_LENGTH, "pattern": _PATTERN}),
]


def accepts_media_type(accepted: Sequence[str], content_type: str | None) -> bool:
    """Return whether a `Content-Type` is in one of the ranges; parameters such as charset do not count.

    Without a `Content-Type` it is `application/octet-stream` (RFC 9110 section 8.3).
    """
    sent = (content_type or "application/octet-stream").partition(";")[0].strip().lower()
    kind = sent.partition("/")[0]
    return any(one in {"*/*", sent, f"{kind}/*"} for one in accepted)
