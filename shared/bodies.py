"""A fetched body that is too large for its result: the worker compresses it, the store keeps it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.compression import MAX_STORED_BYTES

MAX_BODY_BYTES = 16 * 1_048_576
"""Limit of an expanded body."""


class StoredBody(BaseModel):
    """A body on its way into the store, as part of a report. `content` is gzip, in base64 on the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    content_type: Annotated[str | None, Field(max_length=200)] = None
    charset: Annotated[str | None, Field(max_length=100)] = None
    size: Annotated[int, Field(ge=0, le=MAX_BODY_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    content: Annotated[bytes, Field(max_length=MAX_STORED_BYTES, repr=False)]
