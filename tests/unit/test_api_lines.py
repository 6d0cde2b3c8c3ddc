"""Lines cut from chunks, and read one by one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.api.batch_lines import MAX_RECORD_BYTES, Line, LineReader, LineSplitter, json_lines, url_lines
from producer.batch_validation import Arguments
from producer.records import Rejected


def split(chunks: list[bytes], *, max_line_bytes: int = 8) -> list[tuple[int, bytes | None]]:
    splitter = LineSplitter(max_line_bytes)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.finish())


def read(reader: LineReader, *chunks: bytes) -> list[Line]:
    return [said for chunk in chunks for said in reader.feed(chunk)] + list(reader.finish())


@given(
    body=st.binary(max_size=60).map(lambda body: body.replace(b"\x00", b"\n")),
    cuts=st.lists(st.integers(0, 60)),
)
def test_lines_do_not_depend_on_where_the_body_was_cut(body: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]

    assert split(chunks) == split([body])


def test_a_line_that_is_too_long_is_dropped_while_it_arrives() -> None:
    splitter = LineSplitter(8)

    for _ in range(1_000):
        assert list(splitter.feed(b"x" * 8)) == []
        assert len(splitter._rest) <= 8

    assert list(splitter.feed(b"\nok\n")) == [(1, None), (2, b"ok")]


def test_blanks_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_line() -> None:
    assert split([b"\xef\xbb\xbfa\r\n\t b \n\n"]) == [(1, b"a"), (2, b"b"), (3, b"")]


def test_urls_are_read_in_their_order_and_blank_lines_are_none() -> None:
    said = read(url_lines(), b"http://a.example\n\nhttp://b.", b"example\n\xff")

    assert said == [
        Arguments(1, "/lines/1", {"url": "http://a.example"}),
        Arguments(3, "/lines/3", {"url": "http://b.example"}),
        Rejected(4, "/lines/4", "It is not UTF-8"),
    ]


def test_objects_are_read_one_a_line() -> None:
    said = read(
        json_lines(), b'{"url": "http://a/"}\r\n\n  {"url"', b': "http://b/", "timeout_seconds": 2.5}'
    )

    assert said == [
        Arguments(1, "/lines/1", {"url": "http://a/"}),
        Arguments(3, "/lines/3", {"url": "http://b/", "timeout_seconds": 2.5}),
    ]


@pytest.mark.parametrize(
    "line", [b"secret", b'{"secret": ', b'"\\ud800"', b"\xff", b"[NaN]", b"{}" * 2, b"[" * 5_000]
)
def test_a_line_that_is_not_json_is_named_and_not_repeated(line: bytes) -> None:
    good, bad = read(json_lines(), b"{}\n" + line)

    assert isinstance(good, Arguments) and isinstance(bad, Rejected)
    assert (bad.number, bad.loc) == (2, "/lines/2")
    assert bad.msg.startswith("The line is not JSON") and "secret" not in bad.msg


def test_a_line_of_json_has_a_limit() -> None:
    (bad,) = read(json_lines(), b'{"url": "' + b"a" * MAX_RECORD_BYTES, b'"}\n')

    assert isinstance(bad, Rejected) and "65,536 bytes" in bad.msg
