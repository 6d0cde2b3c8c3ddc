"""Traps of RabbitMQ and its Python client that no other test steps into; all are in docs/reliability.md."""

import asyncio
import logging

import pytest

from deploy.local.broker import Broker
from shared.broker.delivery import Delivery
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.subscriber import Subscriber, Subscription
from shared.broker.topology import JOBS, declare_topology, delay_queue, stored_key, work_queue
from shared.errors import BrokerUnavailable
from shared.kinds.registry import KINDS, Lane
from tests.support.amqp import open_channel, running, running_publisher
from tests.support.management import Management
from tests.support.waiting import eventually

_JOB = Outgoing(JOBS, stored_key("check", Lane.BULK), b"{}", "job", "job-1")
_QUEUE = work_queue("check", Lane.BULK)


async def test_a_publisher_that_an_alarm_blocks_is_told_in_time_and_acks_go_on(
    own_broker: Broker, management: Management, vhost: str, vhost_url: str
) -> None:
    deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = Subscriber(
        vhost_url, name="test", subscriptions=[Subscription(_QUEUE, 10, deliveries.put_nowait)]
    )
    async with running_publisher(vhost_url, timeout_seconds=1.0) as publisher, running(consumer.run()):
        await publisher.publish(_JOB)
        in_hand = await deliveries.get()
        await asyncio.to_thread(own_broker.control, "set_vm_memory_high_watermark", "0")
        try:
            # aiormq knows that the broker has blocked it, and would wait for ever.
            with pytest.raises(BrokerUnavailable):
                await publisher.publish(_JOB)

            # On a connection that has never published, so it is not blocked.
            async with asyncio.timeout(5):
                in_hand.ack()
                await consumer.flush()

            async def is_acked() -> bool:
                return management.queue(vhost, _QUEUE).get("messages_unacknowledged") == 0

            await eventually(is_acked)
        finally:
            await asyncio.to_thread(own_broker.control, "set_vm_memory_high_watermark", "0.6")

        async def can_publish() -> bool:
            try:
                await publisher.publish(_JOB)
            except BrokerUnavailable:
                return False
            return True

        await eventually(can_publish)


async def test_a_queue_declared_otherwise_is_named_and_waited_for_and_holds_up_no_other_connection(
    new_vhost_url: str, new_vhost: str, management: Management, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = delay_queue(5)
    async with open_channel(new_vhost_url) as channel:
        await channel.declare_queue(
            wrong, durable=True, arguments={"x-queue-type": "quorum", "x-message-ttl": 7_000}
        )
        await channel.declare_queue(_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
    consumer = Subscriber(
        new_vhost_url, name="test", subscriptions=[Subscription(_QUEUE, 10, deliveries.put_nowait)]
    )
    publisher = Publisher(
        new_vhost_url,
        name="test",
        timeout_seconds=5,
        prepare=lambda channel: declare_topology(channel, KINDS),
    )
    caplog.set_level(logging.WARNING, "shared.broker.connection")

    async with running(consumer.run()), running(publisher.run()):

        async def is_named() -> bool:
            return any(wrong in str(getattr(record, "error", "")) for record in caplog.records)

        async def is_consuming() -> bool:
            return consumer.is_consuming

        await eventually(is_consuming)
        management.delete_queue(new_vhost, _QUEUE)
        await eventually(is_named)
        assert not publisher.is_ready

        management.delete_queue(new_vhost, wrong)
        async with asyncio.timeout(20):
            await publisher.wait_ready()
        await eventually(is_consuming)
