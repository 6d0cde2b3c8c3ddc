"""From the documents of schedules to schedules that can be stored, and from these to their runs. Pure."""

from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

from producer.batch_validation import batch_args, located
from producer.records import NewSchedule, ScheduledRun, ScheduleRecord
from producer.submission import MAX_AHEAD, JobTemplate
from producer.submission_models import BatchSubmission, JobSubmission, ScheduleSubmission
from producer.timetable import (
    Cron,
    Every,
    Timetable,
    TimetableInvalid,
    check_timetable,
    first_time,
    timezones,
)
from shared.errors import FieldError, JobInvalid
from shared.identity import new_id

UTC_NAME = "UTC"
_ABSOLUTE_TIMES = ("run_at", "delay_seconds", "deadline_at")


def new_schedule(submission: ScheduleSubmission, *, schedule_id: UUID, now: datetime) -> NewSchedule:
    """Return the schedule that a submission asks for, ready to be stored; its template was tried out.

    Raises:
        JobInvalid: the times or the template break a rule; every field is named.
    """
    timetable = _timetable(submission, now)
    part, template = _template(submission)
    with located(f"/{part}"):
        _make_run(_strictly(template), schedule_id=schedule_id, run_at=now, now=now)
    return NewSchedule(
        id=schedule_id,
        name=submission.name,
        timetable=timetable,
        template={part: template.model_dump(mode="json", exclude_unset=True)},
        overlap=submission.overlap,
        catch_up=submission.catch_up,
        labels=submission.labels,
        created_at=now,
        next_run_at=_first_run_at(timetable, now),
    )


def scheduled_run(schedule: ScheduleRecord, *, run_at: datetime, now: datetime) -> ScheduledRun:
    """Return the run of a schedule for one of its times, with new ids; it is created `now`.

    Raises:
        JobInvalid: its template is no longer valid in this version.
    """
    if "job" in schedule.template:
        part, template = "job", JobSubmission.model_validate(schedule.template["job"])
        return _run_of(part, template, schedule, run_at, now)
    return _run_of("batch", BatchSubmission.model_validate(schedule.template["batch"]), schedule, run_at, now)


def _run_of(
    part: str,
    template: JobSubmission | BatchSubmission,
    schedule: ScheduleRecord,
    run_at: datetime,
    now: datetime,
) -> ScheduledRun:
    with located(f"/{part}"):
        return _make_run(template, schedule_id=schedule.id, run_at=run_at, now=now)


def _make_run(
    submission: JobSubmission | BatchSubmission, *, schedule_id: UUID, run_at: datetime, now: datetime
) -> ScheduledRun:
    template = JobTemplate.of(submission, now=now, schedule_id=schedule_id)
    match submission:
        case JobSubmission(args=args):
            return ScheduledRun(run_at, [template.job(template.validate(args), job_id=new_id())])
        case BatchSubmission():
            batch = template.batch(batch_id=new_id())
            valid, rejected = batch_args(submission, template)
            jobs = [template.job(each, job_id=new_id(), batch_id=batch.id) for each in valid]
            return ScheduledRun(run_at, jobs, batch, rejected)
        case _:
            assert_never(submission)


def _strictly(template: JobSubmission | BatchSubmission) -> JobSubmission | BatchSubmission:
    # Nobody reads the rejected items of a run that is months off: whoever writes the template hears of each.
    # Once it is stored, `strict` says what becomes of a run when a later version rejects some.
    return template.model_copy(update={"strict": True}) if isinstance(template, BatchSubmission) else template


def _timetable(submission: ScheduleSubmission, now: datetime) -> Timetable:
    starts_at = submission.starts_at
    if starts_at is not None:
        if abs(starts_at - now) > MAX_AHEAD:
            raise _invalid("/starts_at", "It is more than a year away")
        starts_at = starts_at.astimezone(UTC)
    match submission.cron, submission.every_seconds:
        case str(cron), None:
            return _cron(cron, submission.timezone or UTC_NAME, starts_at, now)
        case None, int(seconds):
            if submission.timezone is not None:
                raise _invalid("/timezone", "It goes with cron; every_seconds knows no time zone")
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
    match submission.job, submission.batch:
        case JobSubmission() as job, None:
            part, template = "job", job
        case None, BatchSubmission() as batch:
            return "batch", _without_times("batch", batch)
        case _:
            raise _invalid("/job", "Send either job or batch")
    return part, _without_times(part, template)


def _without_times(part: str, template: JobSubmission | BatchSubmission) -> JobSubmission | BatchSubmission:
    sent = [name for name in _ABSOLUTE_TIMES if getattr(template, name) is not None]
    if sent:
        raise _invalid(f"/{part}/{sent[0]}", "The schedule says when its jobs run")
    return template


def _first_run_at(timetable: Timetable, now: datetime) -> datetime | None:
    return first_time(timetable, after=now)


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
