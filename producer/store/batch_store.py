"""`BatchStore`: what is asked of batches beside their jobs. Each method is one transaction."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

from producer.records import Rejected, VerdictCounts
from producer.store import queries, recounts, rejected, verdicts
from producer.store.engine import Transaction
from shared.states import JobState


class BatchStore:
    """Rejected lines, counts that are held against the jobs, and what exports need; a part of `JobStore`."""

    def __init__(self, *, reading: Transaction, writing: Transaction) -> None:
        self._reading = reading
        self._writing = writing

    def list_rejected(self, batch_id: UUID, *, after: int, limit: int) -> list[Rejected]:
        """Return up to `limit` lines that became no job, in their order, with numbers above `after`.

        Raises:
            BatchNotFound: no batch has this id.
        """
        with self._reading() as connection:
            queries.check_batch(connection, batch_id)
            return rejected.list_rejected(connection, batch_id, after=after, limit=limit)

    def delete_rejected(self, batch_id: UUID, *, limit: int) -> int:
        """Delete up to `limit` rejected lines of a batch; return how many."""
        with self._writing() as connection:
            return rejected.delete_rejected(connection, batch_id, limit=limit)

    def batches_to_check(self, *, since: datetime, after: UUID | None, limit: int) -> list[UUID]:
        """Return up to `limit` batches that are unfinished or finished `since`, with ids above `after`."""
        with self._reading() as connection:
            return recounts.batches_to_check(connection, since=since, after=after, limit=limit)

    def correct_counts(self, batch_id: UUID, *, now: datetime) -> Mapping[JobState, tuple[int, int]]:
        """Count a batch's jobs again and correct its row; return what was wrong, as (kept, counted).

        A batch that turns out to be complete is announced, if it never was.
        """
        with self._writing() as connection:
            return recounts.correct_counts(connection, batch_id, now=now)

    def count_verdicts(self, batch_id: UUID) -> VerdictCounts:
        """Return how many jobs of a batch are in each state, and how many succeeded with a bad verdict."""
        with self._reading() as connection:
            return verdicts.count_verdicts(connection, batch_id)

    def first_starts(self, job_ids: Iterable[UUID]) -> Mapping[UUID, datetime]:
        """Return when the first attempt of each job's present run began; jobs without one are missing."""
        with self._reading() as connection:
            return verdicts.first_starts(connection, job_ids)
