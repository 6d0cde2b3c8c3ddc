"""JSON as hosts send it: which charset it is in, which numbers it has, and where it is none."""

import json
from typing import Any

import pytest

from consumer.compute.answers import Flaw
from consumer.compute.json_body import JsonBody, read_json_body


def said(body: bytes, label: str | None = None) -> str:
    failure = read_json_body(body, label)
    assert isinstance(failure, Flaw)
    assert (failure.reason, failure.is_limit) == ("not_json", False)
    return failure.explanation.removeprefix("The body is not JSON: ")


@pytest.mark.parametrize(
    "number",
    [2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**25, 10**4_299, -(2**63), -(2**63) - 1, -(10**19), -1],
)
def test_whole_numbers_are_read_exactly(number: int) -> None:
    assert read_json_body(f'{{"a": [{number}, 1.5]}}'.encode(), None) == JsonBody({"a": [number, 1.5]})
    assert read_json_body(str(number).encode(), None) == JsonBody(number)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5_000])
def test_a_number_beyond_doubles_does_not_make_the_rest_unreadable(number: str) -> None:
    read = read_json_body(f'{{"big": {number}, "id": 18446744073709551617}}'.encode(), None)

    assert isinstance(read, JsonBody)
    assert read.document["id"] == 18446744073709551617
    assert abs(read.document["big"]) == float("inf")


@pytest.mark.parametrize("label", [None, "utf-8", "iso-8859-1", "windows-1252", "shift_jis", "utf-16", "x"])
def test_json_is_utf_8_whatever_the_label_says(label: str | None) -> None:
    assert read_json_body('{"a": "é日"}'.encode(), label) == JsonBody({"a": "é日"}, "utf-8")


@pytest.mark.parametrize("label", [None, "utf-8", "iso-8859-1"])
@pytest.mark.parametrize(
    "charset", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
)
def test_marks_and_zeros_tell_other_forms_of_unicode(charset: str, label: str | None) -> None:
    assert read_json_body('["é"]'.encode(charset), label) == JsonBody(["é"], charset)


@pytest.mark.parametrize(
    ("label", "charset"),
    [("iso-8859-1", "windows-1252"), ("latin1", "windows-1252"), ("cp1251", "windows-1251")],
)
def test_what_is_not_utf_8_is_what_the_label_says(label: str, charset: str) -> None:
    assert read_json_body(b'["caf\xe9"]', label) == JsonBody([b"caf\xe9".decode(charset)], charset)


@pytest.mark.parametrize("label", [None, "utf-8", "no-such-charset", "utf-16", "shift_jis"])
def test_what_nothing_can_decode_is_read_with_replacements(label: str | None) -> None:
    read = read_json_body(b'["caf\xe9\xff"]', label)

    assert isinstance(read, JsonBody)
    assert not read.is_exact
    assert read.document[0].startswith("caf")


def test_half_of_a_surrogate_pair_is_json() -> None:
    assert read_json_body(rb'["a\ud83d"]', None) == JsonBody(["a\ud83d"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "it is empty."),
        (b" \r\n", "it is empty."),
        (b"<html>", "expecting value at line 1, column 1 (byte 1); it begins as HTML and XML do."),
        ('["é",\n x]'.encode(), "expecting value at line 2, column 2 (byte 9)."),
        ('\ufeff["é" 1]'.encode(), "expecting ',' delimiter at line 1, column 6 (byte 10)."),
        ('["é",]'.encode("utf-16"), "expecting value at line 1, column 6 (byte 13)."),
        (b'{"a" 1}', "expecting ':' delimiter at line 1, column 6 (byte 6)."),
        (b'{"a": 1', "expecting ',' delimiter at line 1, column 8 (byte 8)."),
        (b"[1] x", "extra data at line 1, column 5 (byte 5)."),
        (b'["\\x"]', "invalid \\escape at line 1, column 3 (byte 3)."),
        (b"[1,\n NaN]", "unexpected character, expected a JSON value at line 2, column 2 (byte 6)."),
        (b"Infinity", "unexpected character, expected a JSON value at line 1, column 1 (byte 1)."),
        (
            b'["\xff" x]',
            "expecting ',' delimiter at line 1, column 6 (byte 6); some of its bytes are not UTF-8.",
        ),
    ],
)
def test_what_is_not_json_says_where(body: bytes, expected: str) -> None:
    assert said(body) == expected


@pytest.mark.parametrize(
    "body", [b"[" * 5_000, b"[" * 1_020 + b"18446744073709551617" + b"]" * 1_020, b"[" * 1_020 + b"1e400"]
)
def test_what_is_nested_too_deeply_says_so(body: bytes) -> None:
    failure = read_json_body(body, None)

    assert isinstance(failure, Flaw)
    assert failure.explanation == "The body is nested too deeply to be read as JSON."


@pytest.mark.parametrize("label", ["iso-8859-8-i", "x-mac-cyrillic", "shift_jis", "gb18030", "macintosh"])
def test_the_byte_is_told_in_any_charset(label: str) -> None:
    assert "(byte 7)" in said(b'["\xa4\xa2" x]', label)


def test_of_what_was_sent_nothing_is_repeated() -> None:
    for body in (b'{"password": hunter2}', b'{"hunter2" 1}', b"hunter2", b'"\\uhunter2"', b'"\\hunter2"'):
        assert "hunter" not in said(body)


@pytest.mark.parametrize("document", [{"a": [None, True, 1.5, "é"]}, [], "x", 0])
def test_ordinary_json_is_read_as_it_is(document: Any) -> None:
    assert read_json_body(json.dumps(document).encode(), "utf-8") == JsonBody(document)
