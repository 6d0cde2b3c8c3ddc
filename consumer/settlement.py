"""What becomes of a job after an attempt: decided by a pure function, as one message."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from consumer.executor import Attempt
from consumer.success import success_body
from shared.broker.outgoing import Outgoing
from shared.broker.topology import DEAD, DELAY, LARGE_RESULTS, RESULTS, delay_key, work_key
from shared.errors import BrokerError
from shared.messages import JOB_TYPE, REPORT_TYPE, JobMessage, Report
from shared.outcomes import Cancelled, DeferralReason, Deferred, Failed, Succeeded, outcome_name
from shared.retry import can_retry, deferral_step_seconds, delay_step_seconds, wait_seconds
from shared.states import JobState

LARGE_REPORT_BYTES = 262_144
"""A larger report takes another way, on which a recorder has few in hand at once."""

_REPUBLISH_SECONDS = 1.0
_CANCELLED = "Cancelled by its worker, before or while it ran."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is done."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The next attempt comes after a step of the delay ladder."""

    step_seconds: int


@dataclass(frozen=True, slots=True)
class Defer:
    """The same attempt comes after a step of the delay ladder."""

    step_seconds: int


@dataclass(frozen=True, slots=True)
class Park:
    """No attempt follows; a person decides."""


@dataclass(frozen=True, slots=True)
class End:
    """The job was cancelled."""


Decision = Finish | Delay | Defer | Park | End


def decide(job: JobMessage, attempt: Attempt, *, random: Callable[[], float]) -> Decision:
    """Return what follows an attempt: the end, another attempt, the same one later, or the parking queue.

    Args:
        random: Gives a float in [0, 1), for the jitter.
    """
    match attempt.outcome:
        case Succeeded():
            return Finish()
        case Failed(transient=True, retry_after_seconds=asked) if can_retry(job.retry, job.attempt):
            wait = wait_seconds(job.retry, job.attempt, retry_after_seconds=asked, random=random)
            return Delay(delay_step_seconds(wait))
        case Failed():
            return Park()
        case Cancelled():
            return End()
        case Deferred(seconds):
            return Defer(deferral_step_seconds(seconds))


def settlement_message(
    job: JobMessage, attempt: Attempt, decision: Decision, *, worker: str, message: bytes | None = None
) -> Outgoing:
    """Return the one message that carries the decision and the attempt's report.

    Args:
        message: The body that brought the job, as it came.
    """
    if message is not None and isinstance(decision, Finish):
        body = success_body(job, attempt, worker=worker, message=message)
        if body is not None:
            return _lone_message(job, JobState.SUCCEEDED, body)
    report = _report(job, attempt, decision, worker)
    match decision:
        case Finish() | End():
            return _lone_message(job, report.state, report.encode())
        case Delay(step_seconds):
            return _delayed_copy(
                job,
                report,
                step_seconds,
                {"attempt": job.attempt + 1, "deferrals": 0, "returns": 0, "turn_at": None},
            )
        case Defer(step_seconds):
            return _delayed_copy(
                job, report, step_seconds, {"deferrals": job.deferrals + 1, "turn_at": _turn_at(attempt)}
            )
        case Park():
            copy = job.model_copy(update={"report": report})
            return Outgoing(DEAD, work_key(job.kind, job.lane), copy.encode(), JOB_TYPE, str(job.id))


def report_message(job: JobMessage, report: Report) -> Outgoing:
    """Return a report that travels alone: with its job, which a store that does not know it takes over."""
    return _lone_message(job, report.state, report.model_copy(update={"job": job}).encode())


def _lone_message(job: JobMessage, state: JobState, body: bytes) -> Outgoing:
    key = f"{work_key(job.kind, job.lane)}.{state}"
    exchange = RESULTS if len(body) <= LARGE_REPORT_BYTES else LARGE_RESULTS
    return Outgoing(exchange, key, body, REPORT_TYPE, str(job.id))


class Publishing(Protocol):
    """Publishes one message, alone or with others, and fails as `Publisher.publish`."""

    def publish(self, message: Outgoing, /) -> Awaitable[None]:
        """Return what is done when the broker has the message on disk."""


async def publish_until_confirmed(message: Outgoing, publisher: Publishing) -> None:
    """Publish one message, again and again until the broker confirms it.

    Its delivery stays unacked meanwhile, so giving up at any point repeats the job and loses nothing.
    """
    while True:
        try:
            await publisher.publish(message)
        except BrokerError as error:
            facts = {"job_id": message.job_id, "exchange": message.exchange, "error": str(error)}
            logger.warning("publish_failed", extra=facts)
            await asyncio.sleep(_REPUBLISH_SECONDS)
        else:
            return


def _delayed_copy(
    job: JobMessage, report: Report, step_seconds: int, following: Mapping[str, Any]
) -> Outgoing:
    copy = job.model_copy(update={**following, "report": report})
    return Outgoing(DELAY, delay_key(job.kind, job.lane, step_seconds), copy.encode(), JOB_TYPE, str(job.id))


def _turn_at(attempt: Attempt) -> datetime | None:
    # Where a job is set apart from others its host has promised nothing.
    if not isinstance(attempt.outcome, Deferred) or attempt.outcome.reason is DeferralReason.RETURNED:
        return None
    return attempt.ended_at + timedelta(seconds=attempt.outcome.seconds)


def _report(job: JobMessage, attempt: Attempt, decision: Decision, worker: str) -> Report:
    common = Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        # A deferral is no attempt, so the last that was made is the one before.
        attempt=job.attempt - 1 if isinstance(decision, Defer) else job.attempt,
        state=_state(decision),
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=outcome_name(attempt.outcome),
        result=attempt.outcome.result,
        body=attempt.outcome.body if isinstance(attempt.outcome, Succeeded) else None,
        page=attempt.outcome.page if isinstance(attempt.outcome, Succeeded) else None,
        worker=worker,
        job=job if isinstance(decision, Finish | End) else None,
    )
    if isinstance(attempt.outcome, Cancelled):
        return common.model_copy(update={"reason": "cancelled", "explanation": _CANCELLED})
    if not isinstance(attempt.outcome, Failed | Deferred):
        return common
    wait = decision.step_seconds if isinstance(decision, Delay | Defer) else None
    return common.model_copy(
        update={
            "reason": attempt.outcome.reason,
            "explanation": attempt.outcome.explanation,
            "wait_seconds": wait,
            "due_at": attempt.ended_at + timedelta(seconds=wait) if wait else None,
        }
    )


def _state(decision: Decision) -> JobState:
    match decision:
        case Finish():
            return JobState.SUCCEEDED
        case Delay() | Defer():
            return JobState.DELAYED
        case Park():
            return JobState.PARKED
        case End():
            return JobState.CANCELLED
