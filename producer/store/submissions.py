"""Store new jobs as `accepted`: the relay finds them there, so nothing else is needed to publish them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.records import Admitted, How, NewBatch, NewJob
from producer.store.engine import POSTGRESQL
from producer.store.identity import BATCH_SCOPE, JOB_SCOPE, find_same_job, point_key, take_key
from producer.store.rows import new_job_row
from producer.store.schema import batches, jobs
from producer.store.wakeup import announce_jobs

_CHUNK_JOBS = 1_000


def insert_jobs(connection: sa.Connection, new_jobs: Sequence[NewJob]) -> None:
    """Store the jobs. One that is stored already is left as it is, so a caller in doubt calls again."""
    if not new_jobs:
        return
    insert = postgresql.insert if connection.dialect.name == POSTGRESQL else sqlite.insert
    connection.execute(
        insert(jobs).on_conflict_do_nothing(index_elements=[jobs.c.id]),
        [new_job_row(job, batch_id=job.batch_id) for job in new_jobs],
    )
    announce_jobs(connection)


def admit_job(connection: sa.Connection, job: NewJob) -> Admitted:
    """Store the job, unless its idempotency key or its unique key leads to one that is there.

    Raises:
        IdempotencyConflict: the key was used for another request.
    """
    if job.idempotency and (earlier := take_key(connection, JOB_SCOPE, job.idempotency, job.id, job.created_at)):
        return Admitted(earlier, How.REPLAYED)
    if job.unique_for_seconds and (same := find_same_job(connection, job)):
        if job.idempotency:
            point_key(connection, JOB_SCOPE, job.idempotency, same)
        return Admitted(same, How.DUPLICATE)
    insert_jobs(connection, [job])
    return Admitted(job.id)


def insert_batch(connection: sa.Connection, batch: NewBatch, new_jobs: Iterable[NewJob]) -> Admitted:
    """Store the batch and its jobs, read a chunk at a time, unless its idempotency key leads to one.

    Raises:
        IdempotencyConflict: the key was used for another request.
    """
    if batch.idempotency and (
        earlier := take_key(connection, BATCH_SCOPE, batch.idempotency, batch.id, batch.created_at)
    ):
        return Admitted(earlier, How.REPLAYED)
    connection.execute(
        batches.insert().values(
            id=batch.id, kind=batch.kind, total=0, labels=batch.labels, created_at=batch.created_at
        )
    )
    total = 0
    for chunk in _chunks(new_jobs):
        connection.execute(jobs.insert(), [new_job_row(job, batch_id=batch.id) for job in chunk])
        total += len(chunk)
    connection.execute(
        batches.update()
        .where(batches.c.id == batch.id)
        .values(total=total, accepted=total, finished_at=None if total else batch.created_at)
    )
    announce_jobs(connection)
    return Admitted(batch.id)


def _chunks(new_jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    remaining = iter(new_jobs)
    while chunk := list(islice(remaining, _CHUNK_JOBS)):
        yield chunk
