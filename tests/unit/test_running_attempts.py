"""Running attempts: which are reported as running, and which are cancelled with their job."""

import asyncio
import uuid
from typing import Any

import pytest

from consumer import running_attempts
from consumer.control_streams import Cancellations
from consumer.politeness.host_limiter import PermitRequest, Priority
from consumer.politeness.host_limiters import FirstPermit
from consumer.running_attempts import RunningAttempt, RunningAttempts
from shared.broker.outgoing import Outgoing
from shared.clock import utc_now
from shared.errors import BrokerUnavailable
from shared.events import Cancellation
from shared.kinds.registry import Lane
from shared.messages import JobMessage, Report


class FakePublisher:
    """Keeps what is sent; may have no connection."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Report] = asyncio.Queue()
        self.is_away = False

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        if self.is_away:
            raise BrokerUnavailable("away")
        self.told.put_nowait(Report.decode(message.body))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.set_exception(BrokerUnavailable("lost"))
        return answer


def job(*, run: int = 1) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={}, run=run)


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> FakePublisher:
    monkeypatch.setattr(running_attempts, "_REPORT_AFTER_SECONDS", 0.05)
    return FakePublisher()


@pytest.fixture
def cancellations() -> Cancellations:
    return Cancellations("amqp://nowhere/", name="test")


@pytest.fixture
def table(publisher: FakePublisher, cancellations: Cancellations) -> RunningAttempts:
    return RunningAttempts(publisher, cancellations, worker="w")  # type: ignore[arg-type]


def started(table: RunningAttempts, job: JobMessage) -> RunningAttempt:
    """Return an attempt that has begun, and lasts until its `__exit__`."""
    attempt = table.attempt(job, this_task()).__enter__()
    table.start(attempt, utc_now())
    return attempt


async def test_attempts_that_last_are_reported_in_their_order_and_once(
    publisher: FakePublisher, table: RunningAttempts
) -> None:
    jobs = [job() for _ in range(4)]
    attempts = [started(table, each) for each in jobs]
    attempts[1].__exit__()

    async with asyncio.timeout(5):
        reports = [await publisher.told.get() for _ in range(3)]

    assert [report.job_id for report in reports] == [jobs[0].id, jobs[2].id, jobs[3].id]
    assert {(report.state, report.worker) for report in reports} == {("running", "w")}
    for attempt in attempts:
        attempt.__exit__()


async def test_an_attempt_is_not_reported_before_its_time(
    publisher: FakePublisher, table: RunningAttempts
) -> None:
    loop = asyncio.get_running_loop()
    first = started(table, job())
    await asyncio.sleep(0.03)
    later = job()
    started(table, later)
    begun_at = loop.time()
    first.__exit__()

    async with asyncio.timeout(5):
        report = await publisher.told.get()

    # Timers of the loop have milliseconds.
    assert loop.time() - begun_at >= 0.049
    assert report.job_id == later.id


async def test_an_attempt_that_has_sent_nothing_is_reported_later(
    publisher: FakePublisher, table: RunningAttempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_attempts, "_REPORT_UNSENT_AFTER_SECONDS", 0.5)
    loop = asyncio.get_running_loop()
    permits = [FirstPermit(request=PermitRequest(Priority.BULK, 5)) for _ in range(2)]
    jobs, begun_at = [job() for _ in permits], loop.time()
    for each, permit in zip(jobs, permits, strict=True):
        table.start(table.attempt(each, this_task()).__enter__(), utc_now(), permit)
    permits[1].request = None

    async with asyncio.timeout(5):
        reports = [await publisher.told.get() for _ in jobs]

    assert [report.job_id for report in reports] == [jobs[1].id, jobs[0].id]
    assert loop.time() - begun_at >= 0.499


async def test_an_attempt_that_was_taken_back_is_not_reported_until_it_starts_again(
    publisher: FakePublisher, table: RunningAttempts
) -> None:
    back, last = job(), job()
    attempt = started(table, back)
    assert table.take_back(attempt) and attempt.started_at is None
    started(table, last)
    async with asyncio.timeout(5):
        assert (await publisher.told.get()).job_id == last.id

    table.start(attempt, utc_now())
    async with asyncio.timeout(5):
        assert (await publisher.told.get()).job_id == back.id
    assert not table.take_back(attempt)


async def test_a_job_that_waits_to_be_admitted_is_not_reported(
    publisher: FakePublisher, table: RunningAttempts
) -> None:
    last = job()
    with table.attempt(job(), this_task()):
        started(table, last)
        async with asyncio.timeout(5):
            report = await publisher.told.get()

    assert (report.job_id, publisher.told.empty()) == (last.id, True)


async def test_a_broker_that_is_away_keeps_no_later_attempt_from_being_reported(
    publisher: FakePublisher, table: RunningAttempts
) -> None:
    publisher.is_away = True
    started(table, job())
    while table._unreported:
        await asyncio.sleep(0.005)
    publisher.is_away = False
    later = job()
    started(table, later)

    async with asyncio.timeout(5):
        assert (await publisher.told.get()).job_id == later.id


async def test_reading_the_stream_again_cancels_nothing_twice(
    cancellations: Cancellations, table: RunningAttempts
) -> None:
    cancelled, has_begun, cancels = job(), asyncio.Event(), 0

    async def run() -> tuple[bool, int]:
        nonlocal cancels
        with table.attempt(cancelled, this_task()) as attempt:
            has_begun.set()
            for _ in range(2):
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    cancels += 1
                    cancellations.take(body)
        # Taken back, or what settles the job would take the next teardown of a channel for a cancellation.
        return attempt.was_cancelled(), this_task().cancelling()

    body = Cancellation(job_id=cancelled.id, run=1).encode()
    task = asyncio.create_task(run())
    await has_begun.wait()
    cancellations.take(body)
    cancellations.take(body)

    assert (await task, cancels) == ((True, 0), 1)


async def test_a_cancellation_of_an_earlier_run_leaves_a_later_one_alone(
    cancellations: Cancellations, table: RunningAttempts
) -> None:
    later, has_begun = job(run=2), asyncio.Event()

    async def run() -> str:
        with table.attempt(later, this_task()):
            has_begun.set()
            await asyncio.sleep(0)
        return "done"

    body = Cancellation(job_id=later.id, run=1).encode()
    cancellations.take(body)
    task = asyncio.create_task(run())
    await has_begun.wait()
    cancellations.take(body)

    assert await task == "done"


async def test_whoever_else_cancels_the_task_is_not_taken_for_a_cancelled_job(table: RunningAttempts) -> None:
    has_begun = asyncio.Event()

    async def run() -> bool:
        attempt = table.attempt(job(), this_task())
        try:
            with attempt:
                has_begun.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            return attempt.was_cancelled()
        return True

    task = asyncio.create_task(run())
    await has_begun.wait()
    task.cancel()

    assert await task is False
