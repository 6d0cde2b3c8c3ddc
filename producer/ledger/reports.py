"""What a delivery of the recorder's queue tells: reports, jobs, or both. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from producer.records import UnreadableJob
from shared.broker.bundle import bodies_of
from shared.broker.topology import DEAD, DELAY, JOBS, LARGE_RESULTS, RESULTS, RETURN
from shared.errors import MessageUndecodable
from shared.kinds.registry import KINDS
from shared.messages import JOBS_TYPE, RAW_TYPE, REASON_HEADER, Job, JobMessage, Report
from shared.outcomes import WORKER_CRASHED, OutcomeName
from shared.states import JobState

_WORKER_CRASHED = "Every worker that took this job died or let it go; the broker gave up delivering it."
_UNREADABLE = "The worker that took its message could not read it."
_EXPLANATION_CHARACTERS = 1_000
_NO_QUEUE = "When its delay was over there was no queue for its kind, which this version does not know."

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
        """Its AMQP type: `job`, `jobs`, `report`, `reports` or `raw`."""

    @property
    def correlation_id(self) -> str:
        """Whose message it says it is."""

    @property
    def headers(self) -> Mapping[str, object]:
        """Its headers."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an attempt, and the job as it was before that, for a store that does not know it.

    A job without a report is on its way to a worker: somebody else than the relay has published it. Of a
    message that a worker could not read there is neither, but it may say whose it was.
    """

    report: Report | None = None
    job: Job | None = None
    unreadable: UnreadableJob | None = None


@dataclass(frozen=True, slots=True)
class Tidings:
    """All that one delivery tells, in its order; with the `error` of the first body that nobody can read."""

    told: Sequence[Told] = ()
    error: MessageUndecodable | None = None


def told_by(delivery: Letter, *, now: datetime) -> Tidings:
    """Return what a delivery tells; of a message that a worker could not read, at most whose it says it is.

    Results are reports, and bring their job along. Delayed and parked copies of jobs carry theirs. Of a
    job that the broker itself parked nobody reported: its workers died with it, or it came back from a
    delay to no queue, of a kind that this version does not know. Then the report is written here.
    """
    told: list[Told] = []
    first_error: MessageUndecodable | None = None
    for body in _bodies(delivery):
        try:
            told.append(_told_by_one(delivery, body, now))
        except MessageUndecodable as error:
            first_error = first_error or error
    return Tidings(told, first_error)


def _bodies(delivery: Letter) -> Sequence[bytes]:
    # The type of reports says it too, but is decoded late, at a cost. A third party's job may have any type.
    if delivery.exchange in REPORTS_ONLY or (delivery.exchange == DEAD and delivery.type == JOBS_TYPE):
        return bodies_of(delivery.body)
    return (delivery.body,)


def _told_by_one(delivery: Letter, body: bytes, now: datetime) -> Told:
    """Return what one of its bodies tells.

    Raises:
        MessageUndecodable: it is not a message of ours.
    """
    if delivery.exchange in REPORTS_ONLY:
        report = Report.decode(body)
        return _told(report, report.job)
    if delivery.exchange == JOBS:
        return Told(job=JobMessage.decode(body))
    if delivery.type == RAW_TYPE:
        return Told(unreadable=_unreadable(delivery))
    job = JobMessage.decode(body)
    if delivery.exchange == DELAY or (delivery.exchange == DEAD and _was_parked_by_a_worker(job)):
        return _told(job.report, job)
    if delivery.exchange == RETURN:
        return _returned(job, now)
    return _told(_broker_report(job, now, reason=WORKER_CRASHED, explanation=_WORKER_CRASHED), job)


def _returned(job: JobMessage, now: datetime) -> Told:
    if job.kind in KINDS:
        # Somebody has deleted its queue, which is declared again; the lost-job reconciler sends it again.
        return Told(job=job)
    return _told(_broker_report(job, now, reason="no_queue", explanation=_NO_QUEUE), job)


def _unreadable(delivery: Letter) -> UnreadableJob | None:
    try:
        job_id = UUID(delivery.correlation_id)
    except ValueError:
        return None
    said = delivery.headers.get(REASON_HEADER)
    return UnreadableJob(job_id, said[:_EXPLANATION_CHARACTERS] if isinstance(said, str) else _UNREADABLE)


def _told(report: Report | None, job: Job | None) -> Told:
    if report is None or job is None:
        return Told(report, job)
    if report.job_id != job.id:
        # Nobody of ours sends that, but anyone may publish.
        return Told(report)
    # A delayed copy asks for the attempt that follows; a deferral before the first tells of none.
    attempt = max(report.attempt, 1)
    return Told(report, job.model_copy(update={"run": report.run, "attempt": attempt}))


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
