"""Schedules, jobs that are due and jobs that expire. `schedule_runs.py` makes the runs of schedules.

Several schedulers share the work: each locks a page of jobs and skips what another has locked.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.paged_fetch import pages_batch_id
from producer.parking import ANONYMOUS, AuditAction
from producer.records import Found, NewSchedule, ScheduledRun, ScheduleRecord, Transition
from producer.store.audit import schedule_target, write_audit
from producer.store.batches import Move, count_moves
from producer.store.endings import end_jobs, end_of
from producer.store.page_bytes import read_page
from producer.store.projects import visible
from producer.store.quotas import check_room, check_schedules, limits_in_force
from producer.store.repeats import look_after
from producer.store.rows import OPEN_STATES, STANDING_COLUMNS, Standing, columns_of, standing_of, write_jobs
from producer.store.schema import CAN_EXPIRE, HAS_A_RUN, IS_SCHEDULED, jobs, schedules
from producer.store.sql import count_under_lock, encode_document, stored
from producer.store.submissions import check_labels, insert_batch, insert_jobs
from producer.store.wakeup import announce_waiting
from producer.timetable import Cron, Every, Timetable
from shared.errors import QuotaReached, ScheduleNotFound
from shared.kinds.registry import waiting_state
from shared.outcomes import EXPIRED
from shared.states import JobState, position

_NAMES = [column.name for column in columns_of(ScheduleRecord, schedules)]
_COLUMNS = [stored(column) if column.name == "template" else column for column in schedules.c]
_LARGE = (schedules.c.template, schedules.c.labels)
# A worker announces an attempt after half a second. A job that was started just before its deadline is not
# parked while that report is on its way.
EXPIRY_GRACE = timedelta(seconds=3)
_LAST_TIME = datetime.max.replace(tzinfo=UTC)
_EXPLANATION = "Its deadline passed while no attempt was known to run."


def insert_schedule(
    connection: sa.Connection, schedule: NewSchedule, *, by: str = ANONYMOUS, most: int | None = None
) -> None:
    """Store a schedule.

    Raises:
        QuotaReached: there are as many as there may be.
        JobInvalid: its project may not put so many labels on one.
    """
    if limits := limits_in_force(connection):
        (template,) = schedule.template.values()
        check_labels({**schedule.labels, **template.get("labels", {})}, schedule.project, limits)
    check_schedules(connection, schedule.project)
    if most is not None and count_under_lock(connection, schedules) >= most:
        raise QuotaReached(
            f"There are {most:,} schedules, which is the most (RETRIEVER_MAX_SCHEDULES). "
            "Delete one of them first."
        )
    connection.execute(
        schedules.insert().values(
            id=schedule.id,
            name=schedule.name,
            template=schedule.template,
            template_bytes=len(encode_document(schedule.template)),
            overlap=schedule.overlap,
            catch_up=schedule.catch_up,
            labels=schedule.labels,
            created_at=schedule.created_at,
            next_run_at=schedule.next_run_at,
            project=schedule.project,
            revision=0,
            runs=0,
            skipped=0,
            **_timetable_columns(schedule.timetable),
        )
    )
    details = {"name": schedule.name} if schedule.name else {}
    _audit(connection, AuditAction.SCHEDULE_CREATED, schedule, details, by=by, now=schedule.created_at)


def get_schedule(connection: sa.Connection, schedule_id: UUID, *, project: str | None) -> ScheduleRecord:
    """Return the schedule.

    Raises:
        ScheduleNotFound: no row has this id, for a caller of this project.
    """
    query = sa.select(*_COLUMNS).where(*_is_schedule(schedule_id, project))
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise ScheduleNotFound(f"no schedule has the id {schedule_id}")
    return schedule_record(row)


def list_schedules(
    connection: sa.Connection, *, project: str | None, limit: int, after: UUID | None
) -> Found[ScheduleRecord]:
    """Return a page of schedules, newest first, from below the id `after`: as many as fit."""
    query = sa.select(*_COLUMNS).where(*visible(schedules, project)).order_by(schedules.c.id.desc())
    if after is not None:
        query = query.where(schedules.c.id < after)
    found, following = read_page(connection, query, schedules.c.id, _LARGE, limit=limit)
    return Found([schedule_record(row) for row in found], following)


def schedule_record(row: sa.RowMapping) -> ScheduleRecord:
    """Return the record of a row of `schedules`."""
    return ScheduleRecord(**{name: row[name] for name in _NAMES}, timetable=_timetable(row))


def has_unfinished_run(connection: sa.Connection, schedule: ScheduleRecord) -> bool:
    """Return whether a job of the schedule's last run has not ended."""
    return bool(
        connection.scalar(
            sa.select(sa.exists().where(_is_of_last_run(schedule), jobs.c.state.in_(OPEN_STATES)))
        )
    )


def run_now(
    connection: sa.Connection,
    schedule_id: UUID,
    run: ScheduledRun,
    *,
    project: str | None,
    now: datetime,
    by: str = ANONYMOUS,
) -> ScheduleRecord:
    """Make a run that a person asked for; return the schedule, whose times stay as they are.

    Raises:
        ScheduleNotFound: no row has this id, for a caller of this project.
    """
    _change(connection, schedule_id, {"last_error": None, **_run_columns(run)}, project=project)
    record = get_schedule(connection, schedule_id, project=project)
    _insert_run(connection, run)
    _audit(connection, AuditAction.SCHEDULE_RUN_MADE, record, run.facts, by=by, now=now)
    return record


def pause_schedule(
    connection: sa.Connection, schedule_id: UUID, *, project: str | None, now: datetime, by: str = ANONYMOUS
) -> ScheduleRecord:
    """Take away the schedule's next run and return it; one that is paused stays as it is.

    Raises:
        ScheduleNotFound: no row has this id, for a caller of this project.
    """
    paused = {"next_run_at": None, "paused_at": now}
    is_running = schedules.c.paused_at.is_(None)
    is_changed = _change(connection, schedule_id, paused, project=project, where=is_running)
    record = get_schedule(connection, schedule_id, project=project)
    if is_changed:
        _audit(connection, AuditAction.SCHEDULE_PAUSED, record, {}, by=by, now=now)
    return record


def resume_schedule(
    connection: sa.Connection,
    schedule_id: UUID,
    *,
    project: str | None,
    next_run_at: datetime | None,
    now: datetime,
    by: str = ANONYMOUS,
) -> ScheduleRecord:
    """Give a paused schedule its next run and return it; one that is not paused stays as it is.

    Raises:
        ScheduleNotFound: no row has this id, for a caller of this project.
    """
    resumed = {"next_run_at": next_run_at, "paused_at": None}
    is_paused = schedules.c.paused_at.is_not(None)
    is_changed = _change(connection, schedule_id, resumed, project=project, where=is_paused)
    record = get_schedule(connection, schedule_id, project=project)
    if is_changed:
        details = {"next_run_at": next_run_at.isoformat() if next_run_at else None}
        _audit(connection, AuditAction.SCHEDULE_RESUMED, record, details, by=by, now=now)
    return record


def delete_schedule(
    connection: sa.Connection, schedule_id: UUID, *, project: str | None, now: datetime, by: str = ANONYMOUS
) -> None:
    """Delete the schedule; the jobs that it made stay.

    Raises:
        ScheduleNotFound: no row has this id, for a caller of this project.
    """
    record = get_schedule(connection, schedule_id, project=project)
    if connection.execute(schedules.delete().where(schedules.c.id == record.id)).rowcount != 1:
        raise ScheduleNotFound(f"no schedule has the id {schedule_id}")
    _audit(connection, AuditAction.SCHEDULE_DELETED, record, {}, by=by, now=now)


def next_due_at(connection: sa.Connection, *, without: Collection[UUID] = ()) -> datetime | None:
    """Return when a job or a schedule is due next, or a job expires; None when nothing has a time.

    Args:
        without: Jobs and schedules that do not count.
    """
    others = _are_not(jobs.c.id, without)
    due_at: datetime | None = connection.scalar(
        sa.select(sa.func.min(jobs.c.due_at)).where(IS_SCHEDULED, *others)
    )
    deadline_at: datetime | None = connection.scalar(
        sa.select(sa.func.min(jobs.c.deadline_at)).where(CAN_EXPIRE, *others)
    )
    run_at: datetime | None = connection.scalar(
        sa.select(sa.func.min(schedules.c.next_run_at)).where(HAS_A_RUN, *_are_not(schedules.c.id, without))
    )
    expires_at = _later(deadline_at, EXPIRY_GRACE) if deadline_at else None
    return min((at for at in (due_at, expires_at, run_at) if at), default=None)


def due_jobs(
    connection: sa.Connection, *, limit: int, now: datetime, without: Collection[UUID] = ()
) -> list[UUID]:
    """Return the ids of scheduled jobs that are due, the longest due first. Locks nothing."""
    query = sa.select(jobs.c.id).where(_is_due(now), *_are_not(jobs.c.id, without))
    return list(connection.scalars(query.order_by(jobs.c.due_at, jobs.c.id).limit(limit)))


def late_jobs(
    connection: sa.Connection, *, limit: int, now: datetime, without: Collection[UUID] = ()
) -> list[UUID]:
    """Return the ids of jobs that were not started before their deadline, the latest first. Locks nothing."""
    query = sa.select(jobs.c.id).where(_is_late(now), *_are_not(jobs.c.id, without))
    return list(connection.scalars(query.order_by(jobs.c.deadline_at, jobs.c.id).limit(limit)))


def release_due(
    connection: sa.Connection,
    *,
    limit: int,
    now: datetime,
    only: UUID | None = None,
    without: Collection[UUID] = (),
) -> list[Transition]:
    """Let scheduled jobs that are due wait to run, the longest due first; return what changed.

    Repeats whose original is unfinished go on waiting.
    """
    which = sa.and_(_is_due(now), *_chosen(only, without))
    due = look_after(connection, _lock(connection, which, by=jobs.c.due_at, limit=limit), now=now)
    write_jobs(connection, [_released_row(job_id, place, now) for job_id, place in due.items()])
    moves = [Move(place.batch_id, place.state, waiting_state(place.kind)) for place in due.values()]
    count_moves(connection, moves, now=now)
    announce_waiting(connection, {job_id: place.kind for job_id, place in due.items()})
    return [
        Transition(job_id, place.kind, place.run, place.attempt, waiting_state(place.kind), None)
        for job_id, place in due.items()
    ]


def expire_jobs(
    connection: sa.Connection,
    *,
    limit: int,
    now: datetime,
    only: UUID | None = None,
    without: Collection[UUID] = (),
) -> list[Transition]:
    """Park up to `limit` jobs that were not started before their deadline; return what changed."""
    which = sa.and_(_is_late(now), *_chosen(only, without))
    late = _lock(connection, which, by=jobs.c.deadline_at, limit=limit)
    ends = [
        end_of(job_id, place, JobState.PARKED, reason=EXPIRED, explanation=_EXPLANATION, now=now)
        for job_id, place in late.items()
    ]
    return end_jobs(connection, ends, late, now=now)


def _is_schedule(schedule_id: UUID, project: str | None) -> list[sa.ColumnElement[bool]]:
    return [schedules.c.id == schedule_id, *visible(schedules, project)]


def _is_due(now: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(IS_SCHEDULED, jobs.c.due_at <= now)


def _is_late(now: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(CAN_EXPIRE, jobs.c.deadline_at <= now - EXPIRY_GRACE)


def _chosen(only: UUID | None, without: Collection[UUID]) -> list[sa.ColumnElement[bool]]:
    return [*([] if only is None else [jobs.c.id == only]), *_are_not(jobs.c.id, without)]


def _are_not(column: sa.ColumnElement[UUID], without: Collection[UUID]) -> list[sa.ColumnElement[bool]]:
    # Most often there is none, and the statement stays the same.
    return [column.not_in(list(without))] if without else []


def _later(at: datetime, by: timedelta) -> datetime:
    """Return a later time, or the last there is: version 0.1.0 took deadlines of any year from strangers."""
    return at if at > _LAST_TIME - by else at + by


def _is_of_last_run(schedule: ScheduleRecord) -> sa.ColumnElement[bool]:
    if schedule.last_batch_id is not None:
        return jobs.c.batch_id == schedule.last_batch_id
    if schedule.last_job_id is None:
        return sa.false()
    # A paged fetch is the job and all its further pages.
    pages_id = pages_batch_id(schedule.last_job_id)
    return sa.or_(jobs.c.id == schedule.last_job_id, jobs.c.batch_id == pages_id)


def _change(
    connection: sa.Connection,
    schedule_id: UUID,
    values: Mapping[str, object],
    *,
    project: str | None,
    where: sa.ColumnElement[bool] | None = None,
) -> bool:
    """Change a schedule, if it is there and the condition holds; return whether it did."""
    change = schedules.update().where(*_is_schedule(schedule_id, project))
    if where is not None:
        change = change.where(where)
    return connection.execute(change.values(revision=schedules.c.revision + 1, **values)).rowcount == 1


def _audit(
    connection: sa.Connection,
    action: AuditAction,
    schedule: NewSchedule,
    details: Mapping[str, object],
    *,
    by: str,
    now: datetime,
) -> None:
    target, project = schedule_target(schedule.id), schedule.project
    write_audit(connection, action, target=target, project=project, by=by, details=details, now=now)


def _run_columns(run: ScheduledRun) -> dict[str, object]:
    return {
        "runs": schedules.c.runs + 1,
        "last_run_at": run.run_at,
        "last_job_id": None if run.batch else run.jobs[0].id,
        "last_batch_id": run.batch.id if run.batch else None,
    }


def _insert_run(connection: sa.Connection, run: ScheduledRun) -> None:
    if run.batch:
        insert_batch(connection, run.batch, run.jobs, run.rejected, jobs_wanted=len(run.jobs))
    else:
        check_room(connection, Counter((job.project, job.kind) for job in run.jobs))
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


def _lock(
    connection: sa.Connection, which: sa.ColumnElement[bool], *, by: sa.Column[datetime], limit: int
) -> dict[UUID, Standing]:
    query = (
        sa.select(*STANDING_COLUMNS)
        .where(which)
        .order_by(by, jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return standing_of(connection.execute(query).all())


def _released_row(job_id: UUID, place: Standing, now: datetime) -> dict[str, Any]:
    return {
        "id": job_id,
        "position": position(run=place.run, attempt=0, state=waiting_state(place.kind)),
        "state": waiting_state(place.kind),
        "due_at": None,
        "same_as": place.same_as if place.same_as == job_id else None,
        "updated_at": now,
    }
