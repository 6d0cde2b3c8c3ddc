"""What follows an attempt, and the one message that says so."""

import os
import uuid
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from consumer.executor import Attempt
from consumer.settlement import (
    Decision,
    Defer,
    Delay,
    Finish,
    Park,
    decide,
    put_off_report,
    settlement_message,
)
from shared import exact_json
from shared.bodies import MAX_BODY_BYTES, StoredBody
from shared.broker.topology import LARGE_REPORT_BYTES
from shared.compression import MAX_STORED_BYTES
from shared.kinds.pages import PageReport
from shared.kinds.registry import Lane
from shared.messages import JobMessage, Report
from shared.outcomes import DeferralReason, Deferred, Failed, Outcome, Succeeded
from shared.retry import RetryPolicy
from tests.support.bodies import compress_body

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TRANSIENT = Failed("http_503", "The host answered 503.", transient=True)
PERMANENT = Failed("http_404", "The host answered 404.", transient=False)


def make_job(*, attempt: int = 1, max_attempts: int = 3) -> JobMessage:
    retry = RetryPolicy(max_attempts=max_attempts, first_delay_seconds=4, jitter=False)
    args = {"url": "http://example.com/"}
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args=args, retry=retry, attempt=attempt)


def make_attempt(outcome: Outcome) -> Attempt:
    return Attempt(NOON, NOON + timedelta(seconds=1), outcome)


def decided(job: JobMessage, outcome: Outcome) -> Decision:
    return decide(job, make_attempt(outcome), random=lambda: 0.0)


@pytest.mark.parametrize(
    ("outcome", "attempt", "expected"),
    [
        (Succeeded({}), 1, Finish()),
        (Succeeded({}), 3, Finish()),
        (TRANSIENT, 1, Delay(4)),
        (TRANSIENT, 2, Delay(8)),
        (TRANSIENT, 3, Park()),
        (PERMANENT, 1, Park()),
        (Failed("http_429", "Later.", transient=True, retry_after_seconds=31), 1, Delay(40)),
    ],
)
def test_an_outcome_and_the_attempts_left_decide(outcome: Outcome, attempt: int, expected: Decision) -> None:
    assert decided(make_job(attempt=attempt), outcome) == expected


def test_a_success_is_one_report_to_the_results() -> None:
    job = make_job()

    message = settlement_message(job, make_attempt(Succeeded({"verdict": "ok"})), Finish(), worker="w")

    assert (message.exchange, message.routing_key) == ("results", "check.bulk.succeeded")
    report = Report.decode(message.body)
    assert (report.job_id, report.attempt, report.state, report.result) == (
        job.id,
        1,
        "succeeded",
        {"verdict": "ok"},
    )


def test_a_retry_asks_for_the_next_attempt_and_carries_the_report_of_this_one() -> None:
    job = make_job(attempt=1)

    message = settlement_message(job, make_attempt(TRANSIENT), Delay(4), worker="w")

    assert (message.exchange, message.routing_key) == ("jobs.delay", "check.bulk.4s")
    copy = JobMessage.decode(message.body)
    assert copy.report is not None
    assert (copy.id, copy.run, copy.attempt) == (job.id, 1, 2)
    assert (copy.report.attempt, copy.report.state, copy.report.reason) == (1, "delayed", "http_503")
    assert (copy.report.wait_seconds, copy.report.due_at) == (4, NOON + timedelta(seconds=5))


def test_a_parked_job_keeps_its_arguments_and_says_why() -> None:
    job = make_job(attempt=3)

    message = settlement_message(job, make_attempt(TRANSIENT), Park(), worker="w")

    assert (message.exchange, message.routing_key) == ("jobs.dead", "check.bulk")
    copy = JobMessage.decode(message.body)
    assert copy.report is not None
    assert (copy.args, copy.attempt, copy.report.state) == (job.args, 3, "parked")
    assert copy.report.explanation == "The host answered 503."


def test_a_deferral_asks_for_the_same_attempt_again_and_is_none_itself() -> None:
    job, at = make_job(attempt=2), NOON + timedelta(seconds=1)
    attempt = Attempt(None, at, Deferred(7.5, DeferralReason.BUSY, "Deferred, because ..."))
    decision = decide(job, attempt, random=lambda: 0.0)

    message = settlement_message(job, attempt, decision, worker="w")

    # Rounded down: it may wait in hand for the rest.
    assert decision == Defer(6)
    assert (message.exchange, message.routing_key) == ("jobs.delay", "check.bulk.6s")
    copy = JobMessage.decode(message.body)
    assert (copy.attempt, copy.deferrals, copy.turn_at) == (2, 1, None)
    report = copy.report
    assert report is not None and report.is_deferral
    assert (report.attempt, report.state, report.reason) == (1, "delayed", "host_busy")
    assert (report.outcome, report.started_at, report.due_at) == (None, None, at + timedelta(seconds=6))


def test_a_job_that_waits_in_hand_is_reported_as_deferred_without_a_copy() -> None:
    job = make_job(attempt=2).model_copy(update={"token": "t" * 32})
    before = datetime.now(UTC)

    message = put_off_report(job, Deferred(60, DeferralReason.WORKER_BUSY, "It waits."), worker="w")

    report = Report.decode(message.body)
    assert (message.exchange, report.job and report.job.token) == ("results", job.token)
    assert report.is_deferral and (report.state, report.attempt) == ("delayed", 1)
    assert (report.reason, report.explanation, report.wait_seconds) == ("worker_busy", "It waits.", 60)
    assert report.due_at is not None and report.due_at >= before + timedelta(seconds=60)


def test_a_retry_forgets_the_deferrals_before_it() -> None:
    job = make_job(attempt=1).model_copy(update={"deferrals": 3, "turn_at": NOON})

    message = settlement_message(job, make_attempt(TRANSIENT), Delay(4), worker="w")

    copy = JobMessage.decode(message.body)
    assert (copy.attempt, copy.deferrals, copy.turn_at) == (2, 0, None)


def test_a_copy_never_carries_the_copies_before_it() -> None:
    first = settlement_message(make_job(attempt=1), make_attempt(TRANSIENT), Delay(1), worker="w")
    message = first
    for _ in range(40):
        message = settlement_message(
            JobMessage.decode(message.body), make_attempt(TRANSIENT), Delay(1), worker="w"
        )

    assert JobMessage.decode(message.body).attempt == 42
    assert len(message.body) <= len(first.body) + 4
    assert message.headers == {}


def test_a_body_travels_with_its_report_on_the_way_of_the_large() -> None:
    body = compress_body(os.urandom(300_000), content_type="image/png", charset=None)

    message = settlement_message(
        make_job(), make_attempt(Succeeded({"status": 200}, body)), Finish(), worker="w"
    )

    assert (message.exchange, message.routing_key) == ("results.large", "check.bulk.succeeded")
    assert Report.decode(message.body).body == body


def test_a_large_result_takes_the_way_of_the_large_without_a_body() -> None:
    outcome = Succeeded({"data": "x" * LARGE_REPORT_BYTES})

    message = settlement_message(make_job(), make_attempt(outcome), Finish(), worker="w")

    assert message.exchange == "results.large"
    assert b'"body"' not in message.body


@pytest.mark.parametrize("is_again", [False, True], ids=["first attempt", "after a retry"])
@pytest.mark.parametrize("page", [None, PageReport(items=2)], ids=["alone", "a page"])
@pytest.mark.parametrize("data", [[[], {"a": 1.5}], 10**30, {"a": None}], ids=["lists", "number", "null"])
def test_data_that_is_json_already_is_passed_on_as_it_is(
    data: object, page: PageReport | None, is_again: bool
) -> None:
    job = make_job()
    if is_again:
        job = JobMessage.decode(settlement_message(job, make_attempt(TRANSIENT), Delay(4), worker="w").body)
    outcome = Succeeded(
        {"status": 200, "etag": None, "data": orjson.Fragment(exact_json.dumps(data))}, page=page
    )

    message = settlement_message(job, make_attempt(outcome), Finish(), worker="w", message=job.encode())

    report = Report.decode(message.body)
    assert report.result == {"status": 200, "etag": None, "data": data}
    assert (report.page, report.job and report.job.id) == (page, job.id)


def test_the_largest_body_fits_into_a_message() -> None:
    body = StoredBody(size=MAX_BODY_BYTES, sha256="0" * 64, content=bytes(MAX_STORED_BYTES))

    message = settlement_message(make_job(), make_attempt(Succeeded({}, body)), Finish(), worker="w")

    assert len(message.body) < 8 * 1_048_576
