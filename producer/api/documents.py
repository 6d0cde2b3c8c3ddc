"""From the store's records to the API's documents."""

from producer.api.explanation import ACCEPTED, explain, explain_schedule
from producer.api.models import Attempt, Batch, Job, JobSummary, RejectedLine, Rejections
from producer.api.schedule_models import LastRun, Schedule
from producer.pausing import Circumstances
from producer.progress import progress_of
from producer.records import AttemptRecord, BatchRecord, JobRecord, NewJob, Rejected, ScheduleRecord
from producer.timetable import Cron, Every, next_times
from shared.clock import utc_now
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
        explanation=explain_schedule(job.due_at) if job.due_at else ACCEPTED,
        run=1,
        attempt=0,
        result=None,
        host=job.host,
        batch_id=job.batch_id,
        schedule_id=job.schedule_id,
        labels=job.labels,
        due_at=job.due_at,
        deadline_at=job.deadline_at,
        callback_url=job.callback_url,
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
        callback_url=record.callback_url,
    )
    return accepted_document(job)


def job_document(record: JobRecord, known: Circumstances | None = None) -> Job:
    """Return the document of a stored job, with its attempts."""
    attempts = [_attempt_document(attempt) for attempt in record.attempts]
    return Job(**dict(job_summary(record, known)), attempts=attempts)


def job_summary(record: JobRecord, known: Circumstances | None = None) -> JobSummary:
    """Return the document of a stored job as lists and exports show it: without attempts.

    Args:
        record: The job.
        known: What is known around it; without that its explanation says nothing of queues and pauses.
    """
    # The store's values are ours and typed: checking each again would cost more than reading it.
    return JobSummary.model_construct(
        id=record.id,
        kind=record.kind,
        args=record.args,
        lane=record.lane,
        state=record.state,
        reason=record.reason,
        explanation=explain(record, known or Circumstances(utc_now(), is_known=False)),
        run=record.run,
        attempt=record.attempt,
        result=record.result,
        host=record.host,
        batch_id=record.batch_id,
        schedule_id=record.schedule_id,
        labels=record.labels,
        due_at=record.due_at,
        deadline_at=record.deadline_at,
        callback_url=record.callback_url,
        created_at=record.created_at,
        finished_at=record.finished_at,
    )


def batch_document(record: BatchRecord) -> Batch:
    """Return the document of a stored batch as it is now; every state is counted, most of them with 0."""
    progress = progress_of(record, now=utc_now())
    return Batch(
        id=record.id,
        kind=record.kind,
        total=record.total,
        counts={state: record.counts.get(state, 0) for state in JobState},
        labels=record.labels,
        schedule_id=record.schedule_id,
        created_at=record.created_at,
        finished_at=record.finished_at,
        rate_per_second=progress.rate_per_second,
        estimated_end_at=progress.estimated_end_at,
        rejected=Rejections(
            count=record.rejected, errors=[rejected_document(each) for each in record.first_rejected]
        ),
        cancelled_at=record.cancelled_at,
        callback_url=record.callback_url,
    )


def rejected_document(rejected: Rejected) -> RejectedLine:
    """Return the document of a line or item that became no job."""
    return RejectedLine(number=rejected.number, loc=rejected.loc, msg=rejected.msg)


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
