"""Lock the jobs that a transaction is about to change, so that no two change one at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from producer.store.membership import is_one_of
from producer.store.schema import jobs
from shared.states import JobState

# Calling the class costs as much as all the rest of a row.
_STATES = {state.value: state for state in JobState}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a locked job is."""

    kind: str
    state: JobState
    run: int
    position: int
    attempt: int
    batch_id: UUID | None
    callback_url: str | None = None


def callback_urls(standing: Mapping[UUID, Standing]) -> dict[UUID, str]:
    """Return whom to tell when a job ends, of those jobs that say so."""
    return {job_id: place.callback_url for job_id, place in standing.items() if place.callback_url}


def lock_jobs(connection: sa.Connection, job_ids: Iterable[UUID]) -> dict[UUID, Standing]:
    """Return where the jobs are, locked until the transaction ends; unknown ids are missing.

    Rows are locked in the order of their ids, so two transactions cannot wait for each other. SQLite
    has one writer at a time and needs no more than that.
    """
    query = (
        sa.select(
            jobs.c.id,
            jobs.c.kind,
            jobs.c.state,
            jobs.c.run,
            jobs.c.position,
            jobs.c.attempt,
            jobs.c.batch_id,
            jobs.c.callback_url,
        )
        .where(is_one_of(connection, jobs.c.id, set(job_ids)))
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    )
    return {
        job_id: Standing(kind, _STATES[state], run, position, attempt, batch_id, callback_url)
        for job_id, kind, state, run, position, attempt, batch_id, callback_url in connection.execute(
            query
        ).all()
    }
