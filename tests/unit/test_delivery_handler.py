"""The worker's heart: whatever happens to a delivery, its job is settled once, given back, or comes again."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from pydantic import BaseModel

from consumer import delivery_handler, settlement
from consumer.backlog import SlotAdmission, Slots
from consumer.control_streams import Cancellations
from consumer.delivery_handler import DeliveryHandler
from consumer.executor import Executor
from consumer.metrics import WorkerMetrics
from consumer.politeness.host_limiter import PermitRequest, Priority
from consumer.politeness.host_limiters import NO_PERMIT, FirstPermit
from consumer.running_attempts import RunningAttempts
from shared.broker.bundle import bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import DEAD, DELAY, JOBS, RESULTS, WORK_DELIVERY_LIMIT
from shared.clock import utc_now
from shared.errors import BrokerError, BrokerUnavailable, DeliveryLost, MessageTooLarge
from shared.events import Cancellation
from shared.kinds.registry import Lane
from shared.messages import MAX_JOB_BYTES, RAW_TYPE, REASON_HEADER, JobMessage, Report
from shared.outcomes import DeferralReason, Deferred, Failed, Outcome, Succeeded

GRACE_SECONDS = 5.0
ADDRESS = "203.0.113.7"


class FakeDelivery:
    """A delivery that keeps how it was settled; its channel may be lost."""

    exchange = JOBS
    routing_key = "check.bulk"
    user_id: str | None = None
    was_dead = False

    def __init__(
        self, body: bytes, *, returns: int = 0, is_redelivered: bool = False, is_lost: bool = False
    ) -> None:
        self.body = body
        self.correlation_id = "job-1"
        self.returns = returns
        self.is_redelivered = is_redelivered or returns > 0
        self.settled: list[str] = []
        self.is_lost = is_lost

    def ack(self) -> None:
        self.settled.append("ack")

    async def requeue(self) -> None:
        await self._otherwise("requeue")

    async def refuse(self) -> None:
        await self._otherwise("refuse")

    async def _otherwise(self, how: str) -> None:
        if self.is_lost:
            raise DeliveryLost("the channel is gone")
        self.settled.append(how)


class FakePublisher:
    """Confirms each message when it may, after failures if told so."""

    def __init__(self) -> None:
        self.published: list[Outgoing] = []
        self.errors: list[BrokerError] = []
        self.may_confirm = asyncio.Event()
        self.may_confirm.set()
        self.has_message = asyncio.Event()

    async def publish(self, message: Outgoing) -> None:
        self.published.append(message)
        self.has_message.set()
        await self.may_confirm.wait()
        if self.errors:
            raise self.errors.pop(0)

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        raise BrokerUnavailable("reports of running attempts are not what these tests are about")


class FakeAdmission:
    """Lets every job in, unless told otherwise; may make it wait."""

    def __init__(self) -> None:
        self.answer: FirstPermit | Deferred = NO_PERMIT
        self.error: Exception | None = None
        self.addresses: list[str | None] = []
        self.new_answer: Callable[[], FirstPermit | Deferred] | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()

    async def admit(self, _: JobMessage, *, address: str | None = None) -> FirstPermit | Deferred:
        self.addresses.append(address)
        self.asked.set()
        await self.may_answer.wait()
        if self.error:
            raise self.error
        return self.answer if self.new_answer is None else self.new_answer()


@dataclass
class Work:
    """A handler of jobs that counts its starts, and ends when it may."""

    outcome: Outcome = field(default_factory=lambda: Succeeded({}))
    starts: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        self.starts += 1
        self.started.set()
        await self.may_end.wait()
        return self.outcome


class Heart:
    """A delivery handler among fakes."""

    def __init__(self) -> None:
        self.work = Work()
        self.work.may_end.set()
        self.publisher = FakePublisher()
        self.admission = FakeAdmission()
        self.cancellations = Cancellations("amqp://nowhere/", name="test")
        self.metrics = WorkerMetrics()
        self.handler = DeliveryHandler(
            executor=Executor({"check": self.work}),
            admission=self.admission,  # type: ignore[arg-type]
            publisher=self.publisher,  # type: ignore[arg-type]
            cancellations=self.cancellations,
            metrics=self.metrics,
            worker="w",
        )

    def take(
        self,
        job: JobMessage | bytes,
        *,
        returns: int = 0,
        is_redelivered: bool = False,
        is_lost: bool = False,
    ) -> FakeDelivery:
        """Let a delivery be handled."""
        body = job if isinstance(job, bytes) else job.encode()
        delivery = FakeDelivery(body, returns=returns, is_redelivered=is_redelivered, is_lost=is_lost)
        self.handler.take(delivery)  # type: ignore[arg-type]
        return delivery

    def take_bundle(self, jobs: Sequence[JobMessage], *, is_redelivered: bool = False) -> FakeDelivery:
        """Let a delivery of several jobs be handled."""
        delivery = FakeDelivery(bundled(job.encode() for job in jobs), is_redelivered=is_redelivered)
        self.handler.take_bundle(delivery)  # type: ignore[arg-type]
        return delivery

    def cancel(self, job: JobMessage) -> None:
        """Let the worker read that a job was cancelled."""
        self.cancellations.take(Cancellation(job_id=job.id, run=job.run).encode())

    async def finish(self, *, grace_seconds: float = GRACE_SECONDS) -> int:
        """Let everything in hand end."""
        async with asyncio.timeout(2 * GRACE_SECONDS):
            return await self.handler.finish(grace_seconds=grace_seconds)

    @property
    def reports(self) -> list[Report]:
        """What was published as a report."""
        return [Report.decode(each.body) for each in self.publisher.published if each.exchange == RESULTS]

    @property
    def copies(self) -> list[JobMessage]:
        """What was published as a copy of a job."""
        exchanges = {DELAY, DEAD}
        return [
            JobMessage.decode(each.body) for each in self.publisher.published if each.exchange in exchanges
        ]


@pytest.fixture
async def heart(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heart]:
    monkeypatch.setattr(settlement, "_REPUBLISH_SECONDS", 0.0)
    made = Heart()
    yield made
    for event in (made.work.may_end, made.publisher.may_confirm, made.admission.may_answer):
        event.set()
    await made.finish(grace_seconds=0.0)


def make_job(*, deferrals: int = 0, returns: int = 0, batch_id: uuid.UUID | None = None) -> JobMessage:
    return JobMessage(
        id=uuid.uuid4(),
        kind="check",
        lane=Lane.BULK,
        args={"url": "http://example.com/"},
        deferrals=deferrals,
        returns=returns,
        batch_id=batch_id,
    )


async def turn_loop() -> None:
    """Let everything run that can run without the world outside."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_success_is_reported_and_then_acked(heart: Heart) -> None:
    delivery = heart.take(make_job())
    await heart.finish()

    assert [report.state for report in heart.reports] == ["succeeded"]
    assert (delivery.settled, heart.handler.in_hand) == (["ack"], 0)


async def test_nothing_is_acked_before_the_broker_has_confirmed(heart: Heart) -> None:
    heart.publisher.may_confirm.clear()
    delivery = heart.take(make_job())
    await heart.publisher.has_message.wait()
    await turn_loop()
    assert (delivery.settled, heart.handler.in_hand) == ([], 1)

    heart.publisher.may_confirm.set()
    await heart.finish()

    assert delivery.settled == ["ack"]


async def test_a_settlement_is_published_until_the_broker_confirms_it(heart: Heart) -> None:
    heart.publisher.errors = [BrokerUnavailable("away"), BrokerUnavailable("away")]
    delivery = heart.take(make_job())
    await heart.finish()

    assert (len(heart.publisher.published), delivery.settled) == (3, ["ack"])
    assert heart.work.starts == 1


async def test_a_failure_is_one_copy_for_the_next_attempt(heart: Heart) -> None:
    heart.work.outcome = Failed("http_503", "The host answered 503.", transient=True)
    delivery = heart.take(make_job())
    await heart.finish()

    assert [(copy.attempt, copy.report is not None) for copy in heart.copies] == [(2, True)]
    assert delivery.settled == ["ack"]


@pytest.mark.parametrize("is_redelivered", [True, False])
async def test_a_copy_waits_for_the_attempt_in_hand_and_starts_no_second_one(
    heart: Heart, is_redelivered: bool
) -> None:
    heart.work.may_end.clear()
    job = make_job()
    first = heart.take(job)
    await heart.work.started.wait()
    second = heart.take(job, is_redelivered=is_redelivered)
    await turn_loop()
    assert (second.settled, heart.handler.in_hand) == ([], 2)

    heart.work.may_end.set()
    await heart.finish()

    assert (heart.work.starts, len(heart.reports)) == (1, 1)
    assert (first.settled, second.settled) == (["ack"], ["ack"])


async def test_a_redelivery_of_a_settled_attempt_is_only_acked(heart: Heart) -> None:
    jobs = [make_job(), make_job()]
    heart.take(jobs[0])
    heart.take_bundle(jobs[1:])
    await heart.finish()
    again = [
        heart.take(jobs[0], is_redelivered=True),
        heart.take_bundle(jobs[1:], is_redelivered=True),
    ]
    await heart.finish()

    assert (heart.work.starts, len(heart.reports)) == (2, 2)
    assert [each.settled for each in again] == [["ack"], ["ack"]]


async def test_a_settled_attempt_that_was_published_anew_is_made_again(heart: Heart) -> None:
    jobs = [make_job(), make_job()]
    heart.take(jobs[0])
    heart.take_bundle(jobs[1:])
    await heart.finish()
    # The broker has lost both reports, and the ledger sends both jobs again.
    again = [heart.take(jobs[0]), heart.take_bundle(jobs[1:])]
    await heart.finish()

    assert (heart.work.starts, len(heart.reports)) == (4, 4)
    assert [each.settled for each in again] == [["ack"], ["ack"]]


async def test_a_strangers_message_of_a_stored_job_stands_for_no_attempt_of_it(heart: Heart) -> None:
    heart.work.may_end.clear()
    job = make_job().model_copy(update={"token": "a" * 32})
    strangers = heart.take(job.model_copy(update={"token": None}))
    await heart.work.started.wait()
    ours = heart.take(job)
    await turn_loop()
    heart.work.may_end.set()
    await heart.finish()

    # The recorder believes only the report with the token.
    assert (heart.work.starts, len(heart.reports)) == (2, 2)
    assert (strangers.settled, ours.settled) == (["ack"], ["ack"])


async def test_a_job_that_comes_back_from_a_deferral_is_no_duplicate(heart: Heart) -> None:
    heart.admission.answer = Deferred(1.0, DeferralReason.BUSY, "Its host is busy.")
    deferred = heart.take(make_job())
    await heart.finish()
    (copy,) = heart.copies
    heart.admission.answer = NO_PERMIT
    heart.take(copy)
    await heart.finish()

    assert (copy.attempt, copy.deferrals, deferred.settled) == (1, 1, ["ack"])
    assert (heart.work.starts, [report.attempt for report in heart.reports]) == (1, [1])


async def test_a_deferred_job_is_no_attempt(heart: Heart) -> None:
    heart.admission.answer = Deferred(1.0, DeferralReason.BUSY, "Its host is busy.")
    heart.take(make_job())
    await heart.finish()

    labels = {"kind": "check", "reason": "host_busy"}
    assert heart.metrics.registry.get_sample_value("retriever_deferrals_total", labels) == 1
    assert [metric.samples for metric in heart.metrics.attempts.collect()] == [[]]
    assert heart.work.starts == 0


def first_permit() -> FirstPermit:
    return FirstPermit(request=PermitRequest(Priority.BULK, 5))


def give_back_first(heart: Heart, *, times: int = 1) -> list[str | None]:
    """Let so many attempts find the address of their host busy; return the addresses that are asked for."""
    permits: list[FirstPermit] = []

    async def work(_: BaseModel, __: JobMessage, permit: FirstPermit) -> Outcome:
        permits.append(permit)
        if len(permits) > times:
            return Succeeded({})
        permit.busy_address = ADDRESS
        return Failed("host_busy", "Busy.", transient=True)

    heart.handler._executor = Executor({"check": work})
    heart.admission.new_answer = first_permit
    return heart.admission.addresses


async def test_an_attempt_that_found_its_address_busy_waits_for_it_and_is_made_again(heart: Heart) -> None:
    asked = give_back_first(heart)
    delivery = heart.take(make_job())
    await heart.finish()

    assert asked == [None, ADDRESS]
    (report,) = heart.reports
    assert (report.state, report.attempt) == ("succeeded", 1)
    assert delivery.settled == ["ack"]


async def test_a_job_is_deferred_when_the_address_that_its_attempt_found_busy_stays_so(heart: Heart) -> None:
    give_back_first(heart)
    answers: Iterator[FirstPermit | Deferred] = iter(
        [first_permit(), Deferred(30.0, DeferralReason.BUSY, "Its address is busy.")]
    )
    heart.admission.new_answer = lambda: next(answers)
    heart.take(make_job())
    await heart.finish()

    (copy,) = heart.copies
    assert (copy.attempt, copy.deferrals) == (1, 1)
    assert [metric.samples for metric in heart.metrics.attempts.collect()] == [[]]


async def test_an_attempt_that_was_reported_as_running_is_not_deferred_but_fails_for_now(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_back_first(heart)
    monkeypatch.setattr(RunningAttempts, "take_back", lambda *_: False)
    answers: Iterator[FirstPermit | Deferred] = iter(
        [first_permit(), Deferred(30.0, DeferralReason.BUSY, "Its address is busy.")]
    )
    heart.admission.new_answer = lambda: next(answers)
    heart.take(make_job())
    await heart.finish()

    (copy,) = heart.copies
    assert copy.report is not None and copy.report.reason == "host_busy"
    assert (copy.attempt, copy.deferrals) == (2, 0)


async def test_a_job_that_finds_its_address_busy_again_and_again_is_deferred(heart: Heart) -> None:
    asked = give_back_first(heart, times=100)
    heart.take(make_job())
    await heart.finish()

    (copy,) = heart.copies
    assert (copy.attempt, copy.deferrals) == (1, 1)
    assert len(asked) == 4
    assert copy.report is not None and ADDRESS in (copy.report.explanation or "")


async def test_a_redelivery_runs_when_the_attempt_in_hand_was_given_back(heart: Heart) -> None:
    heart.admission.error = RuntimeError("a bug")
    heart.admission.may_answer.clear()
    job = make_job()
    first = heart.take(job)
    await heart.admission.asked.wait()
    second = heart.take(job)
    await turn_loop()
    heart.admission.may_answer.set()
    await turn_loop()
    heart.admission.error = None
    # The second has met the bug as well; the third comes when neither is in hand.
    third = heart.take(job)
    await heart.finish()

    assert [each.settled for each in (first, second, third)] == [["refuse"], ["refuse"], ["ack"]]
    assert heart.work.starts == 1


async def test_a_job_that_was_cancelled_before_never_starts(heart: Heart) -> None:
    job = make_job()
    heart.cancel(job)
    delivery = heart.take(job)
    await heart.finish()

    (report,) = heart.reports
    assert (report.state, report.reason, report.started_at) == ("cancelled", "cancelled", None)
    assert (heart.work.starts, delivery.settled) == (0, ["ack"])


async def test_a_job_of_a_cancelled_batch_never_starts(heart: Heart) -> None:
    batch_id = uuid.uuid4()
    heart.cancellations.take(Cancellation(batch_id=batch_id).encode())
    heart.take(make_job(batch_id=batch_id))
    await heart.finish()

    assert ([report.state for report in heart.reports], heart.work.starts) == (["cancelled"], 0)


async def test_a_running_job_is_stopped_and_settled_as_cancelled(heart: Heart) -> None:
    heart.work.may_end.clear()
    job, other = make_job(), make_job()
    delivery, untouched = heart.take(job), heart.take(other)
    await heart.work.started.wait()
    await turn_loop()
    heart.cancel(job)
    await turn_loop()

    (report,) = heart.reports
    assert (report.job_id, report.state) == (job.id, "cancelled")
    assert report.started_at is not None
    assert (delivery.settled, untouched.settled) == (["ack"], [])


async def test_a_job_that_waits_to_be_admitted_can_be_cancelled(heart: Heart) -> None:
    heart.admission.may_answer.clear()
    job = make_job()
    delivery = heart.take(job)
    await heart.admission.asked.wait()
    heart.cancel(job)
    await heart.finish()

    assert [report.state for report in heart.reports] == ["cancelled"]
    assert (heart.work.starts, delivery.settled) == (0, ["ack"])


async def test_what_ends_within_the_grace_time_is_settled(heart: Heart) -> None:
    heart.work.may_end.clear()
    delivery = heart.take(make_job())
    await heart.work.started.wait()
    finishing = asyncio.create_task(heart.finish())
    await turn_loop()
    assert not finishing.done()

    heart.work.may_end.set()

    assert (await finishing, delivery.settled) == (0, ["ack"])


async def test_what_runs_beyond_the_grace_time_is_given_back_and_burns_no_attempt(heart: Heart) -> None:
    heart.work.may_end.clear()
    delivery = heart.take(make_job())
    await heart.work.started.wait()

    assert await heart.finish(grace_seconds=0.0) == 1
    assert (delivery.settled, heart.publisher.published) == (["requeue"], [])


async def test_what_was_given_back_runs_again_when_it_comes_again(heart: Heart) -> None:
    heart.work.may_end.clear()
    job = make_job()
    heart.take(job)
    await heart.work.started.wait()
    await heart.finish(grace_seconds=0.0)
    heart.work.may_end.set()
    again = heart.take(job, is_redelivered=True)
    await heart.finish()

    assert (heart.work.starts, again.settled) == (2, ["ack"])


async def test_a_job_makes_no_request_before_its_time(heart: Heart) -> None:
    starts_at = utc_now() + timedelta(seconds=0.05)
    delivery = heart.take(make_job().model_copy(update={"starts_at": starts_at}))
    await heart.finish()

    (report,) = heart.reports
    assert report.started_at is not None
    assert report.started_at >= starts_at
    assert delivery.settled == ["ack"]


async def test_a_clock_that_is_ahead_holds_up_no_job_for_long(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_handler, "_LONGEST_AHEAD_SECONDS", 0.01)
    heart.take(make_job().model_copy(update={"starts_at": utc_now() + timedelta(days=1)}))
    await heart.finish()

    assert heart.work.starts == 1


async def test_a_job_that_had_a_time_and_is_delivered_again_asks_for_another(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    job = make_job().model_copy(update={"starts_at": utc_now()})
    delivery = heart.take(job, is_redelivered=True)
    await heart.finish()

    (copy,) = heart.publisher.published
    left = JobMessage.decode(copy.body)
    assert (copy.exchange, heart.work.starts, delivery.settled) == (DELAY, 0, ["ack"])
    assert (left.attempt, left.deferrals, left.starts_at) == (job.attempt, 1, None)


async def test_a_worker_that_stops_is_not_taken_for_a_cancelled_job(heart: Heart) -> None:
    heart.work.may_end.clear()
    stopped, cancelled = make_job(), make_job()
    delivery = heart.take(stopped)
    await heart.work.started.wait()
    heart.cancel(cancelled)
    await heart.finish(grace_seconds=0.0)

    assert (delivery.settled, heart.reports) == (["requeue"], [])


async def test_a_settlement_under_way_is_finished_beyond_the_grace_time(heart: Heart) -> None:
    heart.publisher.may_confirm.clear()
    delivery = heart.take(make_job())
    await heart.publisher.has_message.wait()
    finishing = asyncio.create_task(heart.finish(grace_seconds=0.0))
    await turn_loop()
    assert not finishing.done()

    heart.publisher.may_confirm.set()
    await finishing

    assert (delivery.settled, len(heart.reports)) == (["ack"], 1)


async def test_a_settlement_that_nobody_confirms_does_not_hold_up_a_worker_for_ever(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_handler, "_SETTLE_LIMIT_SECONDS", 0.0)
    heart.publisher.may_confirm.clear()
    delivery = heart.take(make_job())
    await heart.publisher.has_message.wait()

    assert await heart.finish(grace_seconds=0.0) == 1
    assert delivery.settled == []


async def test_a_job_cancelled_while_it_is_settled_is_settled_all_the_same(heart: Heart) -> None:
    heart.publisher.may_confirm.clear()
    job = make_job()
    delivery = heart.take(job)
    await heart.publisher.has_message.wait()
    heart.cancel(job)
    await turn_loop()
    heart.publisher.may_confirm.set()
    await heart.finish()

    assert ([report.state for report in heart.reports], delivery.settled) == (["succeeded"], ["ack"])


async def test_a_body_that_nobody_can_read_is_parked_byte_for_byte_with_the_reason(heart: Heart) -> None:
    delivery = heart.take(b'{"id": "\xff')
    await heart.finish()

    (raw,) = heart.publisher.published
    assert (raw.exchange, raw.routing_key, raw.type) == (DEAD, "check.bulk", RAW_TYPE)
    assert (raw.body, raw.job_id) == (b'{"id": "\xff', "job-1")
    assert raw.headers[REASON_HEADER]
    assert delivery.settled == ["ack"]


async def test_a_job_whose_kind_is_not_that_of_its_routing_key_is_parked_unread(heart: Heart) -> None:
    # Its publisher may publish checks, and no commands.
    job = make_job().model_copy(update={"kind": "command"})
    delivery = heart.take(job)
    await heart.finish()

    (raw,) = heart.publisher.published
    assert (raw.exchange, raw.routing_key, raw.type, raw.body) == (DEAD, "check.bulk", RAW_TYPE, job.encode())
    assert raw.headers[REASON_HEADER] == "kind: command came with the routing key check.bulk"
    assert (heart.work.starts, delivery.settled) == (0, ["ack"])


async def test_a_job_of_a_kind_that_the_worker_does_not_serve_is_never_put_off(heart: Heart) -> None:
    # It came into the queue by a header CC. The worker's login may delay no such job.
    heart.admission.answer = Deferred(5.0, DeferralReason.BUSY, "Its host is busy.")
    delivery = FakeDelivery(make_job().model_copy(update={"kind": "fetch"}).encode(), returns=5)
    delivery.routing_key = "fetch.bulk"
    heart.handler.take(delivery)  # type: ignore[arg-type]
    await heart.finish()

    (parked,) = heart.publisher.published
    report = JobMessage.decode(parked.body).report
    assert (parked.exchange, report.reason if report else None) == (DEAD, "kind_unknown")
    assert delivery.settled == ["ack"]


async def test_parking_a_body_that_nobody_can_read_is_a_settlement_too(heart: Heart) -> None:
    heart.publisher.may_confirm.clear()
    delivery = heart.take(b"{")
    await heart.publisher.has_message.wait()
    finishing = asyncio.create_task(heart.finish(grace_seconds=0.0))
    await turn_loop()
    assert delivery.settled == []

    heart.publisher.may_confirm.set()
    await finishing

    assert delivery.settled == ["ack"]


async def test_a_bug_of_ours_counts_as_a_delivery_and_is_logged(
    heart: Heart, caplog: pytest.LogCaptureFixture
) -> None:
    heart.admission.error = RuntimeError("a bug")
    delivery = heart.take(make_job())
    await heart.finish()

    assert (delivery.settled, heart.publisher.published, heart.handler.in_hand) == (["refuse"], [], 0)
    crashes = [record for record in caplog.records if record.getMessage() == "delivery_crashed"]
    assert [record.exc_info is not None for record in crashes] == [True]


async def test_a_channel_that_is_lost_while_a_job_runs_costs_nothing_but_a_repetition(
    heart: Heart, caplog: pytest.LogCaptureFixture
) -> None:
    heart.work.may_end.clear()
    heart.take(make_job(), is_lost=True)
    await heart.work.started.wait()
    with caplog.at_level(logging.INFO):
        assert await heart.finish(grace_seconds=0.0) == 1
        heart.admission.error = RuntimeError("a bug")
        heart.take(make_job(), is_lost=True)
        await heart.finish()

    events = [record.getMessage() for record in caplog.records]
    assert events.count("delivery_lost") == 2
    assert heart.handler.in_hand == 0


async def test_a_redelivery_on_a_new_channel_acks_what_the_lost_channel_brought(heart: Heart) -> None:
    heart.work.may_end.clear()
    job = make_job()
    heart.take(job, is_lost=True)
    await heart.work.started.wait()
    again = heart.take(job, returns=1)
    heart.work.may_end.set()
    await heart.finish()

    assert (heart.work.starts, len(heart.reports), again.settled) == (1, 1, ["ack"])


async def test_a_parked_message_that_was_moved_here_is_not_run_and_asks_for_the_next_run(
    heart: Heart,
) -> None:
    heart.work.outcome = Failed("http_404", "Gone.", transient=False)
    heart.take(make_job())
    await heart.finish()
    (parked,) = heart.copies

    delivery = heart.take(parked)
    await heart.finish()

    (asked,) = heart.reports
    assert (asked.job_id, asked.run, asked.state, asked.started_at) == (parked.id, 1, "accepted", None)
    assert asked.job is not None and asked.job.id == parked.id
    assert (delivery.settled, heart.work.starts) == (["ack"], 1)


async def test_a_message_of_more_jobs_than_a_ledger_sends_is_parked_unread(heart: Heart) -> None:
    delivery = FakeDelivery(bundled([make_job().encode()] * 20_000))
    delivery.routing_key = "check.bundles"
    began = time.process_time()

    heart.handler.take_bundle(delivery)  # type: ignore[arg-type]
    await heart.finish()

    (parked,) = heart.publisher.published
    assert (parked.exchange, parked.type, parked.body) == (DEAD, RAW_TYPE, delivery.body)
    assert "20000 lines" in str(parked.headers[REASON_HEADER])
    assert delivery.settled == ["ack"] and heart.work.starts == 0
    # Every line would have cost some hundred microseconds.
    assert time.process_time() - began < 1.0


async def test_each_job_of_a_bundle_is_settled_by_itself_and_the_delivery_with_the_last(heart: Heart) -> None:
    jobs = [make_job() for _ in range(3)]
    heart.work.may_end.clear()
    heart.cancel(jobs[0])
    delivery = heart.take_bundle(jobs)
    assert heart.handler.in_hand == 3
    await heart.work.started.wait()
    await turn_loop()
    assert ([report.job_id for report in heart.reports], delivery.settled) == ([jobs[0].id], [])

    heart.work.may_end.set()
    await heart.finish()

    assert {report.job_id for report in heart.reports} == {job.id for job in jobs}
    assert delivery.settled == ["ack"]


async def test_a_job_that_may_be_poison_is_set_apart_untried_with_its_returns_counted(heart: Heart) -> None:
    delivery = heart.take(make_job(returns=4), returns=3)
    await heart.finish()

    (copy,) = heart.copies
    assert (copy.attempt, copy.returns, copy.deferrals) == (1, 7, 1)
    assert (heart.work.starts, delivery.settled) == (0, ["ack"])


async def test_a_job_that_workers_died_with_too_often_is_parked_untried(heart: Heart) -> None:
    heart.take(make_job(returns=WORK_DELIVERY_LIMIT), returns=1)
    await heart.finish()

    (copy,) = heart.copies
    assert copy.report is not None
    assert (copy.report.state, copy.report.reason) == ("parked", "worker_crashed")
    assert heart.work.starts == 0


async def test_returns_of_a_job_that_is_tried_all_the_same_travel_in_its_next_copy(heart: Heart) -> None:
    heart.work.outcome = Failed("http_404", "The host answered 404.", transient=False)
    heart.take(make_job(returns=4), returns=2)
    await heart.finish()

    assert [(copy.returns, copy.attempt) for copy in heart.copies] == [(6, 1)]
    assert heart.work.starts == 1


async def test_no_more_settled_attempts_are_remembered_than_a_bound(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_handler, "_SETTLED_KEPT", 2)
    jobs = [make_job() for _ in range(3)]
    for job in jobs:
        heart.take(job)
        await heart.finish()
    for job in jobs[1:]:
        heart.take(job, is_redelivered=True)
        await heart.finish()
    assert heart.work.starts == 3

    heart.take(jobs[0], is_redelivered=True)
    await heart.finish()

    assert heart.work.starts == 4


async def test_an_outcome_that_the_broker_does_not_take_is_parked_without_it_and_with_the_reason(
    heart: Heart,
) -> None:
    heart.work.outcome = Succeeded({"text": "x" * 5_000})
    heart.publisher.errors = [
        MessageTooLarge("The message has 5,100 bytes, and the broker takes 5,000 at most.")
    ]
    delivery = heart.take(make_job())
    await heart.finish()

    (copy,) = heart.copies
    assert copy.report is not None
    assert (copy.report.state, copy.report.reason) == ("parked", "message_too_large")
    assert "5,000 at most" in (copy.report.explanation or "") and copy.report.result is None
    assert (heart.work.starts, delivery.settled) == (1, ["ack"])


async def test_a_job_whose_bare_copy_is_too_large_goes_out_as_it_came_in(heart: Heart) -> None:
    too_large = MessageTooLarge("The message has 5,100 bytes, and the broker takes 5,000 at most.")
    heart.publisher.errors = [too_large, too_large]
    job = make_job()
    delivery = heart.take(job)
    await heart.finish()

    raw = heart.publisher.published[-1]
    assert (raw.exchange, raw.type, raw.body) == (DEAD, RAW_TYPE, job.encode())
    assert "5,000 at most" in str(raw.headers[REASON_HEADER])
    assert (len(heart.publisher.published), delivery.settled) == (3, ["ack"])


async def test_a_job_that_leaves_no_room_for_a_report_is_not_begun(heart: Heart) -> None:
    job = make_job().model_copy(update={"args": {"url": "http://example.com/", "junk": "x" * MAX_JOB_BYTES}})
    delivery = heart.take(job)
    await heart.finish()

    (raw,) = heart.publisher.published
    assert (raw.exchange, raw.type, raw.body) == (DEAD, RAW_TYPE, job.encode())
    assert f"a job has at most {MAX_JOB_BYTES}" in str(raw.headers[REASON_HEADER])
    assert (heart.work.starts, delivery.settled) == (0, ["ack"])


def give_slots(heart: Heart, slots: Slots) -> None:
    """Let the handler run no more at once than there are slots."""
    heart.handler._admission = SlotAdmission(heart.admission, {"check": slots})  # type: ignore[arg-type]


async def test_a_job_that_waits_for_a_slot_is_given_back_at_once_when_the_worker_stops(heart: Heart) -> None:
    slots = Slots(1)
    give_slots(heart, slots)
    heart.work.may_end.clear()
    running = heart.take(make_job())
    await heart.work.started.wait()
    alone, bundle = heart.take(make_job()), heart.take_bundle([make_job(), make_job()])
    await turn_loop()

    slots.shut()
    await turn_loop()

    assert (running.settled, alone.settled, bundle.settled) == ([], ["requeue"], ["requeue"])
    heart.work.may_end.set()
    await heart.finish()
    assert (running.settled, heart.work.starts) == (["ack"], 1)


async def test_a_job_that_waits_for_a_slot_and_is_cancelled_is_settled_at_once_and_was_not_started(
    heart: Heart,
) -> None:
    give_slots(heart, Slots(1))
    heart.work.may_end.clear()
    heart.take(make_job())
    await heart.work.started.wait()
    job = make_job()
    delivery = heart.take(job)
    await turn_loop()

    heart.cancel(job)
    await turn_loop()

    (report,) = heart.reports
    assert (report.job_id, report.state, report.started_at) == (job.id, "cancelled", None)
    assert (delivery.settled, heart.work.starts) == (["ack"], 1)


async def test_a_redelivery_of_a_job_that_waits_for_a_slot_waits_for_it(heart: Heart) -> None:
    give_slots(heart, Slots(1))
    heart.work.may_end.clear()
    heart.take(make_job())
    await heart.work.started.wait()
    job = make_job()
    first = heart.take(job)
    await turn_loop()
    again = heart.take(job, is_redelivered=True)
    await turn_loop()

    heart.work.may_end.set()
    await heart.finish()

    assert (heart.work.starts, first.settled, again.settled) == (2, ["ack"], ["ack"])


async def test_a_job_whose_channel_is_lost_while_it_waits_is_not_run_for_that_delivery(heart: Heart) -> None:
    give_slots(heart, Slots(1))
    heart.work.may_end.clear()
    heart.take(make_job())
    await heart.work.started.wait()
    job = make_job()
    lost = heart.take(job)
    await turn_loop()
    lost.is_lost = True
    again = heart.take(job, is_redelivered=True)
    elsewhere = heart.take(make_job())
    elsewhere.is_lost = True
    await turn_loop()

    heart.work.may_end.set()
    await heart.finish()

    # Another worker has the third.
    assert (heart.work.starts, len(heart.reports)) == (2, 2)
    assert (lost.settled, again.settled, elsewhere.settled) == ([], ["ack"], [])
