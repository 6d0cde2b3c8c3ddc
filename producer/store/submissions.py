"""Store new jobs as `accepted`, where the relay finds them, or as `scheduled`, where the scheduler does."""

from collections.abc import Iterable, Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.records import Admitted, How, NewBatch, NewJob, Rejected
from producer.store.engine import POSTGRESQL
from producer.store.identity import BATCH_SCOPE, JOB_SCOPE, find_same_job, point_key, take_key
from producer.store.new_jobs import insert_new_jobs
from producer.store.rejected import insert_rejected
from producer.store.rows import new_job_row
from producer.store.schema import batches, jobs
from producer.store.wakeup import announce_jobs


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


def admit_jobs(connection: sa.Connection, new_jobs: Sequence[NewJob]) -> dict[UUID, Admitted]:
    """Store the jobs, but for those whose idempotency key or unique key leads to one that is there.

    Returns:
        By the id of the job handed in, which job answers it and why.
    """
    answers: dict[UUID, Admitted] = {}
    # Keys are taken in order, and locks on unique keys in order after them, so that two transactions
    # cannot wait for each other.
    for job in sorted(new_jobs, key=_key_of):
        if job.idempotency and (
            answer := take_key(connection, JOB_SCOPE, job.idempotency, job.id, job.created_at)
        ):
            answers[job.id] = answer
    open_jobs = [job for job in new_jobs if job.id not in answers]
    for job in sorted((job for job in open_jobs if job.unique_for_seconds), key=_unique_key_of):
        if same := find_same_job(connection, job):
            answers[job.id] = Admitted(same, How.DUPLICATE)
            if job.idempotency:
                point_key(connection, JOB_SCOPE, job.idempotency, same)
        else:
            # At once, so that the next of this group that asks for the same finds it.
            insert_jobs(connection, [job])
            answers[job.id] = Admitted(job.id)
    plain = [job for job in open_jobs if not job.unique_for_seconds]
    insert_jobs(connection, plain)
    return answers | {job.id: Admitted(job.id) for job in plain}


def insert_batch(
    connection: sa.Connection,
    batch: NewBatch,
    new_jobs: Iterable[NewJob],
    rejected: Iterable[Rejected] = (),
) -> Admitted:
    """Store the batch, its jobs and what became none, unless its idempotency key leads to a batch.

    Both are read a chunk at a time, the jobs first.
    """
    if batch.idempotency and (
        answer := take_key(connection, BATCH_SCOPE, batch.idempotency, batch.id, batch.created_at)
    ):
        return answer
    connection.execute(
        batches.insert().values(
            id=batch.id,
            kind=batch.kind,
            total=0,
            labels=batch.labels,
            schedule_id=batch.schedule_id,
            callback_url=batch.callback_url,
            created_at=batch.created_at,
            current_mark_at=batch.created_at,
            current_mark_ended=0,
        )
    )
    counts = insert_new_jobs(connection, new_jobs, batch_id=batch.id)
    finished_at = None if counts else batch.created_at
    rejections = insert_rejected(connection, batch.id, rejected)
    connection.execute(
        batches.update()
        .where(batches.c.id == batch.id)
        .values(total=counts.total(), rejected=rejections, finished_at=finished_at, **counts)
    )
    announce_jobs(connection)
    return Admitted(batch.id)


def _key_of(job: NewJob) -> str:
    return job.idempotency.key if job.idempotency else ""


def _unique_key_of(job: NewJob) -> bytes:
    return job.unique_key or b""
