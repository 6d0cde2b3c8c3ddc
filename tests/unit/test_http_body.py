"""Expanding bodies."""

import gzip
import zlib

import brotli
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from consumer.http.body import _expander, content_codings
from consumer.http.failures import Failure, unsupported_encoding

TEXT = b"All is well. " * 1_000


def codings(*fields: str) -> list[str]:
    headers = CIMultiDict([("Content-Encoding", field) for field in fields])
    return content_codings(CIMultiDictProxy(headers))


def _expand(raw: bytes, coding: str, *, chunk_bytes: int, max_bytes: int = 1_000_000) -> tuple[bytes, bool]:
    expander = _expander(codings(coding))
    assert not isinstance(expander, Failure)
    content = b""
    for at in range(0, len(raw), chunk_bytes):
        expander.feed(raw[at : at + chunk_bytes])
        while len(content) < max_bytes and (piece := expander.take(max_bytes - len(content))) is not None:
            content += piece
    return content, expander.is_complete


def _raw_deflate(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush()


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("coding", "raw"),
    [
        ("", TEXT),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("X-GZIP", gzip.compress(TEXT, mtime=0)),
        ("gzip", gzip.compress(TEXT[:500], mtime=0) + gzip.compress(TEXT[500:], mtime=0)),
        ("gzip", gzip.compress(TEXT, mtime=0) + b"\0" * 50),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", _raw_deflate(TEXT)),
        ("br", brotli.compress(TEXT)),
    ],
)
def test_a_body_is_expanded_however_it_is_cut(coding: str, raw: bytes, chunk_bytes: int) -> None:
    assert _expand(raw, coding, chunk_bytes=chunk_bytes) == (TEXT, True)


@pytest.mark.parametrize("piece_bytes", [1, 2, 64, 1_000, 4_096])
@pytest.mark.parametrize("chunk_bytes", [1, 13, 100_000])
@pytest.mark.parametrize("coding", ["gzip", "br", ""])
def test_a_body_is_the_same_however_little_is_taken_at_once(
    coding: str, chunk_bytes: int, piece_bytes: int
) -> None:
    content = b"".join(bytes([number % 251]) * (number % 97) for number in range(300)) + bytes(9_000)
    halves = gzip.compress(content[:5_000], mtime=0) + gzip.compress(content[5_000:], mtime=0)
    raw = {"gzip": halves, "br": brotli.compress(content), "": content}[coding]
    expander = _expander(codings(coding))
    assert not isinstance(expander, Failure)

    taken = b""
    for at in range(0, len(raw), chunk_bytes):
        expander.feed(raw[at : at + chunk_bytes])
        while (piece := expander.take(piece_bytes)) is not None:
            assert len(piece) <= piece_bytes
            taken += piece

    assert taken == content
    assert expander.is_complete


def test_of_members_that_expand_to_nothing_few_are_read_at_once() -> None:
    expander = _expander(codings("gzip"))
    assert not isinstance(expander, Failure)
    expander.feed(gzip.compress(b"", mtime=0) * 1_000)

    steps = 0
    while (piece := expander.take(100)) is not None:
        assert piece == b""
        steps += 1

    assert steps == 2
    assert expander.is_complete


@pytest.mark.parametrize("missing_bytes", [1, 8, 10, 30])
@pytest.mark.parametrize("chunk_bytes", [1, 100_000])
def test_a_truncated_gzip_stream_is_not_complete(missing_bytes: int, chunk_bytes: int) -> None:
    _, is_complete = _expand(gzip.compress(TEXT)[:-missing_bytes], "gzip", chunk_bytes=chunk_bytes)

    assert not is_complete


@pytest.mark.parametrize("missing_bytes", [1, 8, 10, 30])
@pytest.mark.parametrize("chunk_bytes", [1, 100_000])
def test_a_truncated_brotli_stream_is_not_complete(missing_bytes: int, chunk_bytes: int) -> None:
    _, is_complete = _expand(brotli.compress(TEXT)[:-missing_bytes], "br", chunk_bytes=chunk_bytes)

    assert not is_complete


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_an_empty_body_is_complete_whatever_it_claims_to_be(coding: str) -> None:
    expander = _expander(codings(coding))

    assert not isinstance(expander, Failure) and expander.is_complete


@pytest.mark.parametrize("max_bytes", [1, 1_000, 100_000])
@pytest.mark.parametrize(
    ("coding", "bomb"),
    [("gzip", gzip.compress(bytes(10_000_000), 1)), ("br", brotli.compress(bytes(10_000_000), quality=1))],
    ids=["gzip", "br"],
)
def test_a_bomb_expands_no_further_than_asked(coding: str, bomb: bytes, max_bytes: int) -> None:
    content, _ = _expand(bomb, coding, chunk_bytes=100_000, max_bytes=max_bytes)

    assert len(content) == max_bytes


def test_what_comes_behind_the_end_of_brotli_is_an_error() -> None:
    with pytest.raises(brotli.error):
        _expand(brotli.compress(TEXT) + b"more", "br", chunk_bytes=100_000)


def test_a_damaged_stream_is_an_error() -> None:
    raw = bytearray(gzip.compress(TEXT))
    raw[-6] ^= 0xFF

    with pytest.raises(zlib.error):
        _expand(bytes(raw), "gzip", chunk_bytes=100_000)


@pytest.mark.parametrize(
    ("coding", "named"),
    [
        ("zstd", "zstd"),
        ("gzip, gzip", "gzip, gzip"),
        ("br, GZIP", "br, gzip"),
        ("x-compress", "x-compress"),
        ("none, zstd", "zstd"),
    ],
)
def test_a_coding_that_we_know_and_did_not_ask_for_is_refused_by_name(coding: str, named: str) -> None:
    refused = _expander(codings(coding))

    assert refused == unsupported_encoding(named.split(", "))
    assert f"Content-Encoding is {named}, which" in refused.explanation


@pytest.mark.parametrize(
    ("fields", "found"),
    [(["none", "gzip"], ["gzip"]), (["gzip", "gzip"], ["gzip"]), (["gzip", "br"], ["gzip", "br"]), ([], [])],
)
def test_codings_of_several_fields_are_one_list_and_the_same_field_is_one(
    fields: list[str], found: list[str]
) -> None:
    assert codings(*fields) == found


@pytest.mark.parametrize(
    "coding",
    ["", "identity", "none", "None", "UTF-8", "aws-chunked", "binary", "8bit", "rot13", "none, , utf-8"],
)
def test_what_is_no_coding_leaves_the_body_as_it_is(coding: str) -> None:
    assert _expand(TEXT, coding, chunk_bytes=7) == (TEXT, True)


@pytest.mark.parametrize(
    "coding", ["gzip, none", "aws-chunked,gzip", "utf-8, x-gzip", "gzip,", '"gzip"', "gzip;q=1"]
)
def test_what_is_no_coding_does_not_hide_one_that_is(coding: str) -> None:
    assert _expand(gzip.compress(TEXT), coding, chunk_bytes=7) == (TEXT, True)
