"""The report of a success, put together as JSON: most reports are one, and a model takes far longer."""

import orjson

from consumer.executor import Attempt
from shared.messages import JobMessage
from shared.outcomes import OutcomeName, Succeeded
from shared.states import JobState


def success_body(job: JobMessage, attempt: Attempt, *, worker: str, message: bytes) -> bytes | None:
    """Return what the model encodes of a success, or None when that is to be asked.

    The job is passed on as it came, with what a report leaves out, which readers ignore.

    Args:
        message: The body that brought the job.
    """
    outcome = attempt.outcome
    is_plain = isinstance(outcome, Succeeded) and outcome.body is None and outcome.page is None
    # Of a third party it may have line breaks; then it would be several where reports travel together.
    if not is_plain or job.report is not None or b"\n" in message:
        return None
    report = {
        "version": job.version,
        "job_id": job.id,
        "kind": job.kind,
        "run": job.run,
        "attempt": job.attempt,
        "state": JobState.SUCCEEDED.value,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "outcome": OutcomeName.SUCCEEDED.value,
        "result": outcome.result,
        "worker": worker,
        "job": orjson.Fragment(message),
    }
    try:
        return orjson.dumps(report, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError:
        # A number beyond 64 bits, picked out of somebody's JSON.
        return None
