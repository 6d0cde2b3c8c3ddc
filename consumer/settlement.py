"""What follows an attempt: decided by a pure function, and put into one message."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import orjson

from consumer.executor import Attempt
from shared.broker.outgoing import Outgoing
from shared.broker.topology import (
    DEAD,
    DELAY,
    LARGE_REPORT_BYTES,
    LARGE_RESULTS,
    RESULTS,
    delay_key,
    work_key,
)
from shared.clock import utc_now
from shared.errors import BrokerError, MessageTooLarge
from shared.messages import (
    JOB_TYPE,
    MAX_DEFERRALS,
    MAX_EXPLANATION_LENGTH,
    MAX_REASON_LENGTH,
    REPORT_TYPE,
    JobMessage,
    Report,
)
from shared.outcomes import (
    Cancelled,
    Deferred,
    Failed,
    OutcomeName,
    Succeeded,
    outcome_name,
)
from shared.retry import can_retry, deferral_step_seconds, delay_step_seconds, wait_seconds
from shared.states import JobState

_REPUBLISH_SECONDS = 1.0
_STATE, _OUTCOME = JobState.SUCCEEDED.value, OutcomeName.SUCCEEDED.value
# Its own time is over when a job comes back. Version 0.1.0 planned turns.
_NO_TIME: Mapping[str, None] = {"starts_at": None, "turn_at": None}
_CANCELLED = "Cancelled by its worker, before or while it ran."
# A third party may put much into a message that nobody reads; with a result it could be more than a
# broker takes.
_MOST_PASSED_ON_BYTES = 65_536

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
        body = encode_success(job, attempt, worker=worker, message=message)
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
                {"attempt": job.attempt + 1, "deferrals": 0, "returns": 0, **_NO_TIME},
            )
        case Defer(step_seconds):
            deferrals = min(job.deferrals + 1, MAX_DEFERRALS)
            return _delayed_copy(job, report, step_seconds, {"deferrals": deferrals, **_NO_TIME})
        case Park():
            # A redrive sends it with the secrets that there are then.
            copy = job.model_copy(update={"report": report, "sealed": None})
            return Outgoing(DEAD, work_key(job.kind, job.lane), copy.encode(), JOB_TYPE, str(job.id))


def redrive_request(job: JobMessage, *, worker: str) -> Outgoing:
    """Return what asks the recorder for the next run of a job whose parked message was put to work again."""
    report = Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        attempt=job.attempt,
        state=JobState.ACCEPTED,
        worker=worker,
    )
    return report_message(job, report)


def put_off_report(job: JobMessage, put_off: Deferred, *, worker: str) -> Outgoing:
    """Return what says that a job in hand does not begin yet: a deferral's report, and no copy with it."""
    attempt, decision = Attempt(None, utc_now(), put_off), Defer(deferral_step_seconds(put_off.seconds))
    return report_message(job, _report(job, attempt, decision, worker))


def report_message(job: JobMessage, report: Report) -> Outgoing:
    """Return a report that travels alone, with its job for a store that does not know it yet."""
    return _lone_message(job, report.state, report.model_copy(update={"job": job}).encode())


def _lone_message(job: JobMessage, state: JobState, body: bytes) -> Outgoing:
    key = f"{work_key(job.kind, job.lane)}.{state}"
    exchange = RESULTS if len(body) <= LARGE_REPORT_BYTES else LARGE_RESULTS
    return Outgoing(exchange, key, body, REPORT_TYPE, str(job.id))


class Publishing(Protocol):
    """Publishes one message, alone or with others: `Publisher` or `ReportBatcher`."""

    def publish(self, message: Outgoing, /) -> Awaitable[None]:
        """Return when the broker has the message on disk; fails as `Publisher.publish` does."""


async def publish_until_confirmed(message: Outgoing, publisher: Publishing) -> None:
    """Publish one message, again and again until the broker confirms it.

    Its delivery stays unacked meanwhile, so giving up at any point repeats the job and loses nothing.

    Raises:
        MessageTooLarge: the broker will never take it.
    """
    while True:
        try:
            await publisher.publish(message)
        except MessageTooLarge:
            raise
        except BrokerError as error:
            facts = {"job_id": message.job_id, "exchange": message.exchange, "error": str(error)}
            logger.warning("publish_failed", extra=facts)
            await asyncio.sleep(_REPUBLISH_SECONDS)
        else:
            return


def encode_success(job: JobMessage, attempt: Attempt, *, worker: str, message: bytes) -> bytes | None:
    """Return the report of a success, put together as JSON: most reports are one, and the model is slow.

    The job is passed on as it came, with fields that the model leaves out and readers ignore.

    Args:
        message: The body that brought the job.

    Returns:
        What the model would encode, or None when it must: with a body or page, or a job of unusual form.
    """
    outcome = attempt.outcome
    is_plain = isinstance(outcome, Succeeded) and outcome.body is None and outcome.page is None
    if not is_plain or job.report is not None or not _can_be_passed_on(message):
        return None
    report = {
        "version": job.version,
        "job_id": job.id,
        "kind": job.kind,
        "run": job.run,
        "attempt": job.attempt,
        "state": _STATE,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "outcome": _OUTCOME,
        "result": outcome.result,
        "worker": worker,
        "job": orjson.Fragment(message),
    }
    if attempt.asked is not None:
        report["asked"] = [word.model_dump(exclude_none=True) for word in attempt.asked]
    try:
        return orjson.dumps(report, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError:
        # A number beyond 64 bits, picked out of somebody's JSON.
        return None


def _can_be_passed_on(message: bytes) -> bool:
    # With a line break it would be several where reports travel together.
    return len(message) <= _MOST_PASSED_ON_BYTES and b"\n" not in message


def _delayed_copy(
    job: JobMessage, report: Report, step_seconds: int, following: Mapping[str, Any]
) -> Outgoing:
    copy = job.model_copy(update={**following, "report": report})
    return Outgoing(DELAY, delay_key(job.kind, job.lane, step_seconds), copy.encode(), JOB_TYPE, str(job.id))


def _report(job: JobMessage, attempt: Attempt, decision: Decision, worker: str) -> Report:
    common = Report(
        job_id=job.id,
        kind=job.kind,
        run=job.run,
        # A deferral is no attempt: the last that was made is the one before.
        attempt=job.attempt - 1 if isinstance(decision, Defer) else job.attempt,
        state=_state(decision),
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=outcome_name(attempt.outcome),
        result=attempt.outcome.result,
        body=attempt.outcome.body if isinstance(attempt.outcome, Succeeded) else None,
        page=attempt.outcome.page if isinstance(attempt.outcome, Succeeded) else None,
        asked=attempt.asked,
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
            # A message longer than the recorder reads would be the end of the report.
            "reason": attempt.outcome.reason[:MAX_REASON_LENGTH],
            "explanation": attempt.outcome.explanation[:MAX_EXPLANATION_LENGTH],
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
