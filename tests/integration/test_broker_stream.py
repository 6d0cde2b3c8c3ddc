"""Reading streams from a real broker: from the start, again after each loss, also one made anew."""

import asyncio

from aio_pika import Message

from consumer.control_streams import Cancellations
from deploy.local.broker import Broker
from shared.broker.outgoing import Outgoing
from shared.broker.stream import StreamReader, _Subscription
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, declare_topology
from shared.events import Cancellation
from shared.identity import new_id
from shared.kinds.registry import KINDS, Lane
from shared.messages import JobMessage
from tests.support.amqp import open_channel, running, running_publisher
from tests.support.broker_node import end_consuming_channels
from tests.support.management import Management
from tests.support.waiting import eventually

NAME = "test reader"


def message(text: str) -> Outgoing:
    return Outgoing(DEFAULT, CANCELLED_STREAM, text.encode(), "cancellation")


async def take(bodies: "asyncio.Queue[bytes]", count: int) -> list[bytes]:
    """Return the next messages, with a deadline."""
    async with asyncio.timeout(30):
        return [await bodies.get() for _ in range(count)]


async def test_a_stream_is_read_from_its_start_again_after_a_lost_connection(
    vhost_url: str, management: Management, vhost: str
) -> None:
    bodies: asyncio.Queue[bytes] = asyncio.Queue()
    reader = StreamReader(
        vhost_url, name=NAME, stream=CANCELLED_STREAM, take=lambda body, _: bodies.put_nowait(body)
    )
    async with running_publisher(vhost_url) as publisher:
        await publisher.publish(message("1"))
        async with running(reader.run()):
            assert await take(bodies, 1) == [b"1"]
            await eventually(lambda: management.close_connections(vhost, name=NAME))
            await publisher.publish(message("2"))

            assert await take(bodies, 2) == [b"1", b"2"]


async def test_the_first_message_of_a_stream_that_was_made_anew_is_not_skipped(vhost_url: str) -> None:
    bodies: asyncio.Queue[bytes] = asyncio.Queue()
    reader = StreamReader(
        vhost_url, name=NAME, stream=CANCELLED_STREAM, take=lambda body, _: bodies.put_nowait(body)
    )
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        for text in ("1", "2", "3"):
            await publisher.publish(message(text))
        async with running(reader.run()):
            assert await take(bodies, 3) == [b"1", b"2", b"3"]

            # As a broker that was replaced by an empty one.
            await channel.queue_delete(CANCELLED_STREAM)
            await declare_topology(channel, KINDS)
            await publisher.publish(message("new"))

            assert await take(bodies, 1) == [b"new"]


async def test_what_is_published_after_a_channel_ended_in_silence_is_heard(
    vhost_url: str, broker: Broker, vhost: str
) -> None:
    cancellations = Cancellations(vhost_url, name=NAME)
    cancellations._reader._renew_seconds = 1.0
    before, meanwhile = (JobMessage(id=new_id(), kind="check", lane=Lane.BULK, args={}) for _ in range(2))
    async with running_publisher(vhost_url) as publisher, running(cancellations.run()):

        async def cancel(job: JobMessage) -> None:
            body = Cancellation(job_id=job.id, run=1).encode()
            await publisher.publish(Outgoing(DEFAULT, CANCELLED_STREAM, body, "cancellation"))

            async def is_heard() -> bool:
                return cancellations.has(job)

            await eventually(is_heard, deadline_seconds=60)

        await cancel(before)
        await asyncio.to_thread(end_consuming_channels, broker, vhost)

        await cancel(meanwhile)


async def test_a_quiet_reader_proves_that_it_hears_and_reads_nothing_again(vhost_url: str) -> None:
    bodies: asyncio.Queue[bytes] = asyncio.Queue()
    reader = StreamReader(
        vhost_url,
        name=NAME,
        stream=CANCELLED_STREAM,
        take=lambda body, _: bodies.put_nowait(body),
        renew_seconds=0.2,
    )
    assert not reader.is_well
    async with running_publisher(vhost_url) as publisher:
        for text in ("1", "2"):
            await publisher.publish(message(text))
        async with running(reader.run()):
            assert await take(bodies, 2) == [b"1", b"2"]
            # Long enough for several subscriptions; each proves itself by the message that was read last.
            heard_at = reader._heard_at

            async def was_renewed() -> bool:
                return reader._heard_at > heard_at + 5 * 0.2

            await eventually(was_renewed)
            assert reader.is_well
            await publisher.publish(message("3"))

            assert await take(bodies, 1) == [b"3"]
        assert bodies.empty()


async def test_a_message_whose_channel_ended_before_its_ack_is_taken_and_no_error(vhost_url: str) -> None:
    taken: list[bytes] = []
    async with open_channel(vhost_url) as channel:
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(Message(b"1"), queue.name)
        received = await queue.get()
        subscription = _Subscription(channel, lambda body, _: taken.append(body), expected=None, last=None)
        await channel.close()

        await subscription.receive(received)

    assert (taken, subscription.lost.is_set()) == ([b"1"], True)
