"""Which report the recorder finds in a delivery."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from consumer.executor import Attempt
from consumer.settlement import Delay, Finish, Park, settlement_message
from producer.ledger.reports import report_of
from shared.broker.publisher import Outgoing
from shared.errors import MessageUndecodable
from shared.messages import JobMessage
from shared.outcomes import Failed, Succeeded

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
FAILED = Failed("timeout", "No answer.", transient=True)


@dataclass
class Delivered:
    """What the recorder reads of a delivery."""

    body: bytes
    exchange: str
    type: str = "job"
    headers: dict[str, object] = field(default_factory=dict)


def delivered(message: Outgoing) -> Delivered:
    return Delivered(message.body, message.exchange, message.type)


def job(attempt: int = 1) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", args={}, attempt=attempt)


def attempt(outcome: Succeeded | Failed) -> Attempt:
    return Attempt(NOON, NOON + timedelta(seconds=1), outcome)


def test_a_result_is_its_own_report() -> None:
    message = settlement_message(job(), attempt(Succeeded({})), Finish(), worker="w")

    report = report_of(delivered(message), now=NOON)

    assert report is not None and (report.state, report.attempt) == ("succeeded", 1)


def test_a_delayed_copy_gives_the_report_of_the_attempt_before() -> None:
    message = settlement_message(job(2), attempt(FAILED), Delay(5), worker="w")

    report = report_of(delivered(message), now=NOON)

    assert report is not None and (report.state, report.attempt, report.wait_seconds) == ("delayed", 2, 5)


def test_a_parked_copy_gives_its_own_report() -> None:
    message = settlement_message(job(3), attempt(FAILED), Park(), worker="w")

    report = report_of(delivered(message), now=NOON)

    assert report is not None and (report.state, report.attempt, report.reason) == ("parked", 3, "timeout")


def test_a_job_that_the_broker_gave_up_on_is_reported_as_crashed() -> None:
    report = report_of(Delivered(job(1).encode(), "jobs.dead"), now=NOON)

    assert report is not None and (report.state, report.attempt, report.reason) == (
        "parked",
        1,
        "worker_crashed",
    )


def test_a_crash_at_a_later_attempt_is_not_mistaken_for_the_delay_before_it() -> None:
    delayed = settlement_message(job(1), attempt(FAILED), Delay(5), worker="w")

    report = report_of(Delivered(delayed.body, "jobs.dead"), now=NOON)

    assert report is not None and (report.state, report.attempt, report.reason) == (
        "parked",
        2,
        "worker_crashed",
    )


def test_a_job_that_comes_back_from_a_delay_to_no_queue_is_reported_as_parked() -> None:
    delayed = settlement_message(job(1), attempt(FAILED), Delay(5), worker="w")

    report = report_of(Delivered(delayed.body, "jobs.return"), now=NOON)

    assert report is not None and (report.state, report.attempt, report.reason) == ("parked", 2, "no_queue")


def test_a_raw_message_has_nothing_to_record() -> None:
    assert report_of(Delivered(b"\x00garbage", "jobs.dead", "raw"), now=NOON) is None


def test_an_unreadable_result_is_refused() -> None:
    with pytest.raises(MessageUndecodable):
        report_of(Delivered(b"{}", "results"), now=NOON)
