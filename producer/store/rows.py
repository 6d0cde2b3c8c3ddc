"""Between rows and records. Nothing else in the store knows both."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.records import AttemptRecord, BatchRecord, ClaimedJob, JobRecord, Mark, NewJob, Rejected
from producer.store.schema import jobs
from producer.store.sql import is_one_of, rows_of
from shared.kinds.registry import Lane
from shared.outcomes import OutcomeName
from shared.retry import RetryPolicy
from shared.states import JobState, position

# A name has at most 253 characters (RFC 1035 section 2.3.4), but a URL may hold a longer host that no
# resolver takes, and a PostgreSQL index entry is limited to 2,704 bytes.
_HOST_CHARACTERS = 255

JOB_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.lane,
    jobs.c.args,
    jobs.c.retry,
    jobs.c.host,
    jobs.c.labels,
    jobs.c.batch_id,
    jobs.c.schedule_id,
    jobs.c.state,
    jobs.c.run,
    jobs.c.attempt,
    jobs.c.reason,
    jobs.c.explanation,
    jobs.c.result,
    jobs.c.due_at,
    jobs.c.deadline_at,
    jobs.c.created_at,
    jobs.c.finished_at,
    jobs.c.cancel_requested_at,
    jobs.c.callback_url,
)

STANDING_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.state,
    jobs.c.run,
    jobs.c.position,
    jobs.c.attempt,
    jobs.c.batch_id,
    jobs.c.callback_url,
)

CLAIM_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.lane,
    sa.cast(jobs.c.args, sa.Text).label("args_json"),
    sa.cast(jobs.c.retry, sa.Text).label("retry_json"),
    jobs.c.run,
    jobs.c.batch_id,
    jobs.c.deadline_at,
)

# Calling the class costs as much as all the rest of a row.
_LANES = {lane.value: lane for lane in Lane}

_FIRST_POSITIONS = {
    state: position(run=1, attempt=0, state=state) for state in (JobState.SCHEDULED, JobState.ACCEPTED)
}

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


def new_job_row(job: NewJob, *, batch_id: UUID | None) -> dict[str, Any]:
    """Return the row of a job that is accepted or scheduled: run 1, attempt 0."""
    return {
        "id": job.id,
        "kind": job.kind,
        "lane": job.lane.value,
        "args": job.args,
        # Every field, not only what differs: the defaults of a later version must not change this job.
        "retry": job.retry.model_dump(mode="json"),
        "labels": job.labels,
        "host": stored_host(job.host),
        "batch_id": batch_id,
        "unique_key": job.unique_key,
        "schedule_id": job.schedule_id,
        "state": job.state.value,
        "position": _FIRST_POSITIONS[job.state],
        "run": 1,
        "attempt": 0,
        "due_at": job.due_at,
        "deadline_at": job.deadline_at,
        "callback_url": job.callback_url,
        "created_at": job.created_at,
        "updated_at": job.created_at,
    }


def stored_host(host: str) -> str:
    """Return a host as it is stored and looked up."""
    return host[:_HOST_CHARACTERS]


def job_record(row: sa.RowMapping, *, attempts: Sequence[AttemptRecord] = ()) -> JobRecord:
    """Return the record of a row of `JOB_COLUMNS`."""
    return JobRecord(
        id=row["id"],
        kind=row["kind"],
        lane=Lane(row["lane"]),
        args=row["args"],
        retry=RetryPolicy.model_validate(row["retry"]),
        host=row["host"],
        labels=row["labels"],
        batch_id=row["batch_id"],
        schedule_id=row["schedule_id"],
        state=JobState(row["state"]),
        run=row["run"],
        attempt=row["attempt"],
        reason=row["reason"],
        explanation=row["explanation"],
        result=row["result"],
        due_at=row["due_at"],
        deadline_at=row["deadline_at"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        cancel_requested_at=row["cancel_requested_at"],
        callback_url=row["callback_url"],
        attempts=attempts,
    )


def batch_record(row: sa.RowMapping, *, first_rejected: Sequence[Rejected] = ()) -> BatchRecord:
    """Return the record of a row of `batches`."""
    return BatchRecord(
        id=row["id"],
        kind=row["kind"],
        total=row["total"],
        labels=row["labels"],
        counts={state: row[state.value] for state in JobState if row[state.value]},
        schedule_id=row["schedule_id"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        cancelled_at=row["cancelled_at"],
        callback_url=row["callback_url"],
        rejected=row["rejected"],
        first_rejected=first_rejected,
        previous_mark=_mark(row["previous_mark_at"], row["previous_mark_ended"]),
        current_mark=_mark(row["current_mark_at"], row["current_mark_ended"]),
    )


def claimed_job(row: Sequence[Any]) -> ClaimedJob:
    """Return what the relay needs of a row that begins with `CLAIM_COLUMNS`."""
    job_id, kind, lane, args_json, retry_json, run, batch_id, deadline_at = row[: len(CLAIM_COLUMNS)]
    return ClaimedJob(job_id, kind, _LANES[lane], args_json, retry_json, run, batch_id, deadline_at)


def attempt_record(row: sa.RowMapping) -> AttemptRecord:
    """Return the record of a row of `attempts`."""
    return AttemptRecord(
        run=row["run"],
        number=row["number"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        outcome=None if row["outcome"] is None else OutcomeName(row["outcome"]),
        reason=row["reason"],
        wait_seconds=row["wait_seconds"],
        worker=row["worker"],
    )


def lock_jobs(connection: sa.Connection, job_ids: Iterable[UUID]) -> dict[UUID, Standing]:
    """Return where the jobs are, locked until the transaction ends; unknown ids are missing.

    Rows are locked in the order of their ids, so two transactions cannot wait for each other. SQLite
    has one writer at a time and needs no more than that.
    """
    query = (
        sa.select(*STANDING_COLUMNS)
        .where(is_one_of(connection, jobs.c.id, set(job_ids)))
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    )
    return standing_of(connection.execute(query).all())


def standing_of(rows: Iterable[Sequence[Any]]) -> dict[UUID, Standing]:
    """Return where jobs are, from rows of `STANDING_COLUMNS`, in their order."""
    return {
        job_id: Standing(kind, _STATES[state], run, position, attempt, batch_id, callback_url)
        for job_id, kind, state, run, position, attempt, batch_id, callback_url in rows
    }


def write_jobs(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the same columns of many locked jobs in one statement.

    A row has its job's `id` and new `position`; a job that is as far already stays as it is.
    """
    if not rows:
        return
    given = rows_of(connection, rows, {name: jobs.c[name] for name in rows[0]})
    connection.execute(
        jobs.update()
        .where(jobs.c.id == given.c.id, jobs.c.position < given.c.position)
        .values({name: given.c[name] for name in rows[0] if name != "id"})
    )


def _mark(at: datetime | None, ended: int | None) -> Mark | None:
    return None if at is None or ended is None else Mark(at, ended)
