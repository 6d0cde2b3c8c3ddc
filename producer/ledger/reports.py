"""Parses what arrives in the recorder's queues: reports, jobs, or both. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import orjson

from producer.records import UnreadableJob
from shared.broker.bundle import MAX_REPORTS, bodies_of, count_bodies
from shared.broker.topology import DEAD, DELAY, JOBS, LARGE_RESULTS, RESULTS, RETURN, may_carry
from shared.errors import MessageUndecodable
from shared.kinds.registry import BROKERED_KINDS
from shared.messages import JOBS_TYPE, MAX_RUN, RAW_TYPE, REASON_HEADER, Job, JobMessage, Report
from shared.outcomes import (
    DEAD_LETTERED,
    DELIVERY_LIMIT,
    EXPIRED,
    MESSAGE_REJECTED,
    NO_QUEUE,
    QUEUE_FULL,
    OutcomeName,
)
from shared.settings import MAX_BUNDLE_JOBS
from shared.states import JobState

_LIMIT_REACHED = (
    "The broker gave it up, because it came back too often without an ack: workers died with it, or somebody "
    "looked at it in the console."
)
_MESSAGE_EXPIRED = (
    "Its message expired in its queue before a worker took it: whoever published it, or a policy of the "
    "broker, had given it an expiration."
)
_REJECTED = "Somebody took its message out of its queue and rejected it."
_TOO_MANY = "A policy of the broker limits the length of its queue, and it was one too many."
# What the broker says of a dead letter: https://www.rabbitmq.com/docs/dlx#effects
_DEATHS: Mapping[str, tuple[str, str]] = {
    "delivery_limit": (DELIVERY_LIMIT, _LIMIT_REACHED),
    "expired": (EXPIRED, _MESSAGE_EXPIRED),
    "rejected": (MESSAGE_REJECTED, _REJECTED),
    "maxlen": (QUEUE_FULL, _TOO_MANY),
}
_NO_DEATH = (DEAD_LETTERED, "Its message was dead-lettered, and does not say why.")
_UNREADABLE = "The worker that took its message could not read it."
_EXPLANATION_CHARACTERS = 1_000
# A job of ours has far less; nobody's megabytes are parsed for nothing.
_MOST_LENIENT_BYTES = 2_097_152
_NO_QUEUE = (
    "When its delay was over there was no queue for its kind: no worker of this version takes such jobs."
)

REPORTS_ONLY = frozenset({RESULTS, LARGE_RESULTS})
"""The exchanges whose messages are reports and in no other queue of ours."""


class ReportDelivery(Protocol):
    """The parts of a delivery that are read."""

    @property
    def body(self) -> bytes:
        """The message's body."""

    @property
    def exchange(self) -> str:
        """The exchange it was last published to."""

    @property
    def routing_key(self) -> str:
        """The routing key that it was published with."""

    @property
    def type(self) -> str:
        """Its AMQP type: `job`, `jobs`, `report`, `reports` or `raw`."""

    @property
    def user_id(self) -> str | None:
        """The user who published it, as far as the broker says."""

    @property
    def headers(self) -> Mapping[str, object]:
        """Its headers."""


@dataclass(frozen=True, slots=True)
class ParsedReport:
    """What became of an attempt, and the job as it was before that, for a store that does not know it.

    A job without a report is on its way to a worker: somebody else than the relay has published it. A message
    that a worker could not read has neither, but may say whose it was. The `token` is what shows that all of
    it is true.
    """

    report: Report | None = None
    job: Job | None = None
    unreadable: UnreadableJob | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedDelivery:
    """The reports of one delivery in their order, and the `error` of the first body that nobody can read."""

    reports: Sequence[ParsedReport] = ()
    error: MessageUndecodable | None = None


def parse_delivery(delivery: ReportDelivery, *, now: datetime) -> ParsedDelivery:
    """Return the reports of a delivery. One that a worker could not read says at most whose it is.

    Results are reports, and bring their job along. Delayed and parked copies of jobs carry theirs. Nobody
    reported on a job that the broker itself parked: its workers died with it, or it came back from a delay to
    no queue, because this version does not know its kind. Its report is written here, with what the broker
    says, and tells of no attempt.
    """
    reports: list[ParsedReport] = []
    first_error: MessageUndecodable | None = None
    try:
        bodies = _bodies(delivery)
    except MessageUndecodable as error:
        return ParsedDelivery((), error)
    for body in bodies:
        try:
            reports.append(_parse(delivery, body, now))
        except MessageUndecodable as error:
            first_error = first_error or error
        except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
            # Nobody's message may keep those behind it from being recorded.
            first_error = first_error or MessageUndecodable(f"body: {type(error).__name__}: {error}"[:500])
    return ParsedDelivery(reports, first_error)


def _bodies(delivery: ReportDelivery) -> Sequence[bytes]:
    # The type of reports says it too, but is decoded late, at a cost. A third party's job may have any type.
    if delivery.exchange in REPORTS_ONLY:
        most = MAX_REPORTS
    elif delivery.exchange == DEAD and delivery.type == JOBS_TYPE:
        most = MAX_BUNDLE_JOBS
    else:
        return (delivery.body,)
    if (lines := count_bodies(delivery.body)) > most:
        raise MessageUndecodable(f"body: {lines} lines, and a message of this type has at most {most}")
    return bodies_of(delivery.body)


def _parse(delivery: ReportDelivery, body: bytes, now: datetime) -> ParsedReport:
    """Return the report of one body.

    Raises:
        MessageUndecodable: it is not a message of ours.
    """
    if delivery.exchange in REPORTS_ONLY:
        report = Report.decode(body)
        return _report_of(report, report.job)
    if delivery.exchange == JOBS:
        # As its first worker notes it: nobody else can say who published it.
        published = JobMessage.decode(body).model_copy(update={"publisher": delivery.user_id})
        # The worker that takes it parks it, as one that it cannot read.
        is_taken = may_carry(delivery.routing_key, published.kind)
        return ParsedReport(job=published) if is_taken else ParsedReport()
    if delivery.type == RAW_TYPE:
        return _unreadable(delivery)
    job = JobMessage.decode(body)
    # What the broker dead-letters may still carry the report of an earlier, delayed attempt.
    if delivery.exchange == DELAY or (delivery.exchange == DEAD and job.is_parked_copy):
        return _report_of(job.report, job)
    if delivery.exchange == RETURN:
        return _returned(job, now)
    reason, explanation = _why_dead(delivery.headers)
    return _report_of(_broker_report(job, now, reason=reason, explanation=explanation), job)


def _returned(job: JobMessage, now: datetime) -> ParsedReport:
    if job.kind in BROKERED_KINDS:
        # Somebody has deleted its queue. It is declared again, and the lost-job reconciler sends the job.
        return ParsedReport(job=job)
    return _report_of(_broker_report(job, now, reason=NO_QUEUE, explanation=_NO_QUEUE), job)


def _unreadable(delivery: ReportDelivery) -> ParsedReport:
    """Return whose message it is, if it says so as a message of another version of ours would.

    Its property `correlation_id` says it too, but so may anybody's.
    """
    job_id, run, token = _said(delivery.body)
    if job_id is None:
        return ParsedReport()
    reason = delivery.headers.get(REASON_HEADER)
    explanation = reason[:_EXPLANATION_CHARACTERS] if isinstance(reason, str) else _UNREADABLE
    return ParsedReport(unreadable=UnreadableJob(job_id, run, explanation), token=token)


def _said(body: bytes) -> tuple[UUID | None, int, str | None]:
    """Return job, run and token of a body of which nothing else need be understood."""
    try:
        said = orjson.loads(body) if len(body) <= _MOST_LENIENT_BYTES else None
        match said:
            case {"id": str(text), "run": int(run), "token": str(token)} if 1 <= run <= MAX_RUN:
                return UUID(text), run, token
    except ValueError:
        pass
    return None, 0, None


def _report_of(report: Report | None, job: Job | None) -> ParsedReport:
    if report is None or job is None:
        return ParsedReport(report, job)
    if report.job_id != job.id:
        # No worker of ours sends that, but anyone may publish.
        return ParsedReport(report)
    if report.run == job.run and report.attempt == job.attempt:
        return ParsedReport(report, job, token=job.token)
    # A delayed copy asks for the next attempt; a deferral before the first reports on none.
    attempt = max(report.attempt, 1)
    before = job.model_copy(update={"run": report.run, "attempt": attempt})
    return ParsedReport(report, before, token=job.token)


def _why_dead(headers: Mapping[str, object]) -> tuple[str, str]:
    """Return reason and explanation of the last death of a message."""
    match headers.get("x-death"):
        case [{"reason": str(said)}, *_]:
            return _DEATHS.get(said, _NO_DEATH)
    return _NO_DEATH


def _broker_report(job: JobMessage, now: datetime, *, reason: str, explanation: str) -> Report:
    return Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        attempt=job.attempt,
        state=JobState.PARKED,
        ended_at=now,
        outcome=OutcomeName.FAILED_PERMANENT,
        reason=reason,
        explanation=explanation,
        worker="broker",
    )
