"""The report of a success, put together as JSON: most reports are one, and a model takes far longer."""

import orjson

from consumer.executor import Attempt
from shared.messages import JobMessage
from shared.outcomes import OutcomeName, Succeeded
from shared.states import JobState

_STATE, _OUTCOME = JobState.SUCCEEDED.value, OutcomeName.SUCCEEDED.value
# A third party may write much into a message that nobody reads; with a result it could be more than a broker
# takes.
_MOST_PASSED_ON_BYTES = 65_536


def success_body(job: JobMessage, attempt: Attempt, *, worker: str, message: bytes) -> bytes | None:
    """Return what the model encodes of a success, or None when that is to be asked.

    The job is passed on as it came, with what a report leaves out, which readers ignore.

    Args:
        message: The body that brought the job.
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
    try:
        return orjson.dumps(report, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError:
        # A number beyond 64 bits, picked out of somebody's JSON.
        return None


def _can_be_passed_on(message: bytes) -> bool:
    # With a line break it would be several where reports travel together.
    return len(message) <= _MOST_PASSED_ON_BYTES and b"\n" not in message
