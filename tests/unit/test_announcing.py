"""Which attempts are told of while they run, and when."""

import asyncio
import uuid
from typing import Any

import pytest

from consumer import announcing
from consumer.announcing import Announcer
from shared.broker.outgoing import Outgoing
from shared.clock import utc_now
from shared.errors import BrokerUnavailable
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


def job() -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={})


def a_task() -> asyncio.Task[Any]:
    return asyncio.create_task(asyncio.sleep(0))


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> FakePublisher:
    monkeypatch.setattr(announcing, "_AFTER_SECONDS", 0.05)
    return FakePublisher()


@pytest.fixture
def announcer(publisher: FakePublisher) -> Announcer:
    return Announcer(publisher, worker="w")  # type: ignore[arg-type]


async def test_attempts_that_last_are_told_of_in_their_order_and_once(
    publisher: FakePublisher, announcer: Announcer
) -> None:
    jobs, tasks = [job() for _ in range(4)], [a_task() for _ in range(4)]
    for told, task in zip(jobs, tasks, strict=True):
        announcer.begin(task, told, utc_now())
    announcer.end(tasks[1])

    async with asyncio.timeout(5):
        reports = [await publisher.told.get() for _ in range(3)]

    assert [report.job_id for report in reports] == [jobs[0].id, jobs[2].id, jobs[3].id]
    assert {(report.state, report.worker) for report in reports} == {("running", "w")}
    for task in tasks:
        announcer.end(task)


async def test_an_attempt_is_not_told_of_before_its_time(
    publisher: FakePublisher, announcer: Announcer
) -> None:
    loop = asyncio.get_running_loop()
    first, second = a_task(), a_task()
    announcer.begin(first, job(), utc_now())
    await asyncio.sleep(0.03)
    later = job()
    announcer.begin(second, later, utc_now())
    begun_at = loop.time()
    announcer.end(first)

    async with asyncio.timeout(5):
        report = await publisher.told.get()

    # Timers of the loop have milliseconds.
    assert loop.time() - begun_at >= 0.049
    assert report.job_id == later.id


async def test_a_broker_that_is_away_keeps_no_later_attempt_from_being_told_of(
    publisher: FakePublisher, announcer: Announcer
) -> None:
    publisher.is_away = True
    announcer.begin(a_task(), job(), utc_now())
    while announcer._running:
        await asyncio.sleep(0.005)
    publisher.is_away = False
    later = job()
    announcer.begin(a_task(), later, utc_now())

    async with asyncio.timeout(5):
        assert (await publisher.told.get()).job_id == later.id
