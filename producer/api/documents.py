"""From the store's records to the API's documents, with one honest sentence on why a job is not finished."""

from datetime import datetime

from producer.api.models import Attempt, Batch, Job, JobSummary
from producer.api.schedule_models import LastRun, Schedule
from producer.records import AttemptRecord, BatchRecord, JobRecord, NewJob, ScheduleRecord
from producer.timetable import Cron, Every, next_times
from shared.clock import utc_now
from shared.outcomes import DeferralReason
from shared.states import JobState

NEXT_RUNS = 5


def accepted_document(job: NewJob) -> Job:
    """Return the document of a job that has just been stored."""
    return Job(
        id=job.id,
        kind=job.kind,
        args=job.args,
        lane=job.lane,
        state=job.state,
        reason=None,
        explanation=_explain_schedule(job.due_at) if job.due_at else _WAITING[JobState.ACCEPTED],
        run=1,
        attempt=0,
        result=None,
        host=job.host,
        batch_id=job.batch_id,
        schedule_id=job.schedule_id,
        labels=job.labels,
        due_at=job.due_at,
        deadline_at=job.deadline_at,
        created_at=job.created_at,
        finished_at=None,
        attempts=[],
    )


def first_document(record: JobRecord) -> Job:
    """Return the document that the submission of a stored job was answered with."""
    job = NewJob(
        id=record.id,
        kind=record.kind,
        lane=record.lane,
        args=record.args,
        retry=record.retry,
        host=record.host,
        created_at=record.created_at,
        labels=record.labels,
        batch_id=record.batch_id,
    )
    return accepted_document(job)


def job_document(record: JobRecord) -> Job:
    """Return the document of a stored job, with its attempts."""
    attempts = [_attempt_document(attempt) for attempt in record.attempts]
    return Job(**dict(job_summary(record)), attempts=attempts)


def job_summary(record: JobRecord) -> JobSummary:
    """Return the document of a stored job as lists and exports show it: without attempts."""
    # The store's values are ours and typed: checking each again would cost more than reading it.
    return JobSummary.model_construct(
        id=record.id,
        kind=record.kind,
        args=record.args,
        lane=record.lane,
        state=record.state,
        reason=record.reason,
        explanation=explain(record),
        run=record.run,
        attempt=record.attempt,
        result=record.result,
        host=record.host,
        batch_id=record.batch_id,
        schedule_id=record.schedule_id,
        labels=record.labels,
        due_at=record.due_at,
        deadline_at=record.deadline_at,
        created_at=record.created_at,
        finished_at=record.finished_at,
    )


def batch_document(record: BatchRecord) -> Batch:
    """Return the document of a stored batch; every state is counted, most of them with 0."""
    return Batch(
        id=record.id,
        kind=record.kind,
        total=record.total,
        counts={state: record.counts.get(state, 0) for state in JobState},
        labels=record.labels,
        schedule_id=record.schedule_id,
        created_at=record.created_at,
        finished_at=record.finished_at,
        cancelled_at=record.cancelled_at,
    )


def schedule_document(record: ScheduleRecord) -> Schedule:
    """Return the document of a stored schedule, with its next times worked out."""
    timetable = record.timetable
    cron = timetable if isinstance(timetable, Cron) else None
    return Schedule(
        id=record.id,
        name=record.name,
        cron=cron.expression if cron else None,
        timezone=cron.timezone if cron else None,
        every_seconds=timetable.seconds if isinstance(timetable, Every) else None,
        starts_at=timetable.starts_at,
        job=record.template.get("job"),
        batch=record.template.get("batch"),
        overlap=record.overlap,
        catch_up=record.catch_up,
        labels=record.labels,
        paused=record.paused_at is not None,
        next_runs=next_times(timetable, not_before=record.next_run_at, limit=NEXT_RUNS)
        if record.next_run_at
        else [],
        last_run=LastRun(run_at=record.last_run_at, job_id=record.last_job_id, batch_id=record.last_batch_id)
        if record.last_run_at
        else None,
        runs=record.runs,
        skipped=record.skipped,
        last_error=record.last_error,
        created_at=record.created_at,
    )


def explain(record: JobRecord) -> str | None:
    """Return one sentence: why the job is not finished, or why it is parked; None when it succeeded."""
    match record.state:
        case JobState.SCHEDULED if record.due_at:
            return _explain_schedule(record.due_at)
        case JobState.RUNNING if record.cancel_requested_at:
            return f"Attempt {record.attempt} is running; its worker has been told to cancel it."
        case JobState.RUNNING:
            return f"Attempt {record.attempt} is running."
        case JobState.DELAYED if record.due_at:
            return _explain_delay(record, record.due_at)
        case JobState.PARKED | JobState.CANCELLED:
            return record.explanation or record.reason
        case state:
            return _WAITING.get(state)


def _explain_schedule(due_at: datetime) -> str:
    return f"Waiting until {due_at.isoformat(timespec='seconds')}, its time to run."


def _explain_delay(record: JobRecord, due_at: datetime) -> str:
    due = due_at.isoformat(timespec="seconds")
    if record.reason in _DEFERRALS:
        # No attempt was made, and its own words name the host.
        return f"{record.explanation or record.reason} Back in its queue from {due} on."
    attempt, reason = record.attempt + 1, record.reason or "a failure"
    if due_at <= utc_now():
        return f"Attempt {attempt} after {reason} has been due since {due}; waiting for a worker."
    return f"Waiting until {due} for attempt {attempt} after {reason}."


_DEFERRALS = frozenset(DeferralReason)

_WAITING = {
    JobState.SCHEDULED: "Waiting for its time.",
    JobState.ACCEPTED: "Stored; waiting to be published to the broker.",
    JobState.QUEUED: "In its queue; waiting for a worker.",
    JobState.DELAYED: "Waiting for its next attempt.",
}


def _attempt_document(record: AttemptRecord) -> Attempt:
    return Attempt(
        run=record.run,
        number=record.number,
        started_at=record.started_at,
        ended_at=record.ended_at,
        outcome=record.outcome,
        reason=record.reason,
        wait_seconds=record.wait_seconds,
    )
