"""A walk of `jobs.parked` gets around whatever strangers wrote on messages, and makes none of it worse."""

import asyncio
import struct
from collections.abc import Sequence

import pytest

from shared.broker.parked_queue import Choice, walk_parked, writable_headers
from shared.broker.topology import PARKED_QUEUE
from tests.support.amqp import get_message, message_count, open_channel, running_publisher
from tests.support.raw_amqp import RawPublisher

WORK_QUEUE = "jobs.check.bulk"


def long(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def short(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


def with_headers(**fields: bytes) -> bytes:
    """Return properties of a message that has headers and nothing else."""
    return b"\x20\x00" + long(b"".join(short(name.encode()) + value for name, value in fields.items()))


def nested(depth: int) -> bytes:
    """Return a table in a table in a table."""
    value = b"V"
    for _ in range(depth):
        value = b"F" + long(short(b"a") + value)
    return value


@pytest.mark.parametrize(
    "properties",
    [
        with_headers(a=b"S" + long(b"\xff")),
        with_headers(a=b"A" + long(b"S" + long(b"\xff"))),
        with_headers(a=b"d" + struct.pack(">d", 1e308)),
        with_headers(a=b"D\xff" + struct.pack(">i", -7)),
        with_headers(a=b"T" + struct.pack(">Q", 2**40)),
        with_headers(a=b"S" + long(b"x" * 131_000)),
        with_headers(a=nested(400)),
        with_headers(a=nested(5_000)),
    ],
    ids=["bytes", "bytes in a list", "double", "decimal", "time", "large", "deep", "deeper"],
)
async def test_a_walk_gets_around_headers_that_cannot_be_written_again(
    vhost_url: str, properties: bytes
) -> None:
    async with running_publisher(vhost_url), open_channel(vhost_url) as channel:
        with RawPublisher(vhost_url) as publisher:
            for body, noted in ((b"before", b"\0\0"), (b"odd", properties), (b"after", b"\0\0")):
                await asyncio.to_thread(publisher.publish, b"", PARKED_QUEUE.encode(), body, noted)

        for _ in range(2):
            walk = await walk_parked(vhost_url, choose=keep_all)
            assert (walk.seen, walk.removed, walk.complete) == (3, 0, True)

        assert [(await get_message(channel, PARKED_QUEUE)).body for _ in range(3)] == [
            b"before",
            b"odd",
            b"after",
        ]


@pytest.mark.parametrize("name", ["CC", "BCC"])
async def test_a_message_that_is_put_back_goes_to_no_other_queue(vhost_url: str, name: str) -> None:
    async with running_publisher(vhost_url), open_channel(vhost_url) as channel:
        with RawPublisher(vhost_url) as publisher:
            noted = with_headers(**{name: b"A" + long(b"S" + long(WORK_QUEUE.encode()))})
            await asyncio.to_thread(publisher.publish, b"", PARKED_QUEUE.encode(), b"x", noted)
        # As the publisher wanted it.
        await get_message(channel, WORK_QUEUE)

        await walk_parked(vhost_url, choose=keep_all)

        await get_message(channel, PARKED_QUEUE)
        assert await message_count(channel, WORK_QUEUE) == 0


def test_why_a_message_is_parked_comes_before_what_a_stranger_noted() -> None:
    noted = {f"a{number}": "x" * 30_000 for number in range(3)}
    said = {"x-retriever-reason": "body: it is no JSON", "x-death": [{"queue": "jobs.check.bulk"}]}

    kept = writable_headers({**noted, **said})

    assert said.items() <= kept.items()
    assert len(kept) == len(said) + 2


async def keep_all(_: Sequence[bytes]) -> Choice:
    return Choice(frozenset())
