"""`JobStore`: all that the rest of the program asks of the database. Each method is one transaction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Self
from uuid import UUID

import sqlalchemy as sa

from producer.parking import ANONYMOUS
from producer.records import (
    Admitted,
    AdoptedJob,
    BatchRecord,
    ClaimedEvent,
    ClaimedJob,
    Found,
    JobFilter,
    JobRecord,
    NewBatch,
    NewJob,
    Recorded,
    Rejected,
    Transition,
)
from producer.store import (
    adoption,
    cancellations,
    due,
    events,
    identity,
    outbox,
    queries,
    recording,
    recounts,
    redrives,
    search,
    submissions,
)
from producer.store.batch_store import BatchStore
from producer.store.body_store import BodyStore
from producer.store.engine import open_engine, writing
from producer.store.failures import store_failures
from producer.store.migrate import check_schema
from producer.store.page_store import PageStore
from producer.store.parking_store import ParkingStore
from producer.store.queue_store import QueueStore
from producer.store.schedule_store import ScheduleStore
from producer.store.unfinished import UnfinishedStore
from shared.messages import Report
from shared.states import JobState

_PAGE_JOBS = 1_000


class JobStore:
    """Jobs and batches in SQLite or PostgreSQL, for any number of threads and processes.

    Every method blocks on the database. It raises `StoreUnavailable` when that does not answer; then
    nothing was changed, unless the connection broke at the very commit. It raises `StoreRefused` when
    that will not take a value; then nothing was changed, and calling again is in vain. Every method that
    changes something may be called twice with the same arguments, but `insert_batch` (`StoreRefused`) and
    `redrive` (`JobNotParked`).
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._reader = engine
        self._writer = writing(engine)
        self.schedules = ScheduleStore(reading=self._reading, writing=self._writing)
        self.batches = BatchStore(reading=self._reading, writing=self._writing)
        self.parking = ParkingStore(reading=self._reading, writing=self._writing)
        self.queues = QueueStore(reading=self._reading, writing=self._writing)
        self.bodies = BodyStore(reading=self._reading)
        self.pages = PageStore(reading=self._reading)
        self.unfinished = UnfinishedStore(reading=self._reading, writing=self._writing)

    @classmethod
    def open(cls, database_url: str) -> Self:
        """Return the store of the database; connects only when first used.

        Raises:
            SettingsInvalid: the URL cannot be read or names another database.
        """
        return cls(open_engine(database_url))

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._reader.dispose()

    def ping(self) -> None:
        """Do nothing if the database answers and this version may use its tables.

        Raises:
            StoreUnavailable: otherwise.
        """
        check_schema(self._reader)

    def insert_jobs(self, jobs: Sequence[NewJob]) -> None:
        """Store the jobs as accepted or scheduled, all or none, and wake the relay. Idempotent by id."""
        with self._writing() as connection:
            submissions.insert_jobs(connection, jobs)

    def admit_jobs(self, jobs: Sequence[NewJob]) -> Mapping[UUID, Admitted]:
        """Store jobs of which some may have been submitted before, and wake the relay.

        Race-free: of any number of requests with one key, or for one thing, one is stored.

        Returns:
            By the id of the job handed in, which job answers it and why.
        """
        with self._writing() as connection:
            return submissions.admit_jobs(connection, jobs)

    def adopt_jobs(self, jobs: Iterable[AdoptedJob]) -> frozenset[UUID]:
        """Store jobs that came over the broker as queued, and return the ids of those that were new."""
        with self._writing() as connection:
            return adoption.insert_adopted(connection, jobs)

    def insert_batch(
        self, batch: NewBatch, jobs: Iterable[NewJob], rejected: Iterable[Rejected] = ()
    ) -> Admitted:
        """Store the batch, its jobs and the lines that became none, all or nothing, and wake the relay.

        Holds a chunk of them in memory at a time, and reads the jobs first. SQLite has no other writer until
        the last is read, so neither may wait for a network. What they raise is passed on: nothing is stored.
        """
        with self._writing() as connection:
            return submissions.insert_batch(connection, batch, jobs, rejected)

    def forget_expired_keys(self, *, limit: int, now: datetime) -> int:
        """Delete up to `limit` idempotency keys whose time is over; return how many."""
        with self._writing() as connection:
            return identity.forget_expired_keys(connection, limit=limit, now=now)

    def get_job(self, job_id: UUID) -> JobRecord:
        """Return the job with every attempt, oldest first.

        Raises:
            JobNotFound: no job has this id.
        """
        with self._reading() as connection:
            return queries.get_job(connection, job_id)

    def list_jobs(self, job_filter: JobFilter, *, limit: int, after: UUID | None) -> list[JobRecord]:
        """Return up to `limit` jobs that match, without attempts, newest first.

        Args:
            job_filter: Which jobs.
            limit: How many at most.
            after: The id of the last job of the page before; only older ones are returned.
        """
        with self._reading() as connection:
            return queries.list_jobs(connection, job_filter, limit=limit, after=after)

    def search_jobs(self, job_filter: JobFilter, *, limit: int, after: UUID | None) -> Found[JobRecord]:
        """Return a page of the jobs that match, without attempts, newest first, older than the id `after`.

        Reads a bounded number of rows, so a page may have fewer than `limit` jobs though there are more.
        """
        with self._reading() as connection:
            return search.search_jobs(connection, job_filter, limit=limit, after=after)

    def search_batches(
        self, labels: Sequence[tuple[str, str]], *, limit: int, after: UUID | None
    ) -> Found[BatchRecord]:
        """Return a page of the batches with these labels, newest first; in all else as `search_jobs`."""
        with self._reading() as connection:
            return search.search_batches(connection, labels, limit=limit, after=after)

    def get_batch(self, batch_id: UUID) -> BatchRecord:
        """Return the batch with its counts; it is finished when every job is in a final state.

        Raises:
            BatchNotFound: no batch has this id.
        """
        with self._reading() as connection:
            return queries.get_batch(connection, batch_id)

    def batch_jobs(self, batch_id: UUID, *, after: UUID | None, limit: int) -> list[JobRecord]:
        """Return up to `limit` jobs of the batch, without attempts, oldest first, newer than the id `after`.

        Raises:
            BatchNotFound: no batch has this id.
        """
        with self._reading() as connection:
            return queries.batch_jobs(connection, batch_id, after=after, limit=limit)

    def count_unfinished(self) -> Mapping[JobState, int]:
        """Return how many jobs are in each state but succeeded and cancelled; empty states are missing."""
        with self._reading() as connection:
            return queries.count_unfinished(connection)

    def claim_accepted(self, *, limit: int, lease_seconds: float, now: datetime) -> list[ClaimedJob]:
        """Lease up to `limit` accepted jobs; no other relay gets them before the lease ends.

        They are the oldest of the interactive lane, then, if it has no more, the oldest of the other.
        A relay that dies between this and `mark_queued` publishes nothing or twice: the lease runs out
        and the jobs are claimed again.
        """
        with self._writing() as connection:
            return outbox.claim_accepted(connection, limit=limit, lease_seconds=lease_seconds, now=now)

    def mark_queued(self, claims: Sequence[tuple[UUID, int]], *, now: datetime) -> None:
        """Move published jobs, as (id, run), from accepted to queued; one that has moved on stays."""
        with self._writing() as connection:
            outbox.mark_queued(connection, claims, now=now)

    def release_claims(self, job_ids: Iterable[UUID], *, retry_at: datetime) -> None:
        """Let jobs that could not be published be claimed again after `retry_at`."""
        with self._writing() as connection:
            outbox.release_claims(connection, job_ids, retry_at=retry_at)

    def record(self, reports: Sequence[Report], *, now: datetime) -> Recorded:
        """Write down reports, all or none. A report that is late or a duplicate changes no job.

        The first final state of a run wins, and so does the first end of an attempt. An attempt of an
        older run is kept, but moves nothing.
        """
        with self._writing() as connection:
            return recording.record_reports(connection, reports, now=now)

    def next_due_at(self) -> datetime | None:
        """Return when a job or a schedule is due next, or a job expires; None when nothing has a time."""
        with self._reading() as connection:
            return due.next_due_at(connection)

    def release_due(self, *, limit: int, now: datetime) -> list[Transition]:
        """Accept up to `limit` scheduled jobs that are due, wake the relay, and return what changed.

        Two ledgers at once release each job once.
        """
        with self._writing() as connection:
            return due.release_due(connection, limit=limit, now=now)

    def expire_jobs(self, *, limit: int, now: datetime) -> list[Transition]:
        """Park up to `limit` jobs that were not started before their deadline; return what changed."""
        with self._writing() as connection:
            return due.expire_jobs(connection, limit=limit, now=now)

    def redrive(self, job_id: UUID, *, now: datetime, by: str = ANONYMOUS) -> JobRecord:
        """Start a parked job's next run, wake the relay, and return the job. Of two at once, one wins.

        Raises:
            JobNotFound: no job has this id.
            JobNotParked: the job is in another state.
        """
        with self._writing() as connection:
            redrives.redrive(connection, job_id, by=by, now=now)
            return queries.get_job(connection, job_id)

    def cancel_job(self, job_id: UUID, *, now: datetime) -> JobRecord:
        """Cancel a job, tell the workers, and return the job. A running one is ended by its worker.

        Raises:
            JobNotFound: no job has this id.
            JobEndedAlready: the job has succeeded or is parked.
        """
        with self._writing() as connection:
            cancellations.cancel_job(connection, job_id, now=now)
            return queries.get_job(connection, job_id)

    def cancel_batch(self, batch_id: UUID, *, now: datetime) -> BatchRecord:
        """Cancel a batch: tell the workers first, then cancel its jobs in pages, and return the batch.

        Many transactions. If this process dies in between, workers end the rest when it reaches them,
        and a second call goes on.

        Raises:
            BatchNotFound: no batch has this id.
        """
        with self._writing() as connection:
            cancellations.begin_batch_cancel(connection, batch_id, now=now)
        while True:
            with self._writing() as connection:
                if not cancellations.cancel_page(connection, batch_id, limit=_PAGE_JOBS, now=now):
                    return queries.get_batch(connection, batch_id)

    def wrong_counts(self, batch_id: UUID) -> Mapping[JobState, tuple[int, int]]:
        """Return where a batch's counts are not what its jobs say, as (kept, counted); empty is right."""
        with self._reading() as connection:
            return recounts.wrong_counts(connection, batch_id)

    def claim_events(self, *, limit: int, lease_seconds: float, now: datetime) -> list[ClaimedEvent]:
        """Lease up to `limit` events for publishing, oldest first."""
        with self._writing() as connection:
            return events.claim_events(connection, limit=limit, lease_seconds=lease_seconds, now=now)

    def forget_events(self, event_ids: Sequence[UUID]) -> None:
        """Delete events that the broker has confirmed."""
        with self._writing() as connection:
            events.forget_events(connection, event_ids)

    def release_events(self, event_ids: Sequence[UUID], *, retry_at: datetime) -> None:
        """Let events that could not be published be claimed again after `retry_at`."""
        with self._writing() as connection:
            events.release_events(connection, event_ids, retry_at=retry_at)

    def pending_redrives(self, limit: int) -> list[tuple[UUID, int]]:
        """Return (job id, parked run) of jobs that left, but whose message may still be in `jobs.parked`."""
        with self._reading() as connection:
            return redrives.pending_redrives(connection, limit)

    def settle_redrives(self, pairs: Iterable[tuple[UUID, int]], *, now: datetime) -> None:
        """Note that these messages have left `jobs.parked`."""
        with self._writing() as connection:
            redrives.settle_redrives(connection, pairs, now=now)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with store_failures(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with store_failures(), self._writer.begin() as connection:
            yield connection
