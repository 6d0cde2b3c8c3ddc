"""The webhook jobs that tell of ends: what they carry, and what they leave out."""

from typing import Any

from producer.callbacks import batch_callback, job_callback
from shared.events import BatchCompleted, JobEnded
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.kinds.webhook import WEBHOOK, WebhookArgs
from shared.states import JobState
from tests.support.factories import NOON

URL = "https://hooks.example.com/retriever"
TOLD = "2026-01-02T12:00:00.123456Z"


def make_ended(**fields: Any) -> JobEnded:
    return JobEnded(
        job_id=new_id(), kind="check", run=2, state=JobState.PARKED, attempt=3, finished_at=NOON, **fields
    )


def test_a_jobs_callback_carries_what_outcomes_gets() -> None:
    ended = make_ended(reason="http_503", explanation="The host answered 503.", result={"status": 503})

    job = job_callback(ended, URL, now=NOON)

    assert (job.kind, job.lane, job.host) == (WEBHOOK, Lane.INTERACTIVE, "hooks.example.com")
    assert job.labels == {"callback_of": f"job/{ended.job_id}"}
    assert job.args == {
        "url": URL,
        "type": "job.parked",
        "timestamp": TOLD,
        "data": {
            "version": 1,
            "job_id": str(ended.job_id),
            "kind": "check",
            "run": 2,
            "state": "parked",
            "attempt": 3,
            "reason": "http_503",
            "explanation": "The host answered 503.",
            "result": {"status": 503},
            "finished_at": TOLD,
        },
    }


def test_a_batchs_callback_carries_what_outcomes_gets() -> None:
    counts = {JobState.SUCCEEDED: 2, JobState.CANCELLED: 1}
    completed = BatchCompleted(
        id=new_id(), kind="check", total=3, counts=counts, labels={}, created_at=NOON, completed_at=NOON
    )

    job = batch_callback(completed, URL, now=NOON)

    assert (job.args["type"], job.args["timestamp"]) == ("batch.completed", TOLD)
    assert job.args["data"]["counts"] == {"succeeded": 2, "cancelled": 1}
    assert job.labels == {"callback_of": f"batch/{completed.id}"}


def test_a_result_that_is_too_large_is_left_out_and_named() -> None:
    data = job_callback(make_ended(reason="r", result={"body": "x" * 300_000}), URL, now=NOON).args["data"]

    assert data["omitted"] == ["result"]
    assert "result" not in data and data["reason"] == "r"


def test_whatever_a_report_says_its_callback_can_be_sent() -> None:
    wild = make_ended(
        reason="\u00e9" * 300_000,
        explanation="\0" * 300_000,
        result={"number": float("nan"), "infinite": float("inf")},
    )
    small = make_ended(result={"number": float("nan")})

    for ended in (wild, small):
        WebhookArgs.model_validate(job_callback(ended, URL, now=NOON).args)
    assert job_callback(wild, URL, now=NOON).args["data"]["omitted"] == ["result", "explanation", "reason"]
    assert job_callback(small, URL, now=NOON).args["data"]["result"] == {"number": None}
