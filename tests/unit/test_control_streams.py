"""Orders as a worker knows them, also when the whole stream is read again after a loss."""

import asyncio
import uuid

import pytest

from consumer import control_streams
from consumer.control_streams import Cancellations, CurrentPauses
from shared.broker.outgoing import Outgoing
from shared.broker.topology import DEFAULT, MARKS
from shared.errors import BrokerUnavailable
from shared.events import Cancellation
from shared.kinds.registry import Lane
from shared.messages import JobMessage


def message(
    *, run: int, job_id: uuid.UUID | None = None, batch_id: uuid.UUID | None = None, **more: object
) -> JobMessage:
    args = {"url": "http://example.com/", **more}
    job_id = job_id or uuid.uuid4()
    return JobMessage(id=job_id, kind="check", lane=Lane.BULK, args=args, run=run, batch_id=batch_id)


@pytest.fixture
def cancellations() -> Cancellations:
    return Cancellations("amqp://nowhere/", name="test")


def test_reading_the_stream_again_takes_no_cancellation_back(cancellations: Cancellations) -> None:
    job_id = uuid.uuid4()
    first = Cancellation(job_id=job_id, run=1).encode()
    second = Cancellation(job_id=job_id, run=2).encode()
    for body in (first, second, first):
        cancellations.take(body)

    assert cancellations.has(message(job_id=job_id, run=2))
    assert not cancellations.has(message(job_id=job_id, run=3))


def test_a_cancelled_batch_covers_the_jobs_that_came_with_it_in_their_first_run(
    cancellations: Cancellations,
) -> None:
    job_id, batch_id = uuid.uuid4(), uuid.uuid4()
    cancellations.take(Cancellation(batch_id=batch_id).encode())

    assert cancellations.has(message(run=1, batch_id=batch_id))
    # Redriven since, or a page that joined since.
    assert not cancellations.has(message(run=2, batch_id=batch_id, job_id=job_id))
    assert not cancellations.has(message(run=1, batch_id=batch_id, page={"index": 4}))

    cancellations.take(Cancellation(job_id=job_id, run=2).encode())
    assert cancellations.has(message(run=2, batch_id=batch_id, job_id=job_id))
    assert not cancellations.has(message(run=3, batch_id=batch_id, job_id=job_id))


def test_only_what_is_new_is_told(cancellations: Cancellations) -> None:
    told: list[None] = []
    cancellations.on_new(lambda: told.append(None))
    job, batch = uuid.uuid4(), uuid.uuid4()
    orders = [
        Cancellation(job_id=job, run=2),
        Cancellation(job_id=job, run=2),
        Cancellation(job_id=job, run=1),
        Cancellation(batch_id=batch),
        Cancellation(batch_id=batch),
        Cancellation(marker=uuid.uuid4()),
    ]
    counts = []
    for order in orders:
        cancellations.take(order.encode())
        counts.append(len(told))

    assert counts == [1, 1, 1, 2, 2, 2]


def test_what_comes_through_the_exchange_of_marks_is_no_order(cancellations: Cancellations) -> None:
    job_id = uuid.uuid4()
    order = Cancellation(job_id=job_id, run=1).encode()

    cancellations.take(order, MARKS)
    before = cancellations.has(message(job_id=job_id, run=1))
    cancellations.take(order, DEFAULT)

    assert (before, cancellations.has(message(job_id=job_id, run=1))) == (False, True)


class Loop:
    """A publisher whose messages come back on the stream: the first attempts fail."""

    def __init__(self, stream: Cancellations | CurrentPauses, *, failures: int = 0, losses: int = 0) -> None:
        self.published: list[Outgoing] = []
        self.may_come_back = asyncio.Event()
        self._stream = stream
        self._failures = failures
        self._losses = losses

    async def publish(self, message: Outgoing) -> None:
        self.published.append(message)
        if len(self.published) <= self._failures:
            raise BrokerUnavailable("away")
        if len(self.published) <= self._losses:
            return
        asyncio.get_running_loop().create_task(self._come_back(message))

    async def _come_back(self, message: Outgoing) -> None:
        await self.may_come_back.wait()
        self._stream.take(message.body)


@pytest.mark.parametrize("stream_type", [Cancellations, CurrentPauses])
async def test_a_worker_has_caught_up_when_its_own_barrier_was_read_and_no_other(
    stream_type: type[Cancellations | CurrentPauses],
) -> None:
    stream, other = (stream_type("amqp://nowhere/", name="test") for _ in range(2))
    loop, others_loop = Loop(stream), Loop(other)
    async with asyncio.timeout(5):
        others_loop.may_come_back.set()
        await other.catch_up(others_loop)  # type: ignore[arg-type]
        catching_up = asyncio.create_task(stream.catch_up(loop))  # type: ignore[arg-type]
        stream.take(others_loop.published[0].body)
        while not loop.published:
            await asyncio.sleep(0)
        assert not stream.is_caught_up

        loop.may_come_back.set()
        await catching_up

    assert stream.is_caught_up


async def test_a_barrier_is_published_again_until_a_broker_takes_it(
    cancellations: Cancellations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_streams, "_BARRIER_AGAIN_SECONDS", 0.0)
    loop = Loop(cancellations, failures=2)
    loop.may_come_back.set()

    async with asyncio.timeout(5):
        await cancellations.catch_up(loop)  # type: ignore[arg-type]

    # A login of before may not use the exchange of marks, or nobody has declared it.
    assert [message.exchange for message in loop.published] == [MARKS, DEFAULT, MARKS]
    assert cancellations.is_caught_up


async def test_a_barrier_that_was_lost_with_its_stream_is_published_again(
    cancellations: Cancellations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_streams, "_BARRIER_SECONDS", 0.01)
    loop = Loop(cancellations, losses=2)
    loop.may_come_back.set()

    async with asyncio.timeout(5):
        await cancellations.catch_up(loop)  # type: ignore[arg-type]

    assert (len(loop.published) >= 3, cancellations.is_caught_up) == (True, True)


@pytest.mark.parametrize(
    ("stream_type", "event"),
    [(Cancellations, "cancellation_undecodable"), (CurrentPauses, "pauses_undecodable")],
)
def test_an_order_that_cannot_be_read_is_logged_and_passed_over(
    stream_type: type[Cancellations | CurrentPauses], event: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream_type("amqp://nowhere/", name="test").take(b"{")

    assert [record.getMessage() for record in caplog.records] == [event]
