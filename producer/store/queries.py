"""Read jobs and batches. Nothing here changes a row."""

from collections.abc import Mapping
from uuid import UUID

import sqlalchemy as sa

from producer.records import FIRST_REJECTED, AttemptRecord, BatchRecord, JobFilter, JobRecord
from producer.store.rejected import list_rejected
from producer.store.rows import JOB_COLUMNS, attempt_record, batch_record, job_record, stored_host
from producer.store.schema import attempts, batches, jobs
from shared.errors import BatchNotFound, JobNotFound
from shared.states import JobState

# What still asks for something: work, time or a person.
_UNFINISHED = [state.value for state in JobState if state not in {JobState.SUCCEEDED, JobState.CANCELLED}]


def get_job(connection: sa.Connection, job_id: UUID) -> JobRecord:
    """Return the job with every attempt, oldest first.

    Raises:
        JobNotFound: no row has this id.
    """
    row = connection.execute(sa.select(*JOB_COLUMNS).where(jobs.c.id == job_id)).mappings().one_or_none()
    if row is None:
        raise JobNotFound(f"no job has the id {job_id}")
    return job_record(row, attempts=_attempts_of(connection, job_id))


def list_jobs(
    connection: sa.Connection, job_filter: JobFilter, *, limit: int, after: UUID | None
) -> list[JobRecord]:
    """Return a page of the jobs that match, newest first, from below the id `after`."""
    query = sa.select(*JOB_COLUMNS).order_by(jobs.c.id.desc()).limit(limit)
    if job_filter.state is not None:
        query = query.where(jobs.c.state == job_filter.state.value)
    if job_filter.kind is not None:
        query = query.where(jobs.c.kind == job_filter.kind)
    if job_filter.batch_id is not None:
        query = query.where(jobs.c.batch_id == job_filter.batch_id)
    if job_filter.host is not None:
        query = query.where(jobs.c.host == stored_host(job_filter.host))
    if job_filter.schedule_id is not None:
        query = query.where(jobs.c.schedule_id == job_filter.schedule_id)
    if after is not None:
        query = query.where(jobs.c.id < after)
    return [job_record(row) for row in connection.execute(query).mappings()]


def get_batch(connection: sa.Connection, batch_id: UUID) -> BatchRecord:
    """Return the batch with the number of its jobs in each state.

    Raises:
        BatchNotFound: no row has this id.
    """
    query = sa.select(batches).where(batches.c.id == batch_id, batches.c.expired_at.is_(None))
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise BatchNotFound(f"no batch has the id {batch_id}")
    first = list_rejected(connection, batch_id, after=0, limit=FIRST_REJECTED) if row["rejected"] else []
    return batch_record(row, first_rejected=first)


def check_batch(connection: sa.Connection, batch_id: UUID) -> None:
    """Do nothing if there is such a batch.

    Raises:
        BatchNotFound: no row has this id.
    """
    here = sa.exists().where(batches.c.id == batch_id, batches.c.expired_at.is_(None))
    if not connection.scalar(sa.select(here)):
        raise BatchNotFound(f"no batch has the id {batch_id}")


def batch_jobs(
    connection: sa.Connection, batch_id: UUID, *, after: UUID | None, limit: int
) -> list[JobRecord]:
    """Return a page of the batch's jobs, oldest first, from above the id `after`.

    Raises:
        BatchNotFound: no batch has this id.
    """
    query = sa.select(*JOB_COLUMNS).where(jobs.c.batch_id == batch_id).order_by(jobs.c.id).limit(limit)
    if after is not None:
        query = query.where(jobs.c.id > after)
    page = [job_record(row) for row in connection.execute(query).mappings()]
    if not page and not connection.scalar(sa.select(sa.exists().where(batches.c.id == batch_id))):
        raise BatchNotFound(f"no batch has the id {batch_id}")
    return page


def count_unfinished(connection: sa.Connection) -> Mapping[JobState, int]:
    """Return how many jobs are in each state that at least one is in, but for succeeded and cancelled."""
    return _counts(connection, jobs.c.state.in_(_UNFINISHED))


def _attempts_of(connection: sa.Connection, job_id: UUID) -> list[AttemptRecord]:
    query = sa.select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.run, attempts.c.number)
    return [attempt_record(row) for row in connection.execute(query).mappings()]


def _counts(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[JobState, int]:
    query = sa.select(jobs.c.state, sa.func.count()).where(which).group_by(jobs.c.state)
    return {JobState(state): number for state, number in connection.execute(query)}
