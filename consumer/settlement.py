"""What becomes of a job after an attempt: decided by a pure function, as one message."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from consumer.executor import Attempt
from shared.broker.publisher import Outgoing, Publisher
from shared.broker.topology import DEAD, DELAY, RESULTS, delay_key, work_key
from shared.errors import BrokerError
from shared.messages import JOB_TYPE, REPORT_TYPE, JobMessage, Report
from shared.outcomes import Cancelled, Failed, Succeeded, outcome_name
from shared.retry import can_retry, delay_step_seconds, wait_seconds
from shared.states import JobState

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
class Park:
    """No attempt follows; a person decides."""


@dataclass(frozen=True, slots=True)
class End:
    """The job was cancelled."""


Decision = Finish | Delay | Park | End


def decide(job: JobMessage, attempt: Attempt, *, random: Callable[[], float]) -> Decision:
    """Return what follows an attempt: the end, another attempt, or the parking queue.

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


def settlement_message(job: JobMessage, attempt: Attempt, decision: Decision, *, worker: str) -> Outgoing:
    """Return the one message that carries the decision and the attempt's report."""
    report = _report(job, attempt, decision, worker)
    match decision:
        case Finish() | End():
            return report_message(job, report)
        case Delay(step_seconds):
            copy = job.model_copy(update={"attempt": job.attempt + 1, "report": report})
            key = delay_key(job.kind, job.lane, step_seconds)
            return Outgoing(DELAY, key, copy.encode(), JOB_TYPE, str(job.id))
        case Park():
            copy = job.model_copy(update={"report": report})
            return Outgoing(DEAD, work_key(job.kind, job.lane), copy.encode(), JOB_TYPE, str(job.id))


def report_message(job: JobMessage, report: Report) -> Outgoing:
    """Return a report that travels alone: with its job, which a store that does not know it takes over."""
    alone = report.model_copy(update={"job": job.model_copy(update={"report": None})})
    key = f"{work_key(job.kind, job.lane)}.{report.state}"
    return Outgoing(RESULTS, key, alone.encode(), REPORT_TYPE, str(job.id))


async def publish_until_confirmed(message: Outgoing, publisher: Publisher) -> None:
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


def _report(job: JobMessage, attempt: Attempt, decision: Decision, worker: str) -> Report:
    common = Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        attempt=job.attempt,
        state=_state(decision),
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=outcome_name(attempt.outcome),
        result=attempt.outcome.result,
        worker=worker,
    )
    if isinstance(attempt.outcome, Cancelled):
        return common.model_copy(update={"reason": "cancelled", "explanation": _CANCELLED})
    if not isinstance(attempt.outcome, Failed):
        return common
    wait = decision.step_seconds if isinstance(decision, Delay) else None
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
        case Delay():
            return JobState.DELAYED
        case Park():
            return JobState.PARKED
        case End():
            return JobState.CANCELLED
