"""Store jobs that came over the broker: they are queued, for a message of theirs is on its way."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.records import AdoptedJob
from producer.store.engine import POSTGRESQL
from producer.store.rows import new_job_row
from producer.store.schema import jobs
from shared.states import JobState, position


def insert_adopted(connection: sa.Connection, adopted: Iterable[AdoptedJob]) -> frozenset[UUID]:
    """Store those of the jobs whose id is new, and return their ids; others are left as they are."""
    # In the order of their ids: two transactions that store the same jobs cannot wait for each other.
    rows = [_row(each) for each in sorted(adopted, key=lambda each: each.job.id)]
    if not rows:
        return frozenset()
    insert = (postgresql.insert if connection.dialect.name == POSTGRESQL else sqlite.insert)(jobs)
    new = insert.on_conflict_do_nothing(index_elements=[jobs.c.id]).returning(jobs.c.id)
    return frozenset(connection.scalars(new, rows))


def _row(adopted: AdoptedJob) -> dict[str, Any]:
    return {
        **new_job_row(adopted.job, batch_id=None),
        "state": JobState.QUEUED.value,
        "run": adopted.run,
        "attempt": adopted.attempt,
        "position": position(run=adopted.run, attempt=adopted.attempt, state=JobState.QUEUED),
    }
