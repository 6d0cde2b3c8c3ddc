"""A fetched body that is too large for its result: the worker compresses it, the store keeps it."""

import hashlib
import zlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.compression import MAX_STORED_BYTES

MAX_BODY_BYTES = 16 * 1_048_576
"""Limit of an expanded body."""

_PIECE_BYTES = 262_144


class StoredBody(BaseModel):
    """A body on its way into the store, as part of a report. `content` is gzip, in base64 on the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    content_type: Annotated[str | None, Field(max_length=200)] = None
    charset: Annotated[str | None, Field(max_length=100)] = None
    size: Annotated[int, Field(ge=0, le=MAX_BODY_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    content: Annotated[bytes, Field(max_length=MAX_STORED_BYTES, repr=False)]

    def is_as_said(self) -> bool:
        """Return whether it expands to what its size and digest say. Blocks for milliseconds for each MiB."""
        stream, digest, size = zlib.decompressobj(zlib.MAX_WBITS | 16), hashlib.sha256(), 0
        rest = self.content
        try:
            while rest and size <= self.size:
                piece = stream.decompress(rest, _PIECE_BYTES)
                rest, size = stream.unconsumed_tail, size + len(piece)
                digest.update(piece)
        except zlib.error:
            return False
        is_whole = stream.eof and not stream.unused_data
        return is_whole and size == self.size and digest.hexdigest() == self.sha256
