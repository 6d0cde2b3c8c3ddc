"""JSON with long whole numbers: read and written as they are."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import exact_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**66)
    | st.integers(-(2**66), -(2**62))
    | st.sampled_from([10**308, 10**309, -(10**309), 10**4_299]),
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


@pytest.mark.parametrize("long", ["9" * 309, "-" + "9" * 400, "1" + "0" * 4_299])
def test_a_whole_number_beyond_doubles_is_read_as_it_is(long: str) -> None:
    text = f'{{"{long}": [{long}, 0.5, "{long}", 1.{long.lstrip("-")}]}}'

    name, (number, half, same, fraction) = next(iter(exact_json.loads(text).items()))

    assert (name, number, half, same) == (long, int(long), 0.5, long)
    assert 1 <= fraction <= 2


@pytest.mark.parametrize(
    "wrong",
    [
        "1e999",
        "-1e400",
        "1." + "0" * 400 + "e999",
        "NaN",
        '"\\ud800"',
        "[1,]",
        '{"a" 1}',
        "01",
        "1e" + "9" * 309,
    ],
)
@pytest.mark.parametrize("beside", ["1", "9" * 400])
def test_a_long_number_excuses_nothing_that_is_beside_it(wrong: str, beside: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        exact_json.loads(f"[{beside}, {wrong}]")


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
