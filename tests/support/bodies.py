"""Stored bodies for tests."""

import hashlib

from shared.bodies import StoredBody
from shared.compression import compress


def compress_body(body: bytes, *, content_type: str | None, charset: str | None) -> StoredBody | None:
    """Return a body as a worker stores it, or None when it is too large."""
    content = compress(body)
    if content is None:
        return None
    return StoredBody(
        content_type=content_type,
        charset=charset,
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        content=content,
    )
