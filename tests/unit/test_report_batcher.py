"""Reports that travel together: what is one message, and who is told what became of it."""

import asyncio
from collections.abc import Sequence

import pytest

from consumer import report_batcher
from consumer.report_batcher import ReportBatcher
from shared.broker.bundle import NDJSON, bodies_of
from shared.broker.outgoing import Outgoing
from shared.broker.topology import RESULTS
from shared.errors import BrokerError, BrokerUnavailable, MessageRefused
from shared.messages import REPORT_TYPE, REPORTS_TYPE


class FakePublisher:
    """Confirms each message, or fails as it is told to, when it is let to."""

    def __init__(self, *errors: BrokerError | None) -> None:
        self.published: list[Outgoing] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._errors = list(errors)

    def begin(self, message: Outgoing) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._publish(message))

    async def _publish(self, message: Outgoing) -> None:
        self.published.append(message)
        error = self._errors.pop(0) if self._errors else None
        await self.may_answer.wait()
        if error is not None:
            raise error


def report(number: int = 1, *, key: str = "check.bulk.succeeded", size: int = 10) -> Outgoing:
    return Outgoing(RESULTS, key, b"%d" % number + b" " * size, REPORT_TYPE, f"job-{number}")


def batcher(publisher: FakePublisher) -> ReportBatcher:
    return ReportBatcher(publisher)  # type: ignore[arg-type]


async def publish_all(publisher: FakePublisher, reports: Sequence[Outgoing]) -> None:
    batching = batcher(publisher)
    await asyncio.gather(*(batching.publish(each) for each in reports))


async def test_a_report_alone_travels_as_it_is() -> None:
    publisher, alone = FakePublisher(), report()
    await publish_all(publisher, [alone])

    assert publisher.published == [alone]


async def test_reports_of_one_moment_are_one_message_in_their_order() -> None:
    publisher, reports = FakePublisher(), [report(number) for number in range(5)]
    await publish_all(publisher, reports)

    [message] = publisher.published
    assert bodies_of(message.body) == [each.body for each in reports]
    assert (message.exchange, message.routing_key) == (RESULTS, "check.bulk.succeeded")
    assert (message.type, message.content_type, message.job_id) == (REPORTS_TYPE, NDJSON, "")


async def test_reports_with_other_routing_keys_are_other_messages() -> None:
    publisher = FakePublisher()
    keys = ["check.bulk.succeeded", "check.bulk.cancelled", "check.bulk.succeeded"]
    await publish_all(publisher, [report(number, key=key) for number, key in enumerate(keys)])

    assert {each.routing_key: len(bodies_of(each.body)) for each in publisher.published} == {
        "check.bulk.succeeded": 2,
        "check.bulk.cancelled": 1,
    }


async def test_a_message_is_no_larger_than_it_may_be_and_one_report_always_goes() -> None:
    publisher, limit = FakePublisher(), report_batcher.MESSAGE_BYTES
    sizes = [limit // 2, limit // 2 - 100, 10, 2 * limit, 10]
    await publish_all(publisher, [report(number, size=size) for number, size in enumerate(sizes)])

    assert [len(bodies_of(each.body)) for each in publisher.published] == [3, 1, 1]


async def test_nobody_is_told_before_the_broker_has_the_message() -> None:
    publisher = FakePublisher()
    publisher.may_answer.clear()
    batching = batcher(publisher)
    answers = [batching.publish(report(number)) for number in range(3)]
    while not publisher.published:
        await asyncio.sleep(0.001)
    assert not any(answer.done() for answer in answers)

    publisher.may_answer.set()
    await asyncio.gather(*answers)


async def test_what_a_message_fails_with_is_told_to_everybody_whose_report_it_carried() -> None:
    batching = batcher(FakePublisher(MessageRefused("full"), BrokerUnavailable("away"), None))
    answers = [batching.publish(report(key=key)) for key in ("a.b.c", "a.b.c", "d.e.f", "g.h.i")]

    outcomes = await asyncio.gather(*answers, return_exceptions=True)

    assert [type(each) for each in outcomes] == [
        MessageRefused,
        MessageRefused,
        BrokerUnavailable,
        type(None),
    ]


async def test_who_has_stopped_waiting_keeps_nobody_else_from_being_told() -> None:
    publisher = FakePublisher()
    publisher.may_answer.clear()
    batching = batcher(publisher)
    gone, stays = batching.publish(report(1)), batching.publish(report(2))
    gone.cancel()
    publisher.may_answer.set()

    with pytest.raises(asyncio.CancelledError):
        await gone
    await stays
