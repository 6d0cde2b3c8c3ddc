"""A fetched body that is too large for its result: the worker compresses it, the store keeps it."""

import gzip
import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_BODY_BYTES = 16 * 1_048_576
"""Limit of an expanded body."""

MAX_STORED_BYTES = 6_000_000
"""Limit of its compressed copy: in base64 below 8 MiB, and RabbitMQ 4 refuses messages beyond 16 MiB."""

# gzip's default is 6; level 4 takes half its time, and its output is a tenth larger.
_LEVEL = 4


class StoredBody(BaseModel):
    """A body on its way into the store, as part of a report. `content` is gzip, in base64 on the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    content_type: Annotated[str | None, Field(max_length=200)] = None
    charset: Annotated[str | None, Field(max_length=100)] = None
    size: Annotated[int, Field(ge=0, le=MAX_BODY_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    content: Annotated[bytes, Field(max_length=MAX_STORED_BYTES, repr=False)]


def compress_body(body: bytes, *, content_type: str | None, charset: str | None) -> StoredBody | None:
    """Return the body as it is stored, or None when its compressed copy is too large.

    Blocks for some hundred milliseconds when the body is large: call it in a thread.
    """
    # Without a time in the header, equal bodies have equal copies.
    content = gzip.compress(body, _LEVEL, mtime=0)
    if len(content) > MAX_STORED_BYTES:
        return None
    return StoredBody(
        content_type=content_type,
        charset=charset,
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        content=content,
    )
