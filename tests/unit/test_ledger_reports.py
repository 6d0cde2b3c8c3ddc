"""What the recorder finds in a delivery."""

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from consumer.executor import Attempt
from consumer.settlement import Decision, Delay, Finish, Park, settlement_message
from producer.ledger.reports import ParsedReport, parse_delivery
from producer.records import UnreadableJob
from shared.broker.bundle import bundled
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
    routing_key: str = "check.bulk"
    user_id: str | None = None


def delivered(message: Outgoing) -> Delivered:
    return Delivered(message.body, message.exchange, message.type)


def job(attempt: int = 1) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", args={}, attempt=attempt)


def attempt(outcome: Succeeded | Failed) -> Attempt:
    return Attempt(NOON, NOON + timedelta(seconds=1), outcome)


def parsed(delivery: Delivered) -> ParsedReport:
    """Return the one thing that a delivery tells."""
    whole = parse_delivery(delivery, now=NOON)
    (report,) = whole.reports
    assert whole.error is None
    return report


def test_a_result_is_its_own_report() -> None:
    message = settlement_message(job(), attempt(Succeeded({})), Finish(), worker="w")

    report = parsed(delivered(message)).report

    assert report is not None and (report.state, report.attempt) == ("succeeded", 1)


def test_a_delayed_copy_gives_the_report_of_the_attempt_before() -> None:
    message = settlement_message(job(2), attempt(FAILED), Delay(5), worker="w")

    report = parsed(delivered(message)).report

    assert report is not None and (report.state, report.attempt, report.wait_seconds) == ("delayed", 2, 5)


def test_a_parked_copy_gives_its_own_report() -> None:
    message = settlement_message(job(3), attempt(FAILED), Park(), worker="w")

    report = parsed(delivered(message)).report

    assert report is not None and (report.state, report.attempt, report.reason) == ("parked", 3, "timeout")


def dead(reason: object) -> dict[str, object]:
    """Return the headers of a message that the broker dead-lettered, after it came back from a delay."""
    back = {"reason": "expired", "queue": "jobs.delay.00005s", "count": 1}
    return {"x-death": [{"reason": reason, "queue": "jobs.check.bulk", "count": 1}, back]}


@pytest.mark.parametrize(
    ("headers", "reason", "said"),
    [
        (dead("delivery_limit"), "delivery_limit", "or somebody looked at it in the console"),
        (dead("expired"), "expired", "Its message expired in its queue"),
        (dead("rejected"), "message_rejected", "rejected it"),
        (dead("maxlen"), "queue_full", "limits the length"),
        (dead("unheard-of"), "dead_lettered", "does not say why"),
        (dead(7), "dead_lettered", "does not say why"),
        ({}, "dead_lettered", "does not say why"),
        ({"x-death": "?"}, "dead_lettered", "does not say why"),
        ({"x-death": []}, "dead_lettered", "does not say why"),
        ({"x-death": ["?"]}, "dead_lettered", "does not say why"),
    ],
)
def test_a_job_that_the_broker_parked_is_reported_with_what_the_broker_says_and_no_attempt(
    headers: dict[str, object], reason: str, said: str
) -> None:
    report = parsed(Delivered(job(1).encode(), "jobs.dead", headers=headers)).report

    assert report is not None and (report.state, report.attempt, report.reason) == ("parked", 1, reason)
    assert said in str(report.explanation)
    assert report.is_untried and report.started_at is None


def test_a_limit_that_a_later_attempt_reaches_is_not_mistaken_for_the_delay_before_it() -> None:
    delayed = settlement_message(job(1), attempt(FAILED), Delay(5), worker="w")

    report = parsed(Delivered(delayed.body, "jobs.dead", headers=dead("delivery_limit"))).report

    assert report is not None and (report.state, report.attempt, report.reason) == (
        "parked",
        2,
        "delivery_limit",
    )


def test_a_job_that_comes_back_from_a_delay_to_a_queue_that_is_gone_is_only_made_known() -> None:
    waiting = job(1)
    delayed = settlement_message(waiting, attempt(FAILED), Delay(5), worker="w")

    whole = parsed(Delivered(delayed.body, "jobs.return"))

    # Its queue will be declared again, and the job sent again, for it is overdue.
    assert whole.report is None and whole.job is not None and whole.job.id == waiting.id


def test_a_job_of_a_kind_that_nobody_knows_is_reported_as_parked_when_it_comes_back_to_no_queue() -> None:
    delayed = settlement_message(
        job(1).model_copy(update={"kind": "nosuch"}), attempt(FAILED), Delay(5), worker="w"
    )

    report = parsed(Delivered(delayed.body, "jobs.return")).report

    assert report is not None and (report.state, report.attempt, report.reason) == ("parked", 2, "no_queue")


@pytest.mark.parametrize(
    "body",
    [
        b"\x00garbage",
        b"[]",
        b"[" * 100_000,
        b'{"id":"my-job-7","run":1,"token":"t"}',
        b'{"id":"01a203f7-2316-7400-922d-0a315fe2b95f","run":1}',
        b'{"id":"01a203f7-2316-7400-922d-0a315fe2b95f","token":"t"}',
        b'{"id":"01a203f7-2316-7400-922d-0a315fe2b95f","run":-1,"token":"t"}',
        b'{"id":"01a203f7-2316-7400-922d-0a315fe2b95f","run":1e99,"token":"t"}',
        b'{"id":"01a203f7-2316-7400-922d-0a315fe2b95f","run":99999999999999999999,"token":"t"}',
    ],
)
def test_a_raw_message_that_does_not_say_whose_it_is_has_nothing_to_record(body: bytes) -> None:
    assert parsed(Delivered(body, "jobs.dead", "raw")) == ParsedReport()


@pytest.mark.parametrize(
    ("header", "explanation"),
    [("version: 2", "version: 2"), (7, "The worker that took its message could not read it.")],
)
def test_a_raw_message_of_another_version_says_whose_it_is_and_why_nobody_can_read_it(
    header: object, explanation: str
) -> None:
    whose = uuid.uuid4()
    body = json.dumps({"version": 2, "id": str(whose), "run": 3, "token": "t", "new": {}}).encode()
    raw = Delivered(body, "jobs.dead", "raw", {"x-retriever-reason": header})

    assert parsed(raw) == ParsedReport(unreadable=UnreadableJob(whose, 3, explanation), token="t")


def test_an_unreadable_result_is_refused() -> None:
    whole = parse_delivery(Delivered(b"{}", "results"), now=NOON)

    assert whole.reports == [] and isinstance(whole.error, MessageUndecodable)


def test_a_job_that_somebody_else_publishes_has_no_report_yet() -> None:
    third_party = job()

    assert parsed(Delivered(third_party.encode(), "jobs", "")) == ParsedReport(job=third_party)


@pytest.mark.parametrize(("key", "is_taken"), [("command.bulk", False), ("check.interactive", True)])
def test_a_job_is_taken_from_somebody_else_only_if_its_kind_is_that_of_the_routing_key(
    key: str, is_taken: bool
) -> None:
    said = parsed(Delivered(job().encode(), "jobs", "", routing_key=key))

    assert (said != ParsedReport()) is is_taken


@pytest.mark.parametrize(
    ("outcome", "decision"), [(Succeeded({}), Finish()), (FAILED, Delay(5)), (FAILED, Park())]
)
def test_every_report_brings_its_job_as_it_was_before_the_attempt(
    outcome: Succeeded | Failed, decision: Decision
) -> None:
    tried = job(2)

    whole = parsed(delivered(settlement_message(tried, attempt(outcome), decision, worker="w")))

    assert whole.job is not None
    assert (whole.job.id, whole.job.attempt, whole.job.args) == (tried.id, 2, tried.args)


def with_token() -> JobMessage:
    return job(2).model_copy(update={"token": "t"})


@pytest.mark.parametrize(
    "message",
    [
        settlement_message(with_token(), attempt(Succeeded({})), Finish(), worker="w"),
        settlement_message(with_token(), attempt(FAILED), Delay(5), worker="w"),
        settlement_message(with_token(), attempt(FAILED), Park(), worker="w"),
        Outgoing("jobs.dead", "check.interactive", with_token().encode(), "job"),
    ],
)
def test_every_report_brings_the_token_of_its_job(message: Outgoing) -> None:
    assert parsed(delivered(message)).token == "t"


def test_a_report_has_no_use_for_the_token_of_another_job() -> None:
    body = settlement_message(job(), attempt(Succeeded({})), Finish(), worker="w").body
    borrowed = Report.decode(body).model_copy(update={"job": with_token()})

    assert parsed(Delivered(borrowed.encode(), "results", "report")).token is None


def test_a_job_that_the_broker_gave_up_on_is_told_as_it_is() -> None:
    crashed = job(3)

    assert parsed(Delivered(crashed.encode(), "jobs.dead")).job == crashed


def test_a_report_of_another_job_than_the_one_it_brings_is_believed_without_it() -> None:
    body = settlement_message(job(), attempt(Succeeded({})), Finish(), worker="w").body
    foreign = Report.decode(body).model_copy(update={"job": job()})

    assert parsed(Delivered(foreign.encode(), "results", "report")).job is None


def results(*jobs: JobMessage) -> list[bytes]:
    finished = attempt(Succeeded({}))
    return [settlement_message(each, finished, Finish(), worker="w").body for each in jobs]


@pytest.mark.parametrize("exchange", ["results", "results.large"])
def test_a_message_with_several_reports_tells_each_in_its_order(exchange: str) -> None:
    jobs = [job(number) for number in (1, 2, 3)]

    whole = parse_delivery(Delivered(bundled(results(*jobs)), exchange, "reports"), now=NOON)

    assert [each.report.job_id for each in whole.reports if each.report] == [each.id for each in jobs]
    assert [each.job.attempt for each in whole.reports if each.job] == [1, 2, 3]
    assert whole.error is None


def test_a_report_that_nobody_can_read_hides_none_beside_it() -> None:
    first, last = job(), job()
    lines = [*results(first), b'{"version":2}', b"\x00garbage", *results(last)]

    whole = parse_delivery(Delivered(bundled(lines), "results", "reports"), now=NOON)

    assert [each.report.job_id for each in whole.reports if each.report] == [first.id, last.id]
    assert str(whole.error).startswith("version:")


def test_each_job_of_a_message_that_the_broker_gave_up_on_is_reported() -> None:
    first, last = job(), job()
    lines = [first.encode(), b"garbage", last.encode()]

    given_up = Delivered(bundled(lines), "jobs.dead", "jobs", dead("delivery_limit"))
    whole = parse_delivery(given_up, now=NOON)

    reports = [each.report for each in whole.reports if each.report]
    assert [(report.job_id, report.state, report.reason) for report in reports] == [
        (first.id, "parked", "delivery_limit"),
        (last.id, "parked", "delivery_limit"),
    ]
    assert [each.job for each in whole.reports] == [first, last] and whole.error is not None


@pytest.mark.parametrize("amqp_type", ["", "jobs"])
def test_a_job_of_a_third_party_may_be_written_in_several_lines(amqp_type: str) -> None:
    third_party = job()

    body = third_party.model_dump_json(indent=2).encode()

    assert parsed(Delivered(body, "jobs", amqp_type)).job == third_party


@pytest.mark.parametrize(
    ("exchange", "amqp_type", "most"),
    [("results", "reports", 1_000), ("results.large", "report", 1_000), ("jobs.dead", "jobs", 100)],
)
def test_a_message_of_more_lines_than_we_write_is_not_read(exchange: str, amqp_type: str, most: int) -> None:
    whole = parse_delivery(Delivered(bundled([b"{}"] * (most + 1)), exchange, amqp_type), now=NOON)

    assert whole.reports == () and f"{most + 1} lines" in str(whole.error)
    assert "lines" not in str(
        parse_delivery(Delivered(bundled([b"{}"] * most), exchange, amqp_type), now=NOON).error
    )
