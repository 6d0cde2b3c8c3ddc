"""Bodies as they are stored: gzip. Knows nothing of models, because small processes import it."""

import gzip
from typing import Final

MAX_STORED_BYTES: Final = 6_000_000
"""Limit of a compressed body: in base64 below 8 MiB, and RabbitMQ 4 refuses messages beyond 16 MiB."""

# gzip's default is 6; level 4 takes half its time, and its output is a tenth larger.
_LEVEL = 4


def compress(body: bytes) -> bytes | None:
    """Return a compressed copy of a body, or None when it is too large to be stored.

    Blocks for some hundred milliseconds when the body is large.
    """
    # Without a time in the header, equal bodies have equal copies.
    content = gzip.compress(body, _LEVEL, mtime=0)
    return content if len(content) <= MAX_STORED_BYTES else None
