"""`BodyStore`: what the API asks of stored bodies. Each method is one transaction."""

from uuid import UUID

from producer.records import BodyRecord
from producer.store import bodies
from producer.store.engine import Transaction


class BodyStore:
    """Bodies that are too large for the result of their job; a part of `JobStore`."""

    def __init__(self, *, reading: Transaction) -> None:
        self._reading = reading

    def find(self, job_id: UUID) -> BodyRecord | None:
        """Return what is known of a job's body; None when none is stored."""
        with self._reading() as connection:
            return bodies.find_body(connection, job_id)

    def read_piece(self, job_id: UUID, *, start: int, length: int) -> bytes:
        """Return a piece of a body as it is stored, gzip; empty behind its end, or when it is gone."""
        with self._reading() as connection:
            return bodies.read_piece(connection, job_id, start=start, length=length)
