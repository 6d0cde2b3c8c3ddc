"""Ids as they come in paths."""

from uuid import UUID

from shared.errors import BatchNotFound, JobNotFound, OperationNotFound

CANONICAL_LENGTH = 36


def read_id(text: str, not_found: type[JobNotFound | BatchNotFound | OperationNotFound]) -> UUID:
    """Return the id of a path.

    Raises:
        JobNotFound, BatchNotFound, OperationNotFound: it is not a UUID, so it is the id of nothing.
    """
    try:
        # UUID() also reads braces and URNs; nothing of ours was ever called so.
        if len(text) == CANONICAL_LENGTH:
            return UUID(text)
    except ValueError:
        pass
    raise not_found(text[:CANONICAL_LENGTH])
