"""Reading streams from a real broker: from the start, again after each loss, also one made anew."""

import asyncio
from collections.abc import Iterator

import pytest
from aio_pika import Message

from consumer.control_streams import Cancellations
from deploy.local.broker import Broker
from shared.broker.connection import connected, underlay_of
from shared.broker.connection import open_channel as open_channel_of
from shared.broker.delivery import gather_acks
from shared.broker.fast.patches import patch_libraries
from shared.broker.outgoing import Outgoing
from shared.broker.stream import StreamReader, _Read, _Subscription
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, declare_topology
from shared.events import Cancellation
from shared.identity import new_id
from shared.kinds.registry import KINDS, Lane
from shared.messages import JobMessage
from shared.settings import Settings
from tests.support.amqp import open_channel, running, running_publisher
from tests.support.broker_node import end_consuming_channels
from tests.support.management import Management
from tests.support.raw_amqp import RawPublisher
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
        acks = gather_acks(await underlay_of(channel))
        subscription = _Subscription(
            channel, acks, lambda body, _: taken.append(body), expected=None, last=None
        )
        await channel.close()

        await subscription.receive(received)
        await acks.wait_sent()

    assert taken == [b"1"]


async def test_a_subscription_that_ends_while_messages_come_costs_no_connection(vhost_url: str) -> None:
    reader = StreamReader(vhost_url, name=NAME, stream=CANCELLED_STREAM, take=lambda *_: None)
    async with running_publisher(vhost_url) as publisher:
        # Several times the prefetch limit, so that they come, and are acked, the whole time.
        await asyncio.gather(*(publisher.publish(message("x")) for _ in range(3_000)))
        async with connected(vhost_url, name=NAME) as connection:
            for _ in range(5):
                # As one does that expects a message of another stream.
                subscription = await reader._subscribe(connection, _Read(0, b"another"))
                assert not await subscription.is_proved()
                await subscription.end()

                # The answer shows that the broker minded nothing that came before.
                await (await open_channel_of(connection)).declare_queue(CANCELLED_STREAM, passive=True)


@pytest.fixture
def fast_way() -> Iterator[None]:
    """Read frames ourselves: aiormq ends its connection when it cannot decode the headers of a message."""
    patch_libraries(plain=False)
    yield
    patch_libraries(plain=Settings().amqp_plain)


@pytest.mark.usefixtures("fast_way")
async def test_a_message_whose_headers_hide_its_place_makes_nobody_read_the_stream_again(
    vhost_url: str,
) -> None:
    bodies: asyncio.Queue[bytes] = asyncio.Queue()
    reader = StreamReader(
        vhost_url,
        name=NAME,
        stream=CANCELLED_STREAM,
        take=lambda body, _: bodies.put_nowait(body),
        renew_seconds=0.2,
    )
    async with running_publisher(vhost_url) as publisher:
        for text in ("1", "2"):
            await publisher.publish(message(text))
        with RawPublisher(vhost_url) as raw:
            # A place of its own, and a time that is none.
            for headers in (_header("x-stream-offset", b"l" + bytes(8)), _header("a", b"T" + b"\xff" * 8)):
                await asyncio.to_thread(raw.publish, b"", CANCELLED_STREAM.encode(), b"odd", headers)
        async with asyncio.timeout(60), running(reader.run()):
            assert await take(bodies, 4) == [b"1", b"2", b"odd", b"odd"]
            # Several subscriptions, each of which begins at the last message that is a place.
            assert await take(bodies, 3) == [b"odd"] * 3

            assert reader.is_well
            await publisher.publish(message("3"))
            while (body := (await take(bodies, 1))[0]) == b"odd":
                pass
            assert body == b"3"


def _header(name: str, value: bytes) -> bytes:
    """Return properties of a message that has one header and nothing else."""
    entry = bytes((len(name),)) + name.encode() + value
    return b"\x20\x00" + len(entry).to_bytes(4) + entry
