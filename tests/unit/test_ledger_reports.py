"""What the recorder finds in a delivery."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from consumer.executor import Attempt
from consumer.settlement import Decision, Delay, Finish, Park, settlement_message
from producer.ledger.reports import Told, told_by
from producer.records import UnreadableJob
from shared.broker.outgoing import Outgoing
from shared.errors import MessageUndecodable
from shared.messages import JobMessage, Report
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
    correlation_id: str = ""


def delivered(message: Outgoing) -> Delivered:
    return Delivered(message.body, message.exchange, message.type)


def job(attempt: int = 1) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", args={}, attempt=attempt)


def attempt(outcome: Succeeded | Failed) -> Attempt:
    return Attempt(NOON, NOON + timedelta(seconds=1), outcome)


def test_a_result_is_its_own_report() -> None:
    message = settlement_message(job(), attempt(Succeeded({})), Finish(), worker="w")

    report = told_by(delivered(message), now=NOON).report

    assert report is not None and (report.state, report.attempt) == ("succeeded", 1)


def test_a_delayed_copy_gives_the_report_of_the_attempt_before() -> None:
    message = settlement_message(job(2), attempt(FAILED), Delay(5), worker="w")

    report = told_by(delivered(message), now=NOON).report

    assert report is not None and (report.state, report.attempt, report.wait_seconds) == ("delayed", 2, 5)


def test_a_parked_copy_gives_its_own_report() -> None:
    message = settlement_message(job(3), attempt(FAILED), Park(), worker="w")

    report = told_by(delivered(message), now=NOON).report

    assert report is not None and (report.state, report.attempt, report.reason) == ("parked", 3, "timeout")


def test_a_job_that_the_broker_gave_up_on_is_reported_as_crashed() -> None:
    report = told_by(Delivered(job(1).encode(), "jobs.dead"), now=NOON).report

    assert report is not None and (report.state, report.attempt, report.reason) == (
        "parked",
        1,
        "worker_crashed",
    )


def test_a_crash_at_a_later_attempt_is_not_mistaken_for_the_delay_before_it() -> None:
    delayed = settlement_message(job(1), attempt(FAILED), Delay(5), worker="w")

    report = told_by(Delivered(delayed.body, "jobs.dead"), now=NOON).report

    assert report is not None and (report.state, report.attempt, report.reason) == (
        "parked",
        2,
        "worker_crashed",
    )


def test_a_job_that_comes_back_from_a_delay_to_a_queue_that_is_gone_is_only_made_known() -> None:
    waiting = job(1)
    delayed = settlement_message(waiting, attempt(FAILED), Delay(5), worker="w")

    told = told_by(Delivered(delayed.body, "jobs.return"), now=NOON)

    # Its queue will be declared again, and the job sent again, for it is overdue.
    assert told.report is None and told.job is not None and told.job.id == waiting.id


def test_a_job_of_a_kind_that_nobody_knows_is_reported_as_parked_when_it_comes_back_to_no_queue() -> None:
    delayed = settlement_message(
        job(1).model_copy(update={"kind": "nosuch"}), attempt(FAILED), Delay(5), worker="w"
    )

    report = told_by(Delivered(delayed.body, "jobs.return"), now=NOON).report

    assert report is not None and (report.state, report.attempt, report.reason) == ("parked", 2, "no_queue")


def test_a_raw_message_has_nothing_to_record() -> None:
    assert told_by(Delivered(b"\x00garbage", "jobs.dead", "raw"), now=NOON) == Told()
    assert told_by(Delivered(b"?", "jobs.dead", "raw", correlation_id="my-job-7"), now=NOON) == Told()


@pytest.mark.parametrize(
    ("header", "explanation"),
    [("version: 2", "version: 2"), (7, "The worker that took its message could not read it.")],
)
def test_a_raw_message_may_say_whose_it_is_and_why_nobody_can_read_it(
    header: object, explanation: str
) -> None:
    whose = uuid.uuid4()
    raw = Delivered(b"?", "jobs.dead", "raw", {"x-retriever-reason": header}, str(whose))

    assert told_by(raw, now=NOON) == Told(unreadable=UnreadableJob(whose, explanation))


def test_an_unreadable_result_is_refused() -> None:
    with pytest.raises(MessageUndecodable):
        told_by(Delivered(b"{}", "results"), now=NOON)


def test_a_job_that_somebody_else_publishes_has_no_report_yet() -> None:
    third_party = job()

    assert told_by(Delivered(third_party.encode(), "jobs", ""), now=NOON) == Told(job=third_party)


@pytest.mark.parametrize(
    ("outcome", "decision"), [(Succeeded({}), Finish()), (FAILED, Delay(5)), (FAILED, Park())]
)
def test_every_report_brings_its_job_as_it_was_before_the_attempt(
    outcome: Succeeded | Failed, decision: Decision
) -> None:
    tried = job(2)

    told = told_by(delivered(settlement_message(tried, attempt(outcome), decision, worker="w")), now=NOON)

    assert told.job is not None
    assert (told.job.id, told.job.attempt, told.job.args) == (tried.id, 2, tried.args)


def test_a_job_that_the_broker_gave_up_on_is_told_as_it_is() -> None:
    crashed = job(3)

    assert told_by(Delivered(crashed.encode(), "jobs.dead"), now=NOON).job == crashed


def test_a_report_of_another_job_than_the_one_it_brings_is_believed_without_it() -> None:
    body = settlement_message(job(), attempt(Succeeded({})), Finish(), worker="w").body
    foreign = Report.decode(body).model_copy(update={"job": job()})

    assert told_by(Delivered(foreign.encode(), "results", "report"), now=NOON).job is None
