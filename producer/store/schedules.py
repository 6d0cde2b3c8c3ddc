"""Schedules: their rows, and the one transaction that makes a run and moves its schedule on."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.paging import pages_batch_id
from producer.records import NewSchedule, Overlap, ScheduledRun, ScheduleRecord
from producer.store.schema import HAS_A_RUN, jobs, schedules
from producer.store.submissions import insert_batch, insert_jobs
from producer.timetable import CatchUp, Cron, Every, Timetable
from shared.errors import ScheduleNotFound
from shared.states import JobState

_UNFINISHED = [state.value for state in JobState if not state.is_final]


def insert_schedule(connection: sa.Connection, schedule: NewSchedule) -> None:
    """Store a schedule."""
    connection.execute(
        schedules.insert().values(
            id=schedule.id,
            name=schedule.name,
            template=schedule.template,
            overlap=schedule.overlap.value,
            catch_up=schedule.catch_up.value,
            labels=schedule.labels,
            created_at=schedule.created_at,
            next_run_at=schedule.next_run_at,
            revision=0,
            runs=0,
            skipped=0,
            **_timetable_columns(schedule.timetable),
        )
    )


def get_schedule(connection: sa.Connection, schedule_id: UUID) -> ScheduleRecord:
    """Return the schedule.

    Raises:
        ScheduleNotFound: no row has this id.
    """
    query = sa.select(schedules).where(schedules.c.id == schedule_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise ScheduleNotFound(f"no schedule has the id {schedule_id}")
    return _record(row)


def list_schedules(connection: sa.Connection, *, limit: int, after: UUID | None) -> list[ScheduleRecord]:
    """Return a page of all schedules, newest first, from below the id `after`."""
    query = sa.select(schedules).order_by(schedules.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(schedules.c.id < after)
    return [_record(row) for row in connection.execute(query).mappings()]


def due_schedules(connection: sa.Connection, *, limit: int, now: datetime) -> list[ScheduleRecord]:
    """Return schedules whose next run is due, the longest due first. Locks nothing."""
    query = (
        sa.select(schedules)
        .where(HAS_A_RUN, schedules.c.next_run_at <= now)
        .order_by(schedules.c.next_run_at, schedules.c.id)
        .limit(limit)
    )
    return [_record(row) for row in connection.execute(query).mappings()]


def has_unfinished_run(connection: sa.Connection, schedule: ScheduleRecord) -> bool:
    """Return whether a job of the schedule's last run has not ended."""
    return bool(
        connection.scalar(
            sa.select(sa.exists().where(_is_of_last_run(schedule), jobs.c.state.in_(_UNFINISHED)))
        )
    )


def advance_schedule(
    connection: sa.Connection,
    schedule: ScheduleRecord,
    *,
    next_run_at: datetime | None,
    run: ScheduledRun | None,
    values: Mapping[str, object],
) -> bool:
    """Move a schedule on and make its run, if there is one; return whether this call did it.

    A compare-and-set: it changes nothing when the schedule is no longer at the revision that was read, so
    of two ledgers that decide on one run only one makes it.
    """
    moved = connection.execute(
        schedules.update()
        .where(
            schedules.c.id == schedule.id,
            schedules.c.revision == schedule.revision,
            schedules.c.next_run_at == schedule.next_run_at,
        )
        .values(next_run_at=next_run_at, revision=schedule.revision + 1, **values, **_run_columns(run))
    )
    if moved.rowcount != 1:
        return False
    _insert_run(connection, run)
    return True


def run_now(connection: sa.Connection, schedule_id: UUID, run: ScheduledRun) -> None:
    """Make a run that a person asked for; the times of the schedule stay as they are.

    Raises:
        ScheduleNotFound: no row has this id.
    """
    _change(connection, schedule_id, {"last_error": None, **_run_columns(run)})
    _insert_run(connection, run)


def pause_schedule(connection: sa.Connection, schedule_id: UUID, *, now: datetime) -> None:
    """Take away the schedule's next run; one that is paused stays as it is.

    Raises:
        ScheduleNotFound: no row has this id.
    """
    paused_at = sa.func.coalesce(schedules.c.paused_at, sa.bindparam("now", now, schedules.c.paused_at.type))
    _change(connection, schedule_id, {"next_run_at": None, "paused_at": paused_at})


def resume_schedule(connection: sa.Connection, schedule_id: UUID, *, next_run_at: datetime | None) -> None:
    """Give a paused schedule its next run; one that is not paused stays as it is.

    Raises:
        ScheduleNotFound: no row has this id.
    """
    next_of_paused = sa.case(
        (
            schedules.c.paused_at.is_not(None),
            sa.bindparam("next", next_run_at, schedules.c.next_run_at.type),
        ),
        else_=schedules.c.next_run_at,
    )
    _change(connection, schedule_id, {"next_run_at": next_of_paused, "paused_at": None})


def delete_schedule(connection: sa.Connection, schedule_id: UUID) -> None:
    """Delete the schedule; the jobs that it made stay.

    Raises:
        ScheduleNotFound: no row has this id.
    """
    if connection.execute(schedules.delete().where(schedules.c.id == schedule_id)).rowcount != 1:
        raise ScheduleNotFound(f"no schedule has the id {schedule_id}")


def _is_of_last_run(schedule: ScheduleRecord) -> sa.ColumnElement[bool]:
    if schedule.last_batch_id is not None:
        return jobs.c.batch_id == schedule.last_batch_id
    if schedule.last_job_id is None:
        return sa.false()
    # Of a paged fetch, the job and all its further pages.
    pages_id = pages_batch_id(schedule.last_job_id)
    return sa.or_(jobs.c.id == schedule.last_job_id, jobs.c.batch_id == pages_id)


def _change(connection: sa.Connection, schedule_id: UUID, values: Mapping[str, object]) -> None:
    change = schedules.update().where(schedules.c.id == schedule_id)
    changed = connection.execute(change.values(revision=schedules.c.revision + 1, **values))
    if changed.rowcount != 1:
        raise ScheduleNotFound(f"no schedule has the id {schedule_id}")


def _run_columns(run: ScheduledRun | None) -> dict[str, object]:
    if run is None:
        return {}
    return {
        "runs": schedules.c.runs + 1,
        "last_run_at": run.run_at,
        "last_job_id": None if run.batch else run.jobs[0].id,
        "last_batch_id": run.batch.id if run.batch else None,
    }


def _insert_run(connection: sa.Connection, run: ScheduledRun | None) -> None:
    if run is None:
        return
    if run.batch:
        insert_batch(connection, run.batch, run.jobs, run.rejected)
    else:
        insert_jobs(connection, run.jobs)


def _timetable_columns(timetable: Timetable) -> dict[str, object]:
    match timetable:
        case Cron(expression, timezone, starts_at):
            return {"cron": expression, "timezone": timezone, "starts_at": starts_at}
        case Every(seconds, starts_at):
            return {"every_seconds": seconds, "starts_at": starts_at}


def _timetable(row: sa.RowMapping) -> Timetable:
    if row["cron"] is not None:
        return Cron(row["cron"], row["timezone"], row["starts_at"])
    return Every(row["every_seconds"], row["starts_at"])


def _record(row: sa.RowMapping) -> ScheduleRecord:
    columns: dict[str, Any] = {name: row[name] for name in _PLAIN_COLUMNS}
    return ScheduleRecord(
        timetable=_timetable(row),
        overlap=Overlap(row["overlap"]),
        catch_up=CatchUp(row["catch_up"]),
        **columns,
    )


_PLAIN_COLUMNS = (
    "id",
    "name",
    "template",
    "labels",
    "created_at",
    "paused_at",
    "next_run_at",
    "revision",
    "runs",
    "skipped",
    "last_run_at",
    "last_job_id",
    "last_batch_id",
    "last_error",
)
