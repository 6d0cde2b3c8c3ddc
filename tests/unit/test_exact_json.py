"""JSON with long whole numbers: read and written as they are."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import exact_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(2**62, 2**66) | st.integers(-(2**66), -(2**62)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert exact_json.loads(exact_json.dumps(value)) == value
    assert exact_json.loads(exact_json.dumps(value, sort_keys=True).decode()) == value


@given(VALUES)
def test_ordinary_values_are_written_as_orjson_writes_them(value: Any) -> None:
    try:
        expected = orjson.dumps(value)
    except TypeError:
        return
    assert exact_json.dumps(value) == expected


def test_names_are_sorted_when_that_is_asked_for() -> None:
    assert exact_json.dumps({"b": 2**64, "a": 1}, sort_keys=True) == b'{"a":1,"b":18446744073709551616}'


@pytest.mark.parametrize("value", ["\ud800", object(), [[2**64, {1}]]])
def test_what_is_no_json_is_an_error(value: object) -> None:
    with pytest.raises(TypeError):
        exact_json.dumps(value)


def test_what_is_nested_too_deeply_is_an_error() -> None:
    value: Any = 2**64
    for _ in range(5_000):
        value = [value]

    with pytest.raises(TypeError):
        exact_json.dumps(value)
