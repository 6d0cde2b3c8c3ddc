"""Job and batch ids."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import uuid_utils.compat

MAX_INDEX = (1 << 14) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562 section 5.7): ids sort by the time they were made."""
    return uuid_utils.compat.uuid7()


def made_at(made: UUID) -> datetime | None:
    """Return when a UUIDv7 was made, to the millisecond; None for an id that does not say it."""
    if made.version != 7:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=made.int >> 80)
    except OverflowError:
        # Somebody else made it.
        return None


def derived_id(root: UUID, index: int) -> UUID:
    """Return the one UUIDv7 that belongs to a root id and an index, the same each time it is asked for.

    It has the root's time; after that the index, as a counter (RFC 9562 section 6.2, method 1), so that the
    ids of one root sort by it; the rest is of SHA-256.

    Raises:
        ValueError: the index is not in [0, 16,383].
    """
    if not 0 <= index <= MAX_INDEX:
        raise ValueError(f"{index} is not an index of a derived id")
    digest = int.from_bytes(hashlib.sha256(root.bytes + index.to_bytes(2)).digest()[:8])
    high = (root.int >> 80) << 16 | 0x7000 | index >> 2
    low = 0b10 << 62 | (index & 0b11) << 60 | digest >> 4
    return UUID(int=high << 64 | low)
