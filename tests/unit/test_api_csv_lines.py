"""CSV cut from chunks into records, and records read under their header."""

import csv
import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.api.batch_lines import Column, CsvReader, Line, open_reader
from producer.api.batch_splitting import MAX_RECORD_BYTES, RecordSplitter
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
        (
            b"secret,1,2,3",
            "/lines/2",
            "The record has 4 cells, the header 3; a cell that holds a delimiter stands in quotes",
        ),
        (b'"secret"x,1,2', "/lines/2", "The record is not CSV (RFC 4180): ',' expected after '\"'"),
        (b"caf\xe9,1,2", "/lines/2", "It is not UTF-8: byte 4 of it is 0xE9; save it as UTF-8"),
        (
            b'"http://a/1\thttp://a/2",1,2',
            "/lines/2/url",
            "There is more than one URL; each needs a line of its own",
        ),
        (b"a" * MAX_RECORD_BYTES + b",1,2", "/lines/2", "The record is longer than 65,536 bytes"),
    ],
)
def test_a_wrong_record_is_named_and_does_not_sink_the_next(record: bytes, loc: str, msg: str) -> None:
    bad, good = read(b"url,timeout_seconds,max_redirects\n" + record + b"\nhttp://b/,1,2\n")

    assert isinstance(bad, Rejected)
    assert (bad.number, bad.loc, bad.msg) == (2, loc, msg)
    assert isinstance(good, Arguments) and good.number == 3


@pytest.mark.parametrize(
    ("header", "msg"),
    [
        (
            b"secret",
            "No column of the header is named url, uri, link, href, address, loc; the arguments of check",
        ),
        (b"http://user:secret@a/", "The first line must name the columns, such as url,title; it has a URL."),
        (b"url,method,url", "Columns 1 and 3 of the header are both url"),
        (b"url,timeout_second", "Column 2 of the header is no argument; did you mean timeout_seconds?"),
        (
            b'<?xml version="1.0"?>',
            "It looks like XML or HTML. Taken are one URL a line (text/plain), a table",
        ),
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


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("delimiter", [b",", b";", b"\t", b"|"], ids=["comma", "semicolon", "tab", "bar"])
def test_a_table_is_read_whatever_ends_its_lines_and_cells(ending: bytes, delimiter: bytes) -> None:
    rows = [
        [b"title", b"URL", b"timeout_seconds"],
        [b'"A, B; C"', b"http://a/", b"5"],
        [b"", b"", b""],
        [b'"x' + ending + b'"" y"', b'"http://b/"', b""],
        [b"", b"http://c/", b"7"],
    ]
    body = ending.join(delimiter.join(row) for row in rows)
    body = body.replace(delimiter * 2 + ending, ending)

    for size in (1, 7, len(body)):
        said = read(*(body[at : at + size] for at in range(0, len(body), size)))

        assert [each.document for each in said if isinstance(each, Arguments)] == [
            {"url": "http://a/", "timeout_seconds": 5},
            {"url": "http://b/"},
            {"url": "http://c/", "timeout_seconds": 7},
        ]
        assert [each.number for each in said] == [2, 4, 6]


def test_a_table_that_is_called_one_of_tabs_may_have_commas() -> None:
    reader = open_reader("text/tab-separated-values", KINDS["check"], {})

    (said,) = [*reader.feed(b"url,title\nhttp://a/,x\n"), *reader.finish()]

    assert isinstance(said, Arguments) and said.document == {"url": "http://a/"}


def test_excel_may_name_the_delimiter_before_the_header() -> None:
    assert documents(b"sep=;\r\nurl;ref\r\nhttp://a/?x=1,2;row 1\r\n") == [
        {"url": "http://a/?x=1,2", "ref": "row 1"}
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_a_spreadsheet_is_read_by_its_byte_order_mark(encoding: str) -> None:
    body = "url\ttitle\r\nhttp://ä/\tÄ\r\n".encode(encoding)

    assert documents(*(body[at : at + 1] for at in range(len(body)))) == [{"url": "http://ä/"}]


@pytest.mark.parametrize("header", ["url", "URL", "Link", "Address", "loc", "HREF", "uri", '" Url "'])
def test_the_column_of_urls_has_many_names(header: str) -> None:
    body = f"Title,{header},Status Code,\nthe page,<http://a/>,200,\n".encode()

    assert documents(body) == [{"url": "http://a/"}]


def test_the_surest_name_of_a_column_of_urls_wins() -> None:
    assert documents(b"loc,link,url,URL\n1,2,http://a/,4\n") == [{"url": "http://a/"}]
    assert documents(b"loc,Link\n1,http://a/\n") == [{"url": "http://a/"}]


def test_a_column_called_title_is_a_switch_or_the_title_of_the_page() -> None:
    body = b"url,title\nhttp://a/,Home\nhttp://b/,TRUE\nhttp://c/,2024\nhttp://d/,\n"

    assert documents(body) == [
        {"url": "http://a/"},
        {"url": "http://b/", "title": True},
        {"url": "http://c/"},
        {"url": "http://d/"},
    ]


def test_the_ref_of_a_record_is_text() -> None:
    assert documents(b"Ref,url\n007,http://a/\n") == [{"ref": "007", "url": "http://a/"}]


def test_empty_cells_beyond_the_header_are_none() -> None:
    assert documents(b"url,title\nhttp://a/,x,,\n") == [{"url": "http://a/"}]


def test_urls_may_come_from_the_defaults() -> None:
    reader = CsvReader(KINDS["check"], needs_url=False)

    (said,) = [*reader.feed(b"timeout_seconds\n5\n"), *reader.finish()]

    assert isinstance(said, Arguments) and said.document == {"timeout_seconds": 5}


def test_a_rejected_record_keeps_the_beginning_of_its_text() -> None:
    long = b"http://b/" + b"x" * 300

    first, second = read(b'url,title\n"http://a/1\nhttp://a/2",x\n' + long + b",x,\0,y\n")

    assert isinstance(first, Rejected) and isinstance(second, Rejected)
    assert first.given == '"http://a/1\nhttp://a/2",x'
    assert second.given is not None and len(second.given) == 201 and second.given.endswith("x…")
