"""Answers are read alike however they are cut into segments, and mended or refused as browsers do it."""

import asyncio
import time
from collections.abc import Callable

import pytest
from aiohttp import ClientPayloadError
from aiohttp.http import HttpProcessingError

from consumer.http.answers import (
    HEADER_BYTES,
    HEADER_FIELDS,
    INTERIM_ANSWERS,
    MAX_MENDED_BYTES,
    READ_BUFFER_BYTES,
    AnswerProtocol,
    Fault,
    TooLarge,
)

Cut = Callable[[bytes], list[bytes]]
CUTS: dict[str, Cut] = {
    "whole": lambda octets: [octets],
    "bytes": lambda octets: [octets[at : at + 1] for at in range(len(octets))],
    "lines": lambda octets: octets.splitlines(keepends=True),
    "sevens": lambda octets: [octets[at : at + 7] for at in range(0, len(octets), 7)],
}


class Connection:
    """A connection without a network: what it reads, and whether it is closed."""

    def __init__(self, *, is_head: bool = False) -> None:
        self.is_closed = False
        self.protocol = AnswerProtocol(asyncio.get_running_loop())
        self.protocol.connection_made(Transport(self))
        self.expect(is_head=is_head)

    def expect(self, *, is_head: bool = False) -> None:
        self.protocol.set_response_params(
            skip_payload=is_head,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADER_FIELDS,
        )

    def feed(self, *segments: bytes) -> None:
        for segment in segments:
            if not self.is_closed:
                self.protocol.data_received(segment)

    def end(self) -> None:
        self.protocol.connection_lost(None)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        while True:
            message, body = await asyncio.wait_for(self.protocol.read(), 1)
            if message.code >= 200:
                read = await asyncio.wait_for(body.read(), 1)
                return message.code, dict(message.headers), read


class Transport(asyncio.Transport):
    """As much of a transport as the protocol uses."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def is_closing(self) -> bool:
        return self._connection.is_closed

    def close(self) -> None:
        self._connection.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    ("head", "fields"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", {}),
        ("HTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: 2\r\n", {"Server": "x"}),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer\t : x\r\n", {"Server": "x"}),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n", {}),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n", {}),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\nContent-Length : 2\r\n", {}),
        ("HTTP/1.1 200 OK\r\nContent-Length: 002\r\nContent-Length: 2\r\n", {}),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: identity\r\n", {}),
        ("HTTP/1.1 200 OK\r\r\nServer: x\r\r\nContent-Length: 2\r\n", {"Server": "x"}),
        ("HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n", {"X": "a b"}),
        ("HTTP/1.1 200 OK\nX : a\n b\nContent-Length: 2\n", {"X": "a b"}),
        ("HTTP/1.1 200 OK\r\nno field\r\n: x\r\nX Y: z\r\nContent-Length: 2\r\n", {}),
        ("HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n", {}),
        ("http/1.1 200 OK\r\nContent-Length: 2\r\n", {}),
        ("HTTP/1.1  200\tOK\r\nContent-Length: 2\r\n", {}),
        ("HTTP/1.2 200 OK\r\nContent-Length: 2\r\n", {}),
        ("HTTP/2 200\r\nContent-Length: 2\r\n", {}),
        ("\r\n\r\nHTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: 2\r\n", {"Server": "x"}),
        (
            "HTTP/1.1 103 Hints\r\nLink : <a>\r\n\r\nHTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: 2\r\n",
            {"Server": "x"},
        ),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"and more", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
async def test_a_complete_answer_counts(cut: Cut, head: str, fields: dict[str, str], behind: bytes) -> None:
    connection = Connection()

    connection.feed(*cut(head.encode() + b"\r\nok" + behind))
    status, headers, body = await connection.answer()

    assert (status, headers, body) == (200, {**fields, "Content-Length": "2"}, b"ok")
    assert connection.is_closed is bool(behind)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("length", ["Content-Length: 5\r\n", ""])
async def test_a_coding_goes_before_a_length(cut: Cut, length: str) -> None:
    connection = Connection()
    head = f"HTTP/1.1 200 OK\r\n{length}Transfer-Encoding: chunked\r\n{length}\r\n"

    connection.feed(*cut(head.encode() + b"2\r\nok\r\n0\r\n\r\nmore"))

    assert await connection.answer() == (200, {"Transfer-Encoding": "chunked"}, b"ok")
    assert connection.is_closed


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(("status", "is_head"), [(200, True), (404, True), (204, False), (304, False)])
@pytest.mark.parametrize("body", [b"ok", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n", b"2\r\nok\r\n0\r\n\r\n"])
async def test_what_has_no_body_ends_with_its_head(cut: Cut, status: int, is_head: bool, body: bytes) -> None:
    connection = Connection(is_head=is_head)

    connection.feed(*cut(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n".encode() + body))

    assert await connection.answer() == (status, {"Content-Length": "2"}, b"")
    # aiohttp passes over empty lines in the same segment; they are no answer to anything.
    assert connection.is_closed or body == b"\r\n"


async def test_what_comes_when_nothing_was_asked_costs_the_connection() -> None:
    connection = Connection()
    connection.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await connection.answer()

    connection.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    assert connection.is_closed
    assert len(connection.protocol) == 0


async def test_one_connection_gives_one_answer_after_the_other() -> None:
    connection = Connection()
    for body in (b"1", b"2", b"3"):
        connection.feed(b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n" + body)
        assert (await connection.answer())[2] == body
        connection.expect()

    assert not connection.is_closed


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    "trailer", [b"", b"junk\r\n\r\n", b"X : y\r\n\r\n", b"Content-Length: 2\r\n\r\n", b"X: " + b"a" * 40_000]
)
async def test_the_last_chunk_completes_a_body_whatever_follows(cut: Cut, trailer: bytes) -> None:
    connection = Connection()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.feed(*cut(head + b"2\r\nok\r\n0\r\n" + trailer))

    connection.end()

    assert (await connection.answer())[2] == b"ok"


@pytest.mark.parametrize(
    "body", [b"", b"2", b"2\r\n", b"2\r\no", b"2\r\nok", b"2\r\nok\r\n", b"4\r\nok", b"2\r\nok\r\n0"]
)
async def test_a_chunked_body_without_its_last_chunk_is_not_complete(body: bytes) -> None:
    connection = Connection()
    connection.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    connection.end()

    with pytest.raises(ClientPayloadError):
        await connection.answer()


async def test_two_bytes_that_are_missing_are_not_made_up() -> None:
    connection = Connection()
    connection.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")

    connection.end()

    with pytest.raises(ClientPayloadError):
        await connection.answer()


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "Status line, byte 1 (0x53): Expected HTTP/"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "Status line, byte 1 (0x15): Expected HTTP/"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "Status line: the status is below 100"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "Status line, byte 13 (0x30): Invalid response status"),
        (
            b"HTTP/1.1 200 OK\r\nA: b\r\nX: a\x00b\r\n\r\n",
            "Header field 2, byte 5 (0x00): Invalid HTTP header",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "Header field 1, byte 18 (0x2c): Invalid character in Content-Length",
        ),
        (
            b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: -1\r\n\r\nok",
            "Header field 2, byte 17 (0x2d): Invalid character in Content-Length",
        ),
        (
            b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHello\r\n",
            "Status line, byte 2 (0x65): Expected HTTP/",
        ),
    ],
)
async def test_what_is_no_http_is_refused_and_located(cut: Cut, octets: bytes, fault: str) -> None:
    connection = Connection()

    connection.feed(*cut(octets))
    if not connection.is_closed:
        connection.end()

    with pytest.raises(HttpProcessingError) as caught:
        await connection.answer()
    assert connection.is_closed
    assert isinstance(caught.value.message, Fault)
    assert caught.value.message == fault


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (b"X: " + b"a" * 40_000 + b"\r\n", "a line of more than 32,768 bytes"),
        (b"X: y\r\n" * 300, "more than 256 fields"),
        ((b"X: " + b"a" * 30_000 + b"\r\n") * 10, "more than 262,144 bytes"),
    ],
    ids=["line", "fields", "bytes"],
)
async def test_a_head_beyond_our_limits_is_refused_and_located(head: bytes, fault: str) -> None:
    connection = Connection()

    connection.feed(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")

    with pytest.raises(HttpProcessingError) as caught:
        await connection.answer()
    assert caught.value.message == fault
    assert isinstance(caught.value.message, TooLarge)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_some_interim_answers_come_before_one_and_more_are_refused(cut: Cut) -> None:
    hints = b"HTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    few, many = Connection(), Connection()

    few.feed(*cut(hints * INTERIM_ANSWERS + answer))
    many.feed(*cut(hints * (INTERIM_ANSWERS + 1) + answer))

    assert (await few.answer())[2] == b"ok"
    with pytest.raises(HttpProcessingError) as caught:
        await many.answer()
    assert caught.value.message == "more than 10 interim answers (1xx) before it"
    assert many.is_closed


async def test_of_endless_interim_answers_next_to_nothing_is_parsed() -> None:
    connection = Connection()
    flood = b"HTTP/1.1 103 Hints\r\n\r\n" * 10_000

    began = time.process_time()
    connection.feed(*[flood] * 20)

    # The first piece of the first segment takes some milliseconds, all of them took 20 seconds.
    assert time.process_time() - began < 1
    assert connection.is_closed


async def test_a_head_may_come_with_the_beginning_of_a_long_body_in_one_segment() -> None:
    connection = Connection()
    field = b"X-%d: " + b"a" * 3_000 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(field % number for number in range(12))
    body = bytes(range(256)) * 400

    connection.feed(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    status, fields, read = await connection.answer()

    assert (status, len(fields), read) == (200, 13, body)


@pytest.mark.parametrize("piece", [b"a", b"a\n", b"a" * 1_000])
async def test_a_head_that_never_becomes_one_is_given_up(piece: bytes) -> None:
    connection = Connection()
    connection.feed(b"HTTP/1.1 200 OK\r\nServer : x\r\n")

    for _ in range(0, 2 * MAX_MENDED_BYTES, len(piece)):
        connection.feed(piece)

    with pytest.raises(HttpProcessingError) as caught:
        await connection.answer()
    assert caught.value.message == "Header field 1, byte 7 (0x20): Invalid header token"


@pytest.mark.parametrize("cut", [CUTS["whole"], CUTS["sevens"]], ids=["whole", "sevens"])
async def test_a_chunk_that_is_none_is_an_error_of_the_body(cut: Cut) -> None:
    connection = Connection()
    octets = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nok\r\n"

    connection.feed(*cut(octets))
    connection.end()

    with pytest.raises(ClientPayloadError) as caught:
        await connection.answer()
    assert caught.value.args == (Fault("Body, after 5 bytes: Invalid character in chunk size"),)


async def test_a_long_body_may_be_paused_and_what_is_behind_it_is_dropped() -> None:
    connection = Connection()
    body = bytes(range(256)) * 2_000
    head = f"HTTP/1.1 200 OK\r\nServer : x\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    connection.feed(head + body + b"more")
    _, _, read = await connection.answer()

    assert read == body
    assert connection.is_closed
