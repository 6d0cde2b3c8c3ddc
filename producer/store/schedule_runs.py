"""The runs of schedules: which are due, and how a page of schedules goes one run further.

A run and its schedule's next time are one transaction. Schedules with large templates are read one at a time.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from producer.parking import SCHEDULER, AuditAction
from producer.records import NewJob, Overlap, RunEffect, ScheduledRun, ScheduleRecord, ScheduleStep
from producer.scheduling import failed_step
from producer.store.audit import schedule_target, write_audits
from producer.store.quotas import rooms_of
from producer.store.schedules import has_unfinished_run, schedule_record
from producer.store.schema import HAS_A_RUN, schedules
from producer.store.sql import is_one_of, json_rowset, rows_parameter
from producer.store.submissions import insert_batch, insert_jobs

# A page of a hundred such templates is validated in some 20 ms.
LIGHT_TEMPLATE_BYTES: Final = 16_384

_ACTIONS = {
    RunEffect.MADE: AuditAction.SCHEDULE_RUN_MADE,
    RunEffect.SKIPPED: AuditAction.SCHEDULE_RUN_SKIPPED,
    RunEffect.FAILED: AuditAction.SCHEDULE_RUN_FAILED,
    RunEffect.MISSED: AuditAction.SCHEDULE_RUNS_MISSED,
}
_MOVED = (
    "id",
    "revision",
    "next_run_at",
    "runs",
    "skipped",
    "last_run_at",
    "last_job_id",
    "last_batch_id",
    "last_error",
)
# Of version 0.1.0, whose processes do not say how large a template is.
_IS_LIGHT = sa.func.coalesce(schedules.c.template_bytes, LIGHT_TEMPLATE_BYTES + 1) <= LIGHT_TEMPLATE_BYTES


def due_schedules(
    connection: sa.Connection,
    *,
    light: bool,
    after: UUID | None,
    limit: int,
    now: datetime,
    without: Collection[UUID] = (),
) -> list[UUID]:
    """Return the ids of schedules whose next run is due, from above the id `after`. Locks nothing.

    In the order of their ids and not of their times: so one that missed many runs, whose next is the longest
    due, makes each of them when the others have had their turn.
    """
    query = (
        sa.select(schedules.c.id)
        .where(HAS_A_RUN, schedules.c.next_run_at <= now, _IS_LIGHT if light else ~_IS_LIGHT)
        .order_by(schedules.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(schedules.c.id > after)
    if without:
        query = query.where(schedules.c.id.not_in(list(without)))
    return list(connection.scalars(query))


def read_due(
    connection: sa.Connection, ids: Collection[UUID], *, now: datetime
) -> list[tuple[ScheduleRecord, bool]]:
    """Return those of the schedules that are due, each with whether it has to wait for its last run."""
    query = sa.select(schedules).where(
        is_one_of(connection, schedules.c.id, ids), schedules.c.next_run_at <= now
    )
    records = [schedule_record(row) for row in connection.execute(query.order_by(schedules.c.id)).mappings()]
    return [
        (record, record.overlap is Overlap.SKIP and has_unfinished_run(connection, record))
        for record in records
    ]


def take_steps(
    connection: sa.Connection, steps: Sequence[ScheduleStep], *, now: datetime
) -> list[ScheduleStep]:
    """Store the runs of schedules and their next times together; return the steps that this call took.

    A run that its project may not store is none: the schedule goes on, and says why.

    A schedule that is no longer at the revision that was read, because another ledger or a person was first,
    stays as it is: of any number of calls for one revision, one takes the step.

    Raises:
        ProjectLimitReached, JobInvalid: a batch does not fit for another reason than the number of its jobs,
            or a limit was set at this moment; nothing was changed.
    """
    if not steps:
        return []
    steps = _fitting(connection, steps)
    moved = _advance(connection, steps)
    taken = [step for step in steps if step.schedule.id in moved]
    _insert_runs(connection, (step.run for step in taken if step.run))
    noted = (
        (_ACTIONS[step.effect], schedule_target(step.schedule.id), step.schedule.project, step.facts)
        for step in taken
    )
    write_audits(connection, noted, by=SCHEDULER, now=now)
    return taken


def _fitting(connection: sa.Connection, steps: Sequence[ScheduleStep]) -> Sequence[ScheduleStep]:
    """Return the steps, those that have more jobs than their project may store without their run."""
    rooms = rooms_of(connection, {step.schedule.project for step in steps if step.run})
    if not rooms:
        return steps
    fitting = []
    for step in steps:
        room = rooms.get(step.schedule.project)
        if room is not None and step.run and (jobs := step.run.jobs):
            if (refused := room.refusal(jobs[0].kind, more=len(jobs))) is not None:
                fitting.append(failed_step(step, refused))
                continue
            room.take(jobs[0].kind, more=len(jobs))
        fitting.append(step)
    return fitting


def _advance(connection: sa.Connection, steps: Sequence[ScheduleStep]) -> frozenset[UUID]:
    """Move schedules on by a compare-and-set; return the ids of those that it moved."""
    # Two ledgers at one page share it, and cannot wait for each other.
    lock = sa.select(schedules.c.id).where(
        is_one_of(connection, schedules.c.id, [step.schedule.id for step in steps])
    )
    ours = set(connection.scalars(lock.order_by(schedules.c.id).with_for_update(skip_locked=True)))
    rows = [_moved_row(step) for step in steps if step.schedule.id in ours]
    if not rows:
        return frozenset()
    move = _moving(connection.dialect.name)
    return frozenset(connection.scalars(move, rows_parameter(connection, rows)))


@cache
def _moving(dialect: str) -> sa.sql.dml.ReturningUpdate[tuple[UUID]]:
    given = json_rowset(dialect, schedules, _MOVED)
    values = {name: given.c[name] for name in _MOVED if name not in {"id", "revision"}}
    return (
        schedules.update()
        .where(schedules.c.id == given.c.id, schedules.c.revision == given.c.revision)
        .values(revision=schedules.c.revision + 1, **values)
        .returning(schedules.c.id)
    )


def _moved_row(step: ScheduleStep) -> Mapping[str, Any]:
    """Return what a schedule becomes, and the revision of it for which that is true."""
    schedule, run = step.schedule, step.run
    row = {name: getattr(schedule, name) for name in _MOVED} | {"next_run_at": step.next_run_at}
    match step.effect:
        case RunEffect.MADE if run:
            batch_id = run.batch.id if run.batch else None
            job_id = None if run.batch else run.jobs[0].id
            last = {"last_run_at": run.run_at, "last_job_id": job_id, "last_batch_id": batch_id}
            return row | last | {"runs": schedule.runs + 1, "last_error": None}
        case RunEffect.SKIPPED:
            return row | {"skipped": schedule.skipped + 1}
        case RunEffect.FAILED:
            return row | {"last_error": step.facts["error"]}
        case _:
            return row


def _insert_runs(connection: sa.Connection, runs: Iterable[ScheduledRun]) -> None:
    single: list[NewJob] = []
    for run in runs:
        if run.batch:
            insert_batch(connection, run.batch, run.jobs, run.rejected, jobs_wanted=len(run.jobs))
        else:
            single += run.jobs
    insert_jobs(connection, single)
