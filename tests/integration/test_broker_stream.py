"""Reading streams from a real broker: from the start, again after each loss, also one made anew."""

import asyncio

from shared.broker.outgoing import Outgoing
from shared.broker.stream import StreamReader
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, declare_topology
from shared.kinds.registry import KINDS
from tests.support.amqp import open_channel, running, running_publisher
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
    reader = StreamReader(vhost_url, name=NAME, stream=CANCELLED_STREAM, take=bodies.put_nowait)
    async with running_publisher(vhost_url) as publisher:
        await publisher.publish(message("1"))
        async with running(reader.run()):
            assert await take(bodies, 1) == [b"1"]
            await eventually(lambda: management.close_connections(vhost, name=NAME))
            await publisher.publish(message("2"))

            assert await take(bodies, 2) == [b"1", b"2"]


async def test_the_first_message_of_a_stream_that_was_made_anew_is_not_skipped(vhost_url: str) -> None:
    bodies: asyncio.Queue[bytes] = asyncio.Queue()
    reader = StreamReader(vhost_url, name=NAME, stream=CANCELLED_STREAM, take=bodies.put_nowait)
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
