"""Store new jobs as `accepted`, where the relay finds them, or as `scheduled`, where the scheduler does."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.records import NewBatch, NewJob
from producer.store.engine import POSTGRESQL
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


def insert_batch(connection: sa.Connection, batch: NewBatch, new_jobs: Iterable[NewJob]) -> int:
    """Store the batch and its jobs, read a chunk at a time, and return how many they are."""
    connection.execute(
        batches.insert().values(
            id=batch.id,
            kind=batch.kind,
            total=0,
            labels=batch.labels,
            schedule_id=batch.schedule_id,
            created_at=batch.created_at,
        )
    )
    total = 0
    for chunk in _chunks(new_jobs):
        connection.execute(jobs.insert(), [new_job_row(job, batch_id=batch.id) for job in chunk])
        total += len(chunk)
    connection.execute(batches.update().where(batches.c.id == batch.id).values(total=total))
    announce_jobs(connection)
    return total


def _chunks(new_jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    remaining = iter(new_jobs)
    while chunk := list(islice(remaining, _CHUNK_JOBS)):
        yield chunk
