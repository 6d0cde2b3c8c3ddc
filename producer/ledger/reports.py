"""Which report a delivery of the recorder's queue carries. Pure."""

from datetime import datetime
from typing import Protocol

from shared.broker.topology import DELAY, RESULTS
from shared.messages import RAW_TYPE, JobMessage, Report
from shared.outcomes import OutcomeName
from shared.states import JobState


class Letter(Protocol):
    """What is read of a delivery."""

    @property
    def body(self) -> bytes:
        """The message's body."""

    @property
    def exchange(self) -> str:
        """The exchange it was last published to."""

    @property
    def type(self) -> str:
        """Its AMQP type: `job`, `report` or `raw`."""


def report_of(delivery: Letter, *, now: datetime) -> Report | None:
    """Return the report in a delivery, or None when there is nothing to record.

    Results are reports. Delayed and parked copies of jobs carry theirs. A job that the broker itself
    dead-lettered carries none for its last attempt: its workers died with it, and the report
    is written here.

    Raises:
        MessageUndecodable: the body is not a message of ours.
    """
    if delivery.exchange == RESULTS:
        return Report.decode(delivery.body)
    if delivery.type == RAW_TYPE:
        return None
    job = JobMessage.decode(delivery.body)
    if delivery.exchange == DELAY or _was_parked_by_a_worker(job):
        return job.report
    return _crash_report(job, now)


def _was_parked_by_a_worker(job: JobMessage) -> bool:
    # What the broker dead-letters may still carry the report of an earlier, delayed attempt.
    report = job.report
    return report is not None and report.state is JobState.PARKED and report.attempt == job.attempt


def _crash_report(job: JobMessage, now: datetime) -> Report:
    return Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        attempt=job.attempt,
        state=JobState.PARKED,
        started_at=now,
        ended_at=now,
        outcome=OutcomeName.FAILED_PERMANENT,
        reason="worker_crashed",
        explanation="Every worker that took this job died or let it go; the broker gave up delivering it.",
        worker="broker",
    )
