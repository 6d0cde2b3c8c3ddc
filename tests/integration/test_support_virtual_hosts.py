"""The virtual hosts of the tests: one that is used again holds nothing of the test before."""

import asyncio

from deploy.local.broker import Broker
from shared.broker.outgoing import Outgoing
from shared.broker.topology import (
    CANCELLED_STREAM,
    DEFAULT,
    DELAY,
    JOBS,
    RECORDER_QUEUE,
    RETURN,
    delay_queue,
    stored_key,
    work_queue,
)
from shared.kinds.registry import Lane
from tests.support.amqp import message_count, open_channel, running_publisher
from tests.support.management import Management
from tests.support.virtual_hosts import VirtualHosts

_QUEUES = (work_queue("check", Lane.BULK), delay_queue(60), RECORDER_QUEUE)


async def test_a_virtual_host_is_used_again_when_it_is_empty_and_unaltered(
    broker: Broker, management: Management
) -> None:
    hosts = VirtualHosts(broker.amqp_url, management)
    name = hosts.take()
    async with running_publisher(hosts.url(name)) as publisher:
        await publisher.publish(Outgoing(JOBS, stored_key("check", Lane.BULK), b"{}", "job"))
        await publisher.publish(Outgoing(DELAY, "check.bulk.60s", b"{}", "job"))
        await publisher.publish(Outgoing(DEFAULT, CANCELLED_STREAM, b"{}", "cancellation"))

    await asyncio.to_thread(hosts.give_back, name)

    assert await asyncio.to_thread(hosts.take) == name
    async with open_channel(hosts.url(name)) as channel:
        assert [await message_count(channel, queue) for queue in _QUEUES] == [0, 0, 0]
        await channel.exchange_delete(RETURN)
    await asyncio.to_thread(hosts.give_back, name)
    another = hosts.take()
    assert another != name
    hosts.delete(another)
