"""Which JSON texts have one meaning: no name twice, no whole number beyond 64 bits, no endless nesting."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.json_text import BEYOND_64_BITS, DUPLICATE_NAME, MAX_DEPTH, TOO_DEEP, AmbiguousJson, read_json
from shared.errors import JobInvalid

# Names and texts that look like JSON themselves.
_TEXTS = st.sampled_from(
    ["", "a", "b", ":", '":', '" :', "\\", '\\"', '\\":', "a\\", '{"a":1}', "https://a/", "\0"]
)
_NUMBERS = st.sampled_from([0, -1, 5, 2**53, 2**63, 2**64 - 1, -(2**63), 1e30, -1e30, 0.5, 1e300])
_TOO_LARGE = st.sampled_from([2**64, -(2**63) - 1, 10**30, -(10**30)])


def refused(text: str) -> list[tuple[str, str]]:
    with pytest.raises(JobInvalid) as caught:
        read_json(text, at="/args")
    return [(error.loc, error.msg) for error in caught.value.errors]


@pytest.mark.parametrize(
    ("text", "loc"),
    [
        ('{"a":1,"a":2}', "/args/a"),
        ('{"a":1,"a":1}', "/args/a"),
        ('{"a" : 1, "a"\n:\t2}', "/args/a"),
        ('{"a":1,"\\u0061":2}', "/args/a"),
        ('{"a/b":1,"a\\/b":2}', "/args/a~1b"),
        ('{"":1,"":2}', "/args/"),
        ('[{"b":{"c":[{"d":1,"d":[]}]}}]', "/args/0/b/c/0/d"),
        ('{"a\\\\":1,"a\\\\":2}', "/args/a\\"),
        # As many colons after quotes in texts as names are lost.
        ('{"url":"\\":","url" :"\\":"}', "/args/url"),
        ('{"a\\\\":"\\":","a\\\\":"x"}', "/args/a\\"),
    ],
)
def test_a_name_that_comes_twice_in_one_object_is_named(text: str, loc: str) -> None:
    assert refused(text) == [(loc, DUPLICATE_NAME)]


@pytest.mark.parametrize(
    "text", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 30, "-" + "9" * 100]
)
def test_a_whole_number_beyond_64_bits_is_named(text: str) -> None:
    assert refused(f'{{"a":[0,{text}]}}') == [("/args/a/1", BEYOND_64_BITS)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9007199254740993", 2**53 + 1),
        ("-0", 0),
        ("1e30", 1e30),
        ("123456789012345678901234567890.0", 123456789012345678901234567890.0),
        ('"123456789012345678901234567890"', "123456789012345678901234567890"),
        ('{"a":{"a":1},"b":[{"a":2}]}', {"a": {"a": 1}, "b": [{"a": 2}]}),
        ('{"a":"\\"a\\":1,\\"a\\":2"}', {"a": '"a":1,"a":2'}),
        ('{"A":1,"a":2}', {"A": 1, "a": 2}),
    ],
)
def test_what_has_one_meaning_is_read(text: str, value: object) -> None:
    assert read_json(text) == value
    assert type(read_json(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["1e400", "-1E400", "9" * 400, "NaN", "Infinity", "-Infinity", "+1", "01", "1.", "'a'"]
)
def test_a_number_that_json_or_a_double_does_not_have_is_no_json(text: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        read_json(text)


@pytest.mark.parametrize(
    "text", ['"\\ud800"', '{"\\udfff":1}', b'"\xed\xa0\x80"', b'"\xff"', '"\\udc00\\ud800"']
)
def test_half_a_character_is_no_json(text: str | bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        read_json(text)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 1_024])
def test_what_is_nested_too_deeply_is_said_to_be(levels: int) -> None:
    assert refused("[" * levels + "]" * levels) == [("/args", TOO_DEEP)]
    assert refused('{"a":' * levels + "1" + "}" * levels) == [("/args", TOO_DEEP)]


@pytest.mark.parametrize("levels", [1_025, 100_000])
def test_what_nobody_can_read_for_its_depth_is_no_json(levels: int) -> None:
    with pytest.raises(orjson.JSONDecodeError, match="depth limit"):
        read_json("[" * levels + "]" * levels)


def test_what_is_nested_as_deeply_as_it_may_be_is_read() -> None:
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def _objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    blanks = st.sampled_from(["", " ", "\n\t"])
    pair = st.builds(lambda name, blank, value: f"{json.dumps(name)}{blank}:{value}", _TEXTS, blanks, inner)
    return st.lists(pair, max_size=4).map(lambda pairs: f"{{{','.join(pairs)}}}")


def _arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]")


_JSON = st.recursive(
    (_TEXTS | _NUMBERS | _TOO_LARGE | st.none() | st.booleans()).map(json.dumps),
    lambda inner: _objects(inner) | _arrays(inner),
    max_leaves=12,
)


def _has_fault(text: str) -> bool:
    """Return whether a slow and simple parser finds a fault."""
    found = False

    def pairs(listed: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found = found or len({name for name, _ in listed}) < len(listed)
        return dict(listed)

    def whole(digits: str) -> int:
        nonlocal found
        found = found or not -(2**63) <= int(digits) < 2**64
        return int(digits)

    json.loads(text, object_pairs_hook=pairs, parse_int=whole)
    return found


@given(_JSON)
def test_every_fault_is_found_and_nothing_else_is_called_one(text: str) -> None:
    if _has_fault(text):
        with pytest.raises(AmbiguousJson):
            read_json(text)
    else:
        assert read_json(text) == json.loads(text)
