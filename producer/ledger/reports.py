"""Which report a delivery of the recorder's queue carries. Pure."""

from datetime import datetime
from typing import Protocol

from shared.broker.topology import DEAD, DELAY, LARGE_RESULTS, RESULTS, RETURN
from shared.messages import RAW_TYPE, JobMessage, Report
from shared.outcomes import OutcomeName
from shared.states import JobState

_WORKER_CRASHED = "Every worker that took this job died or let it go; the broker gave up delivering it."
_NO_QUEUE = "When its delay was over there was no queue for its kind and lane."


REPORTS_ONLY = frozenset({RESULTS, LARGE_RESULTS})
"""The exchanges whose messages are reports and in no other queue of ours."""


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

    Results are reports. Delayed and parked copies of jobs carry theirs. Of a job that the broker itself
    parked nobody reported: its workers died with it, or it came back from a delay to a queue that
    was gone. Then the report is written here.

    Raises:
        MessageUndecodable: the body is not a message of ours.
    """
    if delivery.exchange in REPORTS_ONLY:
        return Report.decode(delivery.body)
    if delivery.type == RAW_TYPE:
        return None
    job = JobMessage.decode(delivery.body)
    if delivery.exchange == DELAY or (delivery.exchange == DEAD and _was_parked_by_a_worker(job)):
        return job.report
    if delivery.exchange == RETURN:
        return _broker_report(job, now, reason="no_queue", explanation=_NO_QUEUE)
    return _broker_report(job, now, reason="worker_crashed", explanation=_WORKER_CRASHED)


def _was_parked_by_a_worker(job: JobMessage) -> bool:
    # What the broker dead-letters may still carry the report of an earlier, delayed attempt.
    report = job.report
    return report is not None and report.state is JobState.PARKED and report.attempt == job.attempt


def _broker_report(job: JobMessage, now: datetime, *, reason: str, explanation: str) -> Report:
    return Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        attempt=job.attempt,
        state=JobState.PARKED,
        started_at=now,
        ended_at=now,
        outcome=OutcomeName.FAILED_PERMANENT,
        reason=reason,
        explanation=explanation,
        worker="broker",
    )
