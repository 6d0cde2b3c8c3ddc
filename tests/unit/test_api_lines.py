"""Lines cut from chunks, and read one by one."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producer.api.batch_lines import Line, LineReader, json_lines, url_lines
from producer.api.batch_splitting import MAX_RECORD_BYTES, LineSplitter
from producer.batch_validation import Arguments
from producer.records import Rejected
from shared.errors import JobInvalid


def split(chunks: list[bytes], *, max_line_bytes: int = 8) -> list[tuple[int, bytes | None]]:
    splitter = LineSplitter(max_line_bytes)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.finish())


def read(reader: LineReader, *chunks: bytes) -> list[Line]:
    return [said for chunk in chunks for said in reader.feed(chunk)] + list(reader.finish())


@given(
    body=st.binary(max_size=60).map(lambda body: body.replace(b"\x00", b"\n").replace(b"\x01", b"\r")),
    cuts=st.lists(st.integers(0, 60)),
)
@example(body="\ufeffa\r\nb\r😀".encode("utf-16-le"), cuts=[1, 3, 7, 13])
@example(body=b"\x1f\x8b\n", cuts=[1])
def test_lines_do_not_depend_on_where_the_body_was_cut(body: bytes, cuts: list[int]) -> None:
    def attempt(chunks: list[bytes]) -> object:
        try:
            return split(chunks)
        except JobInvalid as error:
            return str(error)

    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]

    assert attempt(chunks) == attempt([body])


def test_a_line_that_is_too_long_is_dropped_while_it_arrives() -> None:
    splitter = LineSplitter(8)

    for _ in range(1_000):
        assert list(splitter.feed(b"x" * 8)) == []
        assert len(splitter._rest) <= 8

    assert list(splitter.feed(b"\nok\n")) == [(1, None), (2, b"ok")]


def test_blanks_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_line() -> None:
    assert split([b"\xef\xbb\xbfa\r\n\t b \n\n"]) == [(1, b"a"), (2, b"b"), (3, b"")]


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 100])
def test_a_line_ends_with_cr_or_lf_or_both(cut: int) -> None:
    body = b"a\rb\nc\r\nd\n\re\r\rf\r"

    lines = split([body[at : at + cut] for at in range(0, len(body), cut)])

    assert lines == [
        (1, b"a"),
        (2, b"b"),
        (3, b"c"),
        (4, b"d"),
        (5, b""),
        (6, b"e"),
        (7, b""),
        (8, b"f"),
    ]


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n"], ids=["CR", "LF", "CRLF"])
def test_a_line_that_is_too_long_ends_where_it_ends(ending: bytes) -> None:
    body = b"x" * 8 + ending + b"x" * 9 + ending + b"ok" + ending

    for cut in range(1, len(body)):
        assert split([body[:cut], body[cut:]]) == [(1, b"x" * 8), (2, None), (3, b"ok")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_read_by_its_byte_order_mark_however_it_is_cut(encoding: str) -> None:
    body = ("\ufeff" * (encoding != "utf-16") + "http://ä/\r\nhttp://😀/").encode(encoding)

    for cut in range(1, 8):
        chunks = [body[at : at + cut] for at in range(0, len(body), cut)]
        lines = split(chunks, max_line_bytes=50)

        assert lines == [(1, "http://ä/".encode()), (2, "http://😀/".encode())]


def test_half_a_character_of_utf_16_spoils_its_own_line_alone() -> None:
    body = "\ufeffhttp://a/\nhttp://\ud800/\nhttp://c/\n".encode("utf-16-le", "surrogatepass")

    good, bad, other, cut_off = read(url_lines(), body + b"x")

    assert isinstance(good, Arguments) and isinstance(other, Arguments)
    assert isinstance(bad, Rejected) and bad.number == 2 and "not UTF-8" in bad.msg
    assert isinstance(cut_off, Rejected) and cut_off.number == 4


@pytest.mark.parametrize(
    ("body", "msg"),
    [
        ("http://a/\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("http://a/\n".encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (b"PK\x03\x04...", "an Excel workbook; save the table as CSV"),
        (b"\xd0\xcf\x11\xe0...", "an Excel workbook; save the table as CSV"),
        (b"\x1f\x8b\x08...", "compressed with gzip"),
        (b"%PDF-1.7", "a PDF"),
        (
            b'<?xml version="1.0"?>\n<urlset><url><loc>http://a/</loc></url></urlset>',
            "XML or HTML. Taken are",
        ),
        (b"\n<!DOCTYPE html>\n", "XML or HTML. Taken are"),
        (b"# export\nurl,title\nhttp://a/,Home\n", "the header of a table; send the table as text/csv"),
        (b'"Title";"Link"\n"Home";"http://a/"\n', "the header of a table; send the table as text/csv"),
    ],
)
def test_a_body_that_is_no_list_is_refused_as_a_whole(body: bytes, msg: str) -> None:
    for size in (1, len(body)):
        with pytest.raises(JobInvalid, match=msg):
            read(url_lines(), *(body[at : at + size] for at in range(0, len(body), size)))


def test_comments_and_the_name_of_the_column_are_no_urls() -> None:
    said = read(url_lines(), b"# our pages\n\nURL\nhttp://a/\n  # more\n- <http://b/>,\n")

    assert [(each.number, each.document) for each in said if isinstance(each, Arguments)] == [
        (4, {"url": "http://a/"}),
        (6, {"url": "http://b/"}),
    ]
    assert len(said) == 2


def test_a_line_that_is_refused_keeps_the_beginning_of_its_text() -> None:
    (bad,) = read(url_lines(), b"http://a/1 http://a/2\n")

    assert bad == Rejected(
        1,
        "/lines/1",
        "There is more than one URL; each needs a line of its own",
        given="http://a/1 http://a/2",
    )


def test_urls_are_read_in_their_order_and_blank_lines_are_none() -> None:
    said = read(url_lines(), b"http://a.example\n\nhttp://b.", b"example\na\xff")

    assert said == [
        Arguments(1, "/lines/1", {"url": "http://a.example"}, b"http://a.example"),
        Arguments(3, "/lines/3", {"url": "http://b.example"}, b"http://b.example"),
        Rejected(
            4,
            "/lines/4",
            "It is not UTF-8: byte 2 of it is 0xFF; save it as UTF-8",
            given="a\N{REPLACEMENT CHARACTER}",
        ),
    ]


def test_objects_are_read_one_a_line() -> None:
    said = read(
        json_lines(), b'{"url": "http://a/"}\r\n\n  {"url"', b': "http://b/", "timeout_seconds": 2.5}'
    )

    assert [(each.number, each.document) for each in said if isinstance(each, Arguments)] == [
        (1, {"url": "http://a/"}),
        (3, {"url": "http://b/", "timeout_seconds": 2.5}),
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
