"""`ParkingStore`: what operators and their ledger ask of the database. Each method is one transaction."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from producer.parking import (
    ANONYMOUS,
    AuditEntry,
    NewOperation,
    Operation,
    OperationPage,
    ParkedFilter,
    ParkedGroups,
)
from producer.records import DeletedPage, JobRecord
from producer.store import audit, leases, operations, parked, queries, redrives, retention
from producer.store.engine import Transaction
from shared.states import JobState


class ParkingStore:
    """Parked jobs, operations on them, the audit log, and the removal of old jobs; a part of `JobStore`."""

    def __init__(self, *, reading: Transaction, writing: Transaction) -> None:
        self._reading = reading
        self._writing = writing

    def list_groups(self, parked_filter: ParkedFilter, *, limit: int) -> ParkedGroups:
        """Return the largest groups of parked jobs that match."""
        with self._reading() as connection:
            return parked.list_groups(connection, parked_filter, limit=limit)

    def count_matching(self, parked_filter: ParkedFilter) -> int:
        """Return how many parked jobs match."""
        with self._reading() as connection:
            return parked.count_matching(connection, parked_filter)

    def redrive_edited(
        self,
        job_id: UUID,
        *,
        args: Mapping[str, Any],
        host: str,
        unique_key: bytes,
        by: str,
        now: datetime,
    ) -> JobRecord:
        """Start a parked job's next run with other arguments, and return the job.

        Raises:
            JobNotFound: no job has this id.
            JobNotParked: the job is in another state.
        """
        with self._writing() as connection:
            redrives.redrive_edited(
                connection, job_id, args=args, host=host, unique_key=unique_key, by=by, now=now
            )
            return queries.get_job(connection, job_id)

    def discard(self, job_id: UUID, *, now: datetime, by: str = ANONYMOUS) -> JobRecord:
        """End a parked job for good, and return it: cancelled, with the reason `discarded`.

        Raises:
            JobNotFound: no job has this id.
            JobNotParked: the job is in another state.
        """
        with self._writing() as connection:
            redrives.discard(connection, job_id, by=by, now=now)
            return queries.get_job(connection, job_id)

    def start_operation(self, new: NewOperation, parked_filter: ParkedFilter) -> Operation:
        """Store an operation on the jobs that match now; a ledger does it."""
        with self._writing() as connection:
            return operations.start_operation(connection, new, parked_filter)

    def get_operation(self, operation_id: UUID) -> Operation:
        """Return the operation with its progress.

        Raises:
            OperationNotFound: no operation has this id.
        """
        with self._reading() as connection:
            return operations.get_operation(connection, operation_id)

    def list_operations(self, *, limit: int, after: UUID | None) -> list[Operation]:
        """Return up to `limit` operations, newest first, older than the id `after`."""
        with self._reading() as connection:
            return operations.list_operations(connection, limit=limit, after=after)

    def cancel_operation(self, operation_id: UUID, *, by: str, now: datetime) -> Operation:
        """End a running operation: what it has done stays done. Idempotent.

        Raises:
            OperationNotFound: no operation has this id.
            OperationFinished: it has done all its jobs.
        """
        with self._writing() as connection:
            return operations.cancel_operation(connection, operation_id, by=by, now=now)

    def next_page_at(self, *, now: datetime) -> datetime | None:
        """Return when the next page of an operation may be made; None when none runs."""
        with self._reading() as connection:
            return operations.next_page_at(connection, now=now)

    def make_page(self, *, now: datetime) -> OperationPage | None:
        """Do the next page of the operation that is due; None when nothing is due. No job is done twice."""
        with self._writing() as connection:
            return operations.make_page(connection, now=now)

    def list_audit(self, *, target: str | None, limit: int, after: UUID | None) -> list[AuditEntry]:
        """Return up to `limit` entries of the audit log, newest first, older than the id `after`."""
        with self._reading() as connection:
            return audit.list_audit(connection, target=target, limit=limit, after=after)

    def runs_of(self, job_ids: Iterable[UUID]) -> Mapping[UUID, tuple[int, JobState]]:
        """Return the run and state of each job; unknown ids are missing."""
        with self._reading() as connection:
            return parked.runs_of(connection, job_ids)

    def parked_page(self, *, recorded_before: datetime, after: UUID | None, limit: int) -> list[JobRecord]:
        """Return up to `limit` jobs parked since before a time, in the order of their ids, above `after`."""
        with self._reading() as connection:
            return parked.parked_page(connection, recorded_before=recorded_before, after=after, limit=limit)

    def hold_lease(self, name: str, *, holder: str, seconds: float, now: datetime) -> bool:
        """Take or keep a lease; return whether the holder has it now."""
        with self._writing() as connection:
            return leases.hold_lease(connection, name, holder=holder, seconds=seconds, now=now)

    def release_lease(self, name: str, *, holder: str) -> None:
        """Let go of a lease, if the holder still has it."""
        with self._writing() as connection:
            leases.release_lease(connection, name, holder=holder)

    def delete_single_jobs(
        self, state: JobState, *, before: datetime, after: UUID | None, limit: int
    ) -> DeletedPage:
        """Delete, of the next `limit` jobs of a state, those of no batch that ended before the time."""
        with self._writing() as connection:
            return retention.delete_single_jobs(connection, state, before=before, after=after, limit=limit)

    def expire_batches(
        self, *, before: datetime, after: UUID | None, limit: int, now: datetime
    ) -> UUID | None:
        """Hide batches all of whose jobs ended before the time; return the id to go on from."""
        with self._writing() as connection:
            return retention.expire_batches(connection, before=before, after=after, limit=limit, now=now)

    def expired_batches(self) -> list[UUID]:
        """Return the batches that are hidden and still to be deleted."""
        with self._reading() as connection:
            return retention.expired_batches(connection)

    def delete_of_batch(self, batch_id: UUID, *, limit: int) -> int:
        """Delete up to `limit` jobs of a hidden batch, and the batch after the last; return how many."""
        with self._writing() as connection:
            return retention.delete_of_batch(connection, batch_id, limit=limit)
