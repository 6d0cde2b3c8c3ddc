"""What the AsyncAPI document says in words and by example."""

from typing import Any, Final

ABOUT: Final = """\
Retriever runs jobs from the exchange `jobs` and tells of their ends on the exchange `outcomes`. Both are
durable topic exchanges on RabbitMQ, declared by Retriever: publishers and subscribers only use them.
How all else travels is in docs/messages.md.
"""
HOW_TO_PUBLISH: Final = """\
Publish to `jobs` with the routing key `<kind>.<lane>`, persistent and mandatory, and wait for the confirm: a
message that comes back found no queue. Use the AMQP properties `type` = `job`, `correlation_id` = the job's
id and `content_type` = `application/json`; no header is read. The id is a UUID of your own making (version 7,
please) that no other job has. A message that cannot be read is parked with its reason. The HTTP API validates
first and answers; prefer it.
"""
HOW_TO_HEAR_OF_JOBS: Final = """\
Bind a queue of your own to `outcomes`: `check.succeeded`, `check.*`, `*.parked`, `#`. Told once the end is
recorded, at least once: whoever dedupes on `message_id` gets each outcome once. It is the job's id, and after
a redrive the job's id, a full stop and the run. What is told while your queue is not there is lost to you.
"""
HOW_TO_HEAR_OF_BATCHES: Final = """\
Bind a queue of your own to `outcomes` with `batch.completed`. Told once all jobs of a batch have ended for
the first time, failures and cancellations included. `message_id` is the batch's id.
"""

_JOB_ID = "01a203f7-2316-7400-922d-0a315fe2b95f"
_BATCH_ID = "01a203f7-2327-7509-9f78-e075602b9162"

JOB: Final[dict[str, Any]] = {
    "version": 1,
    "id": _JOB_ID,
    "kind": "check",
    "lane": "interactive",
    "args": {"url": "https://example.com/", "timeout_seconds": 10.0},
    "retry": {"max_attempts": 3, "first_delay_seconds": 2.0},
}
OUTCOME: Final[dict[str, Any]] = {
    "version": 1,
    "job_id": _JOB_ID,
    "kind": "check",
    "run": 1,
    "state": "parked",
    "attempt": 5,
    "reason": "http_503",
    "explanation": "The host answered 503 Service Unavailable: it is overloaded or down for maintenance.",
    "batch_id": _BATCH_ID,
    "finished_at": "2026-11-22T15:54:18.029566Z",
}
BATCH: Final[dict[str, Any]] = {
    "version": 1,
    "id": _BATCH_ID,
    "kind": "check",
    "total": 3,
    "counts": {"succeeded": 2, "parked": 1},
    "labels": {"team": "docs"},
    "created_at": "2026-11-22T15:54:17.824466Z",
    "completed_at": "2026-11-22T15:54:18.029566Z",
}
