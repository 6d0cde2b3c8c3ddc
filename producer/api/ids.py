"""Ids as they come in paths."""

from uuid import UUID

from shared.errors import BatchNotFound, JobNotFound, OperationNotFound, ScheduleNotFound

CANONICAL_LENGTH = 36


NotFound = JobNotFound | BatchNotFound | ScheduleNotFound | OperationNotFound


def read_id(text: str, not_found: type[NotFound]) -> UUID:
    """Return the id of a path.

    Raises:
        NotFound: it is not a UUID, so it is the id of nothing.
    """
    try:
        # UUID() also reads braces and URNs; nothing of ours was ever called so.
        if len(text) == CANONICAL_LENGTH:
            return UUID(text)
    except ValueError:
        pass
    raise not_found(text[:CANONICAL_LENGTH])
