"""The frames that are written by hand are those of pamqp, and those read by hand are read like pamqp's."""

import asyncio
import struct
from itertools import pairwise

import pamqp.frame
import pytest
from aiormq.abc import ChannelFrame
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from shared.broker.bundle import NDJSON
from shared.broker.fast.frames import FrameReader, FrameWriter, LazyHeader
from shared.broker.outgoing import Outgoing, properties_of
from shared.broker.parked_queue import writable_headers

SHORT = st.text(max_size=60)
MESSAGES = st.builds(
    Outgoing,
    exchange=st.from_regex(r"[a-z.-]{1,20}", fullmatch=True),
    routing_key=SHORT,
    body=st.binary(max_size=300),
    type=st.text(min_size=1, max_size=20),
    job_id=SHORT,
    headers=st.dictionaries(st.text(min_size=1, max_size=20), st.integers(0, 1_000) | SHORT, max_size=3),
    content_type=st.sampled_from(["application/json", NDJSON]),
    message_id=st.none() | st.text(min_size=1, max_size=40),
)


def frames_of(message: Outgoing, message_id: str, *, max_content_bytes: int) -> list[object]:
    """Return the frames of a message as pamqp knows them."""
    body = message.body
    parts = [body[at : at + max_content_bytes] for at in range(0, len(body), max_content_bytes)]
    return [
        Basic.Publish(
            exchange=message.exchange, routing_key=message.routing_key, mandatory=message.is_mandatory
        ),
        ContentHeader(body_size=len(body), properties=properties_of(message, message_id)),
        *map(ContentBody, parts),
    ]


@given(message=MESSAGES, channel=st.integers(1, 65_535), max_content_bytes=st.integers(1, 200))
def test_a_message_is_written_as_pamqp_would_or_means_the_same(
    message: Outgoing, channel: int, max_content_bytes: int
) -> None:
    written = FrameWriter(channel, max_content_bytes).publish(message, "message-1")

    expected = frames_of(message, "message-1", max_content_bytes=max_content_bytes)
    if message.headers or not message.job_id:
        assert written == ChannelFrame.marshall(channel, expected).payload  # type: ignore[arg-type]
    else:
        # Without the table of headers that pamqp writes also when there are none in it.
        expected[1] = ContentHeader(
            body_size=len(message.body), properties=without_headers(properties_of(message, "message-1"))
        )
        assert written == ChannelFrame.marshall(channel, expected).payload  # type: ignore[arg-type]


def without_headers(properties: Basic.Properties) -> Basic.Properties:
    """Return properties that say nothing of headers."""
    properties.headers = None
    return properties


def test_a_routing_key_that_is_too_long_is_refused_and_not_cut() -> None:
    with pytest.raises(ValueError, match="255"):
        FrameWriter(1, 100).publish(Outgoing("jobs", "é" * 128, b"", "job", "job-1"), "m")


def stream(data: bytes, *, pieces: list[int]) -> asyncio.StreamReader:
    """Return a reader that gets data in pieces, cut at these places, and then ends."""
    reader = asyncio.StreamReader()
    places = sorted({0, *(at % (len(data) + 1) for at in pieces), len(data)})
    for start, end in pairwise(places):
        reader.feed_data(data[start:end])
    reader.feed_eof()
    return reader


@given(messages=st.lists(MESSAGES, max_size=4), pieces=st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_are_cut_out_of_what_arrives_however_it_is_divided(
    messages: list[Outgoing], pieces: list[int]
) -> None:
    frames = [frame for each in messages for frame in frames_of(each, "m", max_content_bytes=100)]
    frames += [
        Basic.Deliver("consumer", number, again, each.exchange, each.routing_key)
        for number, each in enumerate(messages, start=2**40)
        for again in (False, True)
    ]
    frames.append(Heartbeat())
    data = b"".join(pamqp.frame.marshal(frame, 7) for frame in frames)  # type: ignore[arg-type]

    async def read() -> list[tuple[int, object]]:
        reader = FrameReader(stream(data, pieces=pieces))
        found = [await reader.get_frame() for _ in frames]
        with pytest.raises(AMQPConnectionError):
            await reader.get_frame()
        return [(channel, frame) for _, channel, frame in found]

    for (channel, found), sent in zip(asyncio.run(read()), frames, strict=True):
        # A heartbeat is of the connection.
        assert channel == (0 if isinstance(sent, Heartbeat) else 7)
        assert described(found) == described(sent)


def described(frame: object) -> object:
    """Return what two frames that are the same have in common."""
    if isinstance(frame, ContentHeader):
        return frame.body_size, dict(frame.properties)
    if isinstance(frame, ContentBody):
        return frame.value
    if isinstance(frame, Basic.Deliver | Basic.Publish):
        return frame.name, dict(frame)
    return type(frame)


async def test_properties_that_nobody_can_decode_are_none_and_hold_up_no_message() -> None:
    header = ContentHeader(
        body_size=2, properties=Basic.Properties(correlation_id="abcd", message_type="job")
    )
    broken = pamqp.frame.marshal(header, 7).replace(b"abcd", b"\xff\xfe\xfd\xfc")

    _, _, found = await FrameReader(stream(broken, pieces=[])).get_frame()

    assert found.body_size == 2
    assert (found.properties.correlation_id, found.properties.message_type) == (None, None)


@pytest.mark.parametrize(
    ("octets", "read"),
    [
        (b"check.bulk.\xff", "check.bulk.?"),
        (b"check.bulk.\xc3", "check.bulk.?"),
        (b"\xed\xa0\x80" * 85, "?" * 255),
        ("\N{REPLACEMENT CHARACTER}é".encode(), "\N{REPLACEMENT CHARACTER}é"),
    ],
)
async def test_a_routing_key_that_is_no_text_holds_up_no_message(octets: bytes, read: str) -> None:
    written = pamqp.frame.marshal(Basic.Deliver("c", 2, False, "jobs", "x" * len(octets)), 7)

    frame = written.replace(b"x" * len(octets), octets)
    _, _, found = await FrameReader(stream(frame, pieces=[])).get_frame()

    assert (found.routing_key, found.exchange, found.delivery_tag) == (read, "jobs", 2)
    # A message that is put aside goes out under the same key.
    FrameWriter(1, 100).publish(Outgoing("jobs.dead", found.routing_key, b"", "raw", ""), "m")


async def test_what_is_no_frame_ends_the_connection() -> None:
    broken = pamqp.frame.marshal(Basic.Ack(1), 7)[:-1] + b"\0"

    with pytest.raises(InvalidFrameError):
        await FrameReader(stream(broken, pieces=[])).get_frame()


def long(octets: bytes) -> bytes:
    return len(octets).to_bytes(4) + octets


def nested(depth: int, *, as_list: bool = False) -> bytes:
    """Return a table, or a list, in another in another."""
    value = b"V"
    for _ in range(depth):
        value = b"A" + long(value) if as_list else b"F" + long(b"\x01a" + value)
    return value


@pytest.mark.parametrize("as_list", [False, True], ids=["tables", "lists"])
@pytest.mark.parametrize("depth", [100, 300, 500, 1_000, 5_000, 12_000])
def test_headers_of_any_depth_are_read_or_count_as_none(depth: int, as_list: bool) -> None:
    table = long(b"\x01a" + nested(depth, as_list=as_list))
    header = LazyHeader(struct.pack(">HHQ", 60, 0, 2) + b"\x20\x00" + table)

    headers = header.properties.headers

    assert headers is None or headers.keys() == {"a"}
    # What can be read can be written, or is left out of a copy.
    assert writable_headers(headers or {}).keys() <= {"a"}


@pytest.mark.parametrize(("octets", "is_read"), [(60_000, True), (70_000, False), (130_000, False)])
def test_headers_that_would_take_long_to_read_count_as_none(octets: int, is_read: bool) -> None:
    # Each value of a list costs a copy of all that follow.
    table = long(b"\x01a" + b"A" + long(b"V" * octets))
    header = LazyHeader(struct.pack(">HHQ", 60, 0, 2) + b"\x20\x00" + table)

    assert bool(header.properties.headers) is is_read
