"""A job's row: how a new one is made, how many are locked and changed at once, and the records of rows.

The columns of a record are those of the same names: a field is added in the schema and in the record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.progress import Points
from producer.records import (
    AttemptRecord,
    BatchRecord,
    ClaimedJob,
    JobRecord,
    NewJob,
    ProgressPoint,
    Rejected,
)
from producer.store.projects import visible
from producer.store.schema import attempts, batches, jobs, rejected_lines
from producer.store.sql import is_one_of, json_rowset, rows_parameter, stored
from shared.errors import JobNotFound
from shared.states import JobState, position

# A name has at most 253 characters (RFC 1035 section 2.3.4), but a URL may hold a longer host that no
# resolver takes, and a PostgreSQL index entry is limited to 2,704 bytes.
_HOST_CHARACTERS = 255
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def columns_of(record: type[Any], table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns of a table that a record has fields for."""
    return [table.c[each.name] for each in fields(record) if each.name in table.c]


JOB_COLUMNS: Sequence[sa.ColumnElement[Any]] = [
    stored(column) if column.name in {"args", "result"} else column for column in columns_of(JobRecord, jobs)
]
LARGE_COLUMNS = (
    jobs.c.args,
    jobs.c.result,
    jobs.c.labels,
    jobs.c.explanation,
    jobs.c.given_url,
    jobs.c.callback_url,
)
"""The columns of a job that may be large, alone or a thousand together."""
ATTEMPT_COLUMNS = columns_of(AttemptRecord, attempts)
REJECTED_COLUMNS = columns_of(Rejected, rejected_lines)
STANDING_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.state,
    jobs.c.run,
    jobs.c.position,
    jobs.c.attempt,
    jobs.c.batch_id,
    jobs.c.project,
    jobs.c.callback_url,
    jobs.c.token_from_run,
    jobs.c.callback_events,
    jobs.c.ref,
    jobs.c.same_as,
    jobs.c.held_for,
    jobs.c.counted_for,
    jobs.c.due_at,
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
    jobs.c.project,
    jobs.c.ref,
)

FINAL_STATES = tuple(state for state in JobState if state.is_final)
OPEN_STATES = tuple(state for state in JobState if not state.is_final)

_NEW_NAMES = [column.name for column in columns_of(NewJob, jobs)]
_BATCH_NAMES = [column.name for column in columns_of(BatchRecord, batches)]
_FIRST_POSITIONS = {
    state: position(run=1, attempt=0, state=state)
    for state in (JobState.SCHEDULED, JobState.ACCEPTED, JobState.QUEUED)
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a locked job is."""

    kind: str
    state: JobState
    run: int
    position: int
    attempt: int
    batch_id: UUID | None
    project: str
    callback_url: str | None = None
    token_from_run: int | None = None
    callback_events: Sequence[str] | None = None
    ref: str | None = None
    same_as: UUID | None = None
    held_for: str | None = None
    counted_for: str | None = None
    due_at: datetime | None = None

    def callback_of(self, end: JobState) -> str | None:
        """Return the URL that wants to be told of an end, if there is one."""
        is_wanted = self.callback_events is None or end in self.callback_events
        return self.callback_url if is_wanted else None

    def needs_token(self, run: int) -> bool:
        """Return whether a report of this run is believed only with its token."""
        return run >= self.first_token_run

    @property
    def first_token_run(self) -> int:
        """The first run whose reports must bring a token."""
        # A job of version 0.1.0 is under way in this run, and its messages have none.
        return self.run + 1 if self.token_from_run is None else self.token_from_run


def new_job_row(job: NewJob, *, batch_id: UUID | None) -> dict[str, Any]:
    """Return the row of a job that is scheduled, or waits to run: run 1, attempt 0."""
    return {
        **{name: getattr(job, name) for name in _NEW_NAMES},
        # Every field, not only what differs: the defaults of a later version must not change this job.
        "retry": job.retry.model_dump(mode="json"),
        "host": stored_host(job.host),
        "queue": job.queue,
        "batch_id": batch_id,
        "state": job.state,
        "position": _FIRST_POSITIONS[job.state],
        "run": 1,
        "attempt": 0,
        "token_from_run": 1,
        "updated_at": job.created_at,
    }


def stored_host(host: str) -> str:
    """Return a host as it is stored and looked up."""
    return host[:_HOST_CHARACTERS]


def first_id(at: datetime) -> UUID:
    """Return the least id that can be made from a time on: a UUIDv7 begins with milliseconds (RFC 9562)."""
    return UUID(int=max(-((_EPOCH - at) // _MILLISECOND), 0) << 80)


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


def lock_job(connection: sa.Connection, job_id: UUID, *, project: str | None) -> Standing:
    """Return where a job is, locked until the transaction ends.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
    """
    query = sa.select(*STANDING_COLUMNS).where(jobs.c.id == job_id, *visible(jobs, project))
    standing = standing_of(connection.execute(query.with_for_update(key_share=True)).all())
    if job_id not in standing:
        raise JobNotFound(f"no job has the id {job_id}")
    return standing[job_id]


def standing_of(rows: Iterable[Sequence[Any]]) -> dict[UUID, Standing]:
    """Return where jobs are, from rows of `STANDING_COLUMNS`, in their order."""
    return {job_id: Standing(*place) for job_id, *place in rows}


def write_jobs(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the same columns of many locked jobs in one statement.

    A row has its job's `id` and new `position`; a job that is as far already stays as it is.
    """
    if not rows:
        return
    connection.execute(_writing(connection.dialect.name, tuple(rows[0])), rows_parameter(connection, rows))


@cache
def _writing(dialect: str, names: tuple[str, ...]) -> sa.Update:
    given = json_rowset(dialect, jobs, names)
    return (
        jobs.update()
        .where(jobs.c.id == given.c.id, jobs.c.position < given.c.position)
        .values({name: given.c[name] for name in names if name != "id"})
    )


def job_record(row: sa.RowMapping, *, attempts: Sequence[AttemptRecord] = ()) -> JobRecord:
    """Return the record of a row of `JOB_COLUMNS`."""
    return JobRecord(**row, attempts=attempts)


def job_records(connection: sa.Connection, query: sa.Select[Any]) -> list[JobRecord]:
    """Return what a query of `JOB_COLUMNS` finds, without attempts."""
    return [job_record(row) for row in connection.execute(query).mappings()]


def batch_record(
    row: sa.RowMapping,
    *,
    first_rejected: Sequence[Rejected] = (),
    latest_due_at: datetime | None = None,
) -> BatchRecord:
    """Return the record of a row of `batches`."""
    return BatchRecord(
        **{name: row[name] for name in _BATCH_NAMES},
        counts={state: row[state] for state in JobState if row[state]},
        first_rejected=first_rejected,
        previous_point=points_of(row).previous,
        current_point=points_of(row).current,
        latest_due_at=latest_due_at,
    )


def points_of(row: sa.RowMapping) -> Points:
    """Return the points of progress in a row of `batches`."""
    return Points(
        _point(row["previous_mark_at"], row["previous_mark_ended"]),
        _point(row["current_mark_at"], row["current_mark_ended"]),
    )


def point_columns(points: Points) -> dict[str, object]:
    """Return the columns of `batches` that keep points of progress."""
    previous, current = points.previous, points.current
    return {
        "previous_mark_at": previous.at if previous else None,
        "previous_mark_ended": previous.ended if previous else None,
        "current_mark_at": current.at if current else None,
        "current_mark_ended": current.ended if current else None,
    }


def claimed_job(row: Sequence[Any]) -> ClaimedJob:
    """Return what the relay needs from a row that begins with `CLAIM_COLUMNS`."""
    return ClaimedJob(*row[: len(CLAIM_COLUMNS)])


def _point(at: datetime | None, ended: int | None) -> ProgressPoint | None:
    return None if at is None or ended is None else ProgressPoint(at, ended)
