"""CSV cut from chunks into records, and records read under their header."""

import csv
import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.api.batch_lines import MAX_RECORD_BYTES, Column, CsvReader, Line, RecordSplitter
from producer.batch_validation import Arguments
from producer.records import Rejected
from shared.errors import JobInvalid
from shared.kinds.registry import KINDS

Records = list[tuple[int, bytes | None]]
CELL = st.text(alphabet='a", \n\r', max_size=6)


def split(chunks: list[bytes], *, max_record_bytes: int = MAX_RECORD_BYTES) -> Records:
    splitter = RecordSplitter(max_record_bytes)
    return [record for chunk in chunks for record in splitter.feed(chunk)] + list(splitter.finish())


def read(*chunks: bytes, kind: str = "check") -> list[Line]:
    reader = CsvReader(KINDS[kind])
    return [said for chunk in chunks for said in reader.feed(chunk)] + list(reader.finish())


def documents(*chunks: bytes, kind: str = "check") -> list[object]:
    return [said.document for said in read(*chunks, kind=kind) if isinstance(said, Arguments)]


@given(rows=st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=5), cuts=st.lists(st.integers(0, 200)))
def test_records_are_those_of_the_csv_module_wherever_the_body_was_cut(
    rows: list[list[str]], cuts: list[int]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    body = text.getvalue().encode()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    records = split([body[start:end] for start, end in pairwise(edges)])

    assert [next(csv.reader([record.decode()], strict=True)) for _, record in records if record] == rows


@given(body=st.text(alphabet='a",\n', max_size=40), cut=st.integers(0, 40))
def test_what_is_no_csv_is_cut_the_same_way_at_any_place(body: str, cut: int) -> None:
    def attempt(*chunks: str) -> Records | str:
        try:
            return split([chunk.encode() for chunk in chunks])
        except JobInvalid as error:
            return str(error)

    assert attempt(body[:cut], body[cut:]) == attempt(body)


def test_a_record_that_is_too_long_is_followed_to_its_end_and_dropped() -> None:
    splitter = RecordSplitter(16)
    seen = list(splitter.feed(b'a\n"'))
    for _ in range(1_000):
        seen += splitter.feed(b'x ""\n,')
        assert sum(map(len, splitter._parts)) <= 16

    seen += [*splitter.feed(b'"\nb\n'), *splitter.finish()]

    assert seen == [(1, b"a"), (2, None), (1_003, b"b")]


def test_cells_are_read_as_the_arguments_of_the_kind_are_typed() -> None:
    body = (
        b"\xef\xbb\xbfurl, extract ,max_bytes,timeout_seconds\r\n"
        b'http://a/,"[0].""v"",\n5",10,2.5\r\n'
        b"\r\n"
        b"http://b/,7,,\r\n"
    )

    assert documents(body, kind="fetch") == [
        {"url": "http://a/", "extract": '[0]."v",\n5', "max_bytes": 10, "timeout_seconds": 2.5},
        {"url": "http://b/", "extract": "7"},
    ]


def test_a_record_is_numbered_by_the_line_that_it_begins_in() -> None:
    said = read(b'url,method\n"a\nb\nc",GET\nhttp://d/,GET\n')

    assert [each.number for each in said] == [2, 5]


@pytest.mark.parametrize(
    ("record", "loc", "msg"),
    [
        (b"http://a/,secret,", "/lines/2/timeout_seconds", "Must be a number such as 2.5"),
        (b"http://a/,,1.5.5", "/lines/2/max_redirects", "Must be a whole number"),
        (b"secret", "/lines/2", "The record has 1 cells, the header 3"),
        (b"secret,1,2,3", "/lines/2", "The record has 4 cells, the header 3"),
        (b'"secret"x,1,2', "/lines/2", "The record is not CSV (RFC 4180)"),
        (b"a\rb,1,2", "/lines/2", "The record is not CSV (RFC 4180)"),
        (b"\xff,1,2", "/lines/2", "It is not UTF-8"),
        (b"a" * MAX_RECORD_BYTES + b",1,2", "/lines/2", "The record is longer than 65,536 bytes"),
    ],
)
def test_a_wrong_record_is_named_and_does_not_sink_the_next(record: bytes, loc: str, msg: str) -> None:
    bad, good = read(b"url,timeout_seconds,max_redirects\n" + record + b"\nhttp://b/,1,2\n")

    assert bad == Rejected(2, loc, msg)
    assert isinstance(good, Arguments) and good.number == 3


@pytest.mark.parametrize(
    ("header", "msg"),
    [
        (b"url,secret", "Column 2 of the header is no argument of check; there are: url, "),
        (b"http://user:secret@a/", "Column 1 of the header is no argument of check"),
        (b"url,method,url", "Columns 1 and 3 of the header are both url"),
        (b"url,", "Column 2 of the header is no argument"),
        (b'"url"x', "not CSV"),
        (b"\xff", "not UTF-8"),
        (b"u" * 100_000, "longer than"),
    ],
)
def test_a_wrong_header_is_told_by_its_columns_without_repeating_it(header: bytes, msg: str) -> None:
    with pytest.raises(JobInvalid) as caught:
        read(header + b"\nhttp://a/\n")

    assert caught.value.errors[0].loc == "/lines/1"
    assert msg in str(caught.value) and "secret" not in str(caught.value)


def test_a_quoted_cell_that_is_never_closed_is_no_end_of_a_batch() -> None:
    with pytest.raises(JobInvalid, match="/lines/3: A quoted cell of it is never closed"):
        read(b'url\nhttp://a/\n"http://b/\nhttp://c/\n')


def test_a_quote_within_a_plain_cell_opens_nothing() -> None:
    assert documents(b'url\nhttp://a/?q="x\nhttp://b/\n') == [{"url": 'http://a/?q="x'}, {"url": "http://b/"}]


def test_booleans_and_lists_are_read_as_json() -> None:
    assert Column("x", frozenset({"boolean"})).read("TRUE", at="") is True
    assert Column("x", frozenset({"array", "null"})).read('["a", 1]', at="") == ["a", 1]
    assert Column("x", frozenset({"string", "null"})).read("null", at="") == "null"
