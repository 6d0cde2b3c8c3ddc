"""Job and batch ids."""

from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562 section 5.7): ids sort by the time they were made."""
    return uuid_utils.compat.uuid7()
