"""Stuck dead letters of a real broker, seen through its management API."""

import math
from collections.abc import AsyncIterator

import aiohttp
import pytest
from pydantic import SecretStr

from deploy.local.broker import Broker
from producer.ledger.dead_letters import STUCK_AFTER_SECONDS, DeadLetterWatch
from producer.ledger.metrics import LedgerMetrics
from shared.broker.outgoing import Outgoing
from shared.broker.topology import DELAY, RETURN
from shared.settings import Settings
from tests.support.amqp import open_channel, running, running_publisher
from tests.support.waiting import eventually


class Watch:
    """A watch with a clock of its own and what it shows."""

    def __init__(self, *, amqp_url: str, management_url: str) -> None:
        self.seconds = 0.0
        self.metrics = LedgerMetrics()
        settings = Settings(amqp_url=amqp_url, management_url=SecretStr(management_url))
        self._watch = DeadLetterWatch(
            metrics=self.metrics,
            settings=settings,
            clock=lambda: self.seconds,
        )

    async def look(self, session: aiohttp.ClientSession) -> None:
        await self._watch.look(session)

    async def run(self) -> None:
        await self._watch.run()

    def messages(self, queue: str, state: str) -> float | None:
        labels = {"queue": queue, "state": state}
        return self.metrics.registry.get_sample_value("retriever_queue_messages", labels)

    @property
    def stuck(self) -> float:
        value = self.metrics.registry.get_sample_value("retriever_dead_letters_stuck")
        assert value is not None
        return value


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a client."""
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_dead_letters_that_find_no_way_are_shown_as_stuck_and_named_once(
    broker: Broker, vhost_url: str, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(amqp_url=vhost_url, management_url=str(broker.management_url))
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        await channel.exchange_delete(RETURN)
        for key in ("check.bulk.1s", "check.bulk.1s", "check.bulk.86400s"):
            await publisher.publish(Outgoing(DELAY, key, b"{}", "job"))

        async def both_are_on_their_way() -> bool:
            await watch.look(session)
            return watch.messages("jobs.delay.00001s", "dead_lettering") == 2

        await eventually(both_are_on_their_way, deadline_seconds=30)
    at_first = watch.stuck
    watch.seconds += STUCK_AFTER_SECONDS
    await watch.look(session)
    await watch.look(session)

    assert (at_first, watch.stuck) == (0, 2)
    told = [vars(record) for record in caplog.records if record.message == "dead_letters_stuck"]
    assert [each["messages_by_queue"] for each in told] == [{"jobs.delay.00001s": 2}]
    assert watch.messages("jobs.delay.00001s", "ready") == 0
    assert watch.messages("jobs.delay.86400s", "ready") == 1
    assert watch.messages("jobs.delay.86400s", "dead_lettering") == 0


async def test_an_api_that_does_not_answer_shows_nothing_and_its_password_nowhere(
    vhost_url: str,
    unused_port: int,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"http://retriever:hunter2@127.0.0.1:{unused_port}"
    watch = Watch(amqp_url=vhost_url, management_url=address)
    watch.metrics.queue_messages.labels("jobs.delay.00001s", "ready").set(7)

    await watch.look(session)

    assert math.isnan(watch.stuck) and watch.messages("jobs.delay.00001s", "ready") is None
    assert [record.message for record in caplog.records] == ["management_unavailable"]
    assert "hunter2" not in "".join(str(vars(record)) for record in caplog.records)


async def test_a_ledger_that_leads_no_more_shows_nothing(broker: Broker, vhost_url: str) -> None:
    watch = Watch(amqp_url=vhost_url, management_url=str(broker.management_url))

    async with running_publisher(vhost_url), running(watch.run()):

        async def is_shown() -> bool:
            return not math.isnan(watch.stuck)

        await eventually(is_shown)

    assert math.isnan(watch.stuck) and watch.messages("jobs.parked", "ready") is None
