"""From a submitted schedule to the one to store, and from a stored one to its runs. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import assert_never
from uuid import UUID

from producer.batch_validation import batch_args, located
from producer.records import (
    NewSchedule,
    Overlap,
    RunEffect,
    ScheduledRun,
    ScheduleRecord,
    ScheduleStep,
)
from producer.repeats import RepeatFinder
from producer.submission import MAX_AHEAD, JobTemplate
from producer.submission_models import MAX_LABELS, BatchSubmission, JobSubmission, ScheduleSubmission
from producer.timetable import (
    Cron,
    Every,
    Timetable,
    TimetableInvalid,
    check_timetable,
    first_time,
    next_step,
    next_times,
    timezones,
)
from shared.errors import FieldError, JobInvalid
from shared.identity import new_id

UTC_NAME = "UTC"
_ERROR_CHARACTERS = 500
_CRON_SECONDS = 60
_CRON_TIMES = 100
_ABSOLUTE_TIMES = ("run_at", "delay_seconds", "deadline_at")


@dataclass(frozen=True, slots=True)
class ScheduleLimits:
    """How many schedules there may be, how often one may run, and how many jobs a second it may make."""

    most: int = 1_000
    min_seconds: int = 1
    jobs_per_second: int = 100


def new_schedule(
    submission: ScheduleSubmission,
    *,
    schedule_id: UUID,
    project: str,
    now: datetime,
    limits: ScheduleLimits = ScheduleLimits(),
) -> NewSchedule:
    """Return the schedule of a project that a submission asks for, to be stored; a trial run has been made.

    Raises:
        JobInvalid: the times or the template break a rule, or it would run too often; every field is named.
    """
    timetable = _timetable(submission, now)
    part, template = _template(submission)
    if (labels := len(submission.labels | template.labels)) > MAX_LABELS:
        raise _invalid("/labels", f"With those of the {part} there are {labels}; the most is {MAX_LABELS}")
    with located(f"/{part}"):
        trial = _make_run(
            _strictly(template),
            submission.labels,
            schedule_id=schedule_id,
            project=project,
            run_at=now,
            now=now,
        )
    _check_period(timetable, len(trial.jobs), limits, now=now)
    return NewSchedule(
        id=schedule_id,
        name=submission.name,
        timetable=timetable,
        template={part: template.model_dump(mode="json", exclude_unset=True)},
        overlap=submission.overlap,
        catch_up=submission.catch_up,
        labels=submission.labels,
        created_at=now,
        next_run_at=first_time(timetable, after=now),
        project=project,
    )


def scheduled_run(schedule: ScheduleRecord, *, run_at: datetime, now: datetime) -> ScheduledRun:
    """Return the run of a schedule for one of its times, with new ids; it is created `now`.

    Its jobs and batch have the labels of the schedule; where the template has the same, its own.

    Raises:
        JobInvalid: its template is no longer valid in this version.
    """
    part = "job" if "job" in schedule.template else "batch"
    model: type[JobSubmission | BatchSubmission] = JobSubmission if part == "job" else BatchSubmission
    with located(f"/{part}"):
        return _make_run(
            model.model_validate(schedule.template[part]),
            schedule.labels,
            schedule_id=schedule.id,
            project=schedule.project,
            run_at=run_at,
            now=now,
        )


def decide_step(schedule: ScheduleRecord, *, now: datetime, has_unfinished_run: bool) -> ScheduleStep:
    """Return how a schedule that is due goes one run further; a run is made with new ids, created `now`."""
    # A schedule without a next time is not due.
    due_at = schedule.next_run_at or now
    step = next_step(schedule.timetable, next_run_at=due_at, now=now, catch_up=schedule.catch_up)
    following = step.next_run_at
    if step.run_at is None:
        facts = {
            "missed_from": due_at.isoformat(),
            "next_run_at": following.isoformat() if following else None,
        }
        return ScheduleStep(schedule, following, RunEffect.MISSED, facts)
    run_at = {"run_at": step.run_at.isoformat()}
    if has_unfinished_run and schedule.overlap is Overlap.SKIP:
        return ScheduleStep(schedule, following, RunEffect.SKIPPED, run_at)
    made = ScheduleStep(schedule, following, RunEffect.MADE, run_at)
    try:
        run = scheduled_run(schedule, run_at=step.run_at, now=now)
    except JobInvalid as error:
        return failed_step(made, error)
    return replace(made, facts=run.facts, run=run)


def failed_step(step: ScheduleStep, error: Exception) -> ScheduleStep:
    """Return a step whose run cannot be made: the schedule goes on, and keeps why."""
    # Of those of a batch, the first say enough.
    facts = {"run_at": step.facts["run_at"], "error": str(error)[:_ERROR_CHARACTERS]}
    return replace(step, effect=RunEffect.FAILED, facts=facts, run=None)


def _make_run(
    submission: JobSubmission | BatchSubmission,
    labels: Mapping[str, str],
    *,
    schedule_id: UUID,
    project: str,
    run_at: datetime,
    now: datetime,
) -> ScheduledRun:
    own = JobTemplate.of(submission, project=project, now=now, schedule_id=schedule_id)
    template = replace(own, labels={**labels, **own.labels})
    match submission:
        case JobSubmission(args=args, ref=ref):
            job = template.job(template.validate(args), job_id=new_id())
            return ScheduledRun(run_at, [replace(job, ref=ref)])
        case BatchSubmission():
            valid, rejected, count = batch_args(submission, template)
            finder = RepeatFinder(template, dedupe=submission.dedupe)
            found = [(each, finder.find(each.document)) for each in valid]
            batch = template.batch(batch_id=new_id(), repeats=finder.repeats, rejected=count)
            jobs = list(finder.jobs(template, found, batch_id=batch.id))
            return ScheduledRun(run_at, jobs, batch, rejected)
        case _:
            assert_never(submission)


def _check_period(timetable: Timetable, jobs: int, limits: ScheduleLimits, *, now: datetime) -> None:
    """Return if a schedule may run as often as its timetable says.

    Raises:
        JobInvalid: its period is too short, or too short for so many jobs.
    """
    needed = max(limits.min_seconds, math.ceil(jobs / limits.jobs_per_second))
    if isinstance(timetable, Every):
        field, period = "/every_seconds", timetable.seconds
    else:
        # Its shortest period is a minute, so most often there is nothing to look for.
        times = next_times(timetable, not_before=now, limit=_CRON_TIMES if needed > _CRON_SECONDS else 1)
        gaps = [int((after - before).total_seconds()) for before, after in pairwise(times)]
        field, period = "/cron", min(gaps, default=needed)
    if period < needed:
        why = f"for {jobs:,} jobs a run" if needed > limits.min_seconds else "here"
        raise _invalid(field, f"It would run every {period:,} s; the shortest period {why} is {needed:,} s")


def _strictly(template: JobSubmission | BatchSubmission) -> JobSubmission | BatchSubmission:
    # Nobody reads the rejected items of a run that is months off, so the author of the template gets them.
    # `strict` as it was sent decides later, when a newer version rejects items of a run.
    return template.model_copy(update={"strict": True}) if isinstance(template, BatchSubmission) else template


def _timetable(submission: ScheduleSubmission, now: datetime) -> Timetable:
    starts_at = submission.starts_at
    if starts_at is not None:
        if abs(starts_at - now) > MAX_AHEAD:
            raise _invalid("/starts_at", "It is more than a year away")
        starts_at = starts_at.astimezone(UTC)
    match submission.cron, submission.every_seconds:
        case str(cron), None:
            return _cron(
                cron, UTC_NAME if submission.timezone is None else submission.timezone, starts_at, now
            )
        case None, int(seconds):
            if submission.timezone is not None:
                raise _invalid("/timezone", "It goes with cron; every_seconds has no time zone")
            every = Every(seconds, now)
            return Every(seconds, starts_at or first_time(every, after=now) or now)
        case _:
            raise _invalid("/cron", "Send either cron or every_seconds")


def _cron(expression: str, timezone: str, starts_at: datetime | None, now: datetime) -> Cron:
    if timezone not in timezones():
        raise _invalid("/timezone", "It is not the name of a time zone (IANA), such as Europe/Berlin")
    cron = Cron(expression, timezone, starts_at)
    try:
        check_timetable(cron, now=now)
    except TimetableInvalid as error:
        raise _invalid("/cron", str(error)) from None
    return cron


def _template(submission: ScheduleSubmission) -> tuple[str, JobSubmission | BatchSubmission]:
    if (submission.job is None) is (submission.batch is None):
        raise _invalid("/job", "Send either job or batch")
    part = "job" if submission.job else "batch"
    template = submission.job or submission.batch
    assert template is not None
    sent = [name for name in _ABSOLUTE_TIMES if getattr(template, name) is not None]
    if sent:
        raise _invalid(f"/{part}/{sent[0]}", "The schedule says when its jobs run")
    if getattr(template, "reuse_within_seconds", None) is not None:
        raise _invalid(f"/{part}/reuse_within_seconds", "Each run of a schedule asks anew")
    return part, template


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
