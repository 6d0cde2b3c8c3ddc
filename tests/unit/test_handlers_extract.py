"""JMESPath under limits."""

import time
from typing import Any

import orjson
import pytest

from consumer.handlers.extract import extract
from consumer.http.failures import EXTRACT_FAILED, EXTRACT_LIMIT, NOT_JSON

ITEMS = '{"total": 2, "items": [{"id": 1, "name": "a", "price": 3.5}, {"id": 2, "name": "b", "price": null}]}'


@pytest.mark.parametrize(
    ("expression", "data"),
    [
        ("total", 2),
        ("items[].name", ["a", "b"]),
        ("items[?id > `1`].{n: name}", [{"n": "b"}]),
        ("length(items)", 2),
        ("missing", None),
        ("items[*].price", [3.5]),
        ("join('-', items[].name)", "a-b"),
        ("sort_by(items, &name)[0].id", 1),
        ("map(&id, items)", [1, 2]),
        ("to_string(items[0].id)", "1"),
    ],
)
def test_data_is_picked_out(expression: str, data: Any) -> None:
    assert extract(ITEMS, expression) == data


@pytest.mark.parametrize("text", [None, "", "<html>", "{", "NaN", '"\\ud800"', "1e999", "[" * 5_000])
def test_a_body_that_is_not_json_is_told(text: str | None) -> None:
    assert extract(text, "@") is NOT_JSON


@pytest.mark.parametrize(
    "expression",
    [
        "sum(items)",
        "join(',', items[].id)",
        "no_such_function(@)",
        "abs()",
        "items[::0]",
        "&name",
        "to_number('1e999')",
    ],
)
def test_an_expression_that_does_not_fit_is_told(expression: str) -> None:
    assert extract(ITEMS, expression) is EXTRACT_FAILED


@pytest.mark.parametrize(
    "expression",
    [
        "|".join(["[@,@]"] * 100),
        "|".join(["[@,@][]"] * 80),
        "to_string(" + "|".join(["[@,@]"] * 100) + ")",
        "[" + "|".join(["[@,@]"] * 60) + "," + "|".join(["[@,@]"] * 60) + "] | [0] == [1]",
        "|".join(["{a:@,b:@}"] * 90),
        "|".join(["[@,@]"] * 15) + "|[][][][][][][][][].to_string(@)",
    ],
)
def test_an_expression_that_makes_too_much_is_stopped(expression: str) -> None:
    started = time.monotonic()

    assert extract(ITEMS, expression) is EXTRACT_LIMIT
    assert time.monotonic() - started < 10


def test_a_join_with_a_huge_separator_is_stopped_before_it_is_made() -> None:
    text = orjson.dumps({"s": "x" * 500_000, "a": ["y"] * 100_000}).decode()

    assert extract(text, "join(s, a)") is EXTRACT_LIMIT


def test_an_expression_that_takes_too_long_is_stopped() -> None:
    text = orjson.dumps([{"n": n} for n in range(20_000)]).decode()
    expression = "[*].[" + ",".join(["n"] * 200) + "] | [*].[" + ",".join(["[0]"] * 20) + "]"
    started = time.monotonic()

    assert extract(text, expression) is EXTRACT_LIMIT
    assert time.monotonic() - started < 10


def test_a_big_body_is_picked_through_in_time() -> None:
    text = orjson.dumps({"items": [{"id": n, "name": f"item {n}"} for n in range(20_000)]}).decode()

    assert extract(text, "length(items[?id > `100`].name)") == 19_899


def test_nul_characters_are_replaced_because_postgresql_refuses_them() -> None:
    assert extract('{"a\\u0000": ["b\\u0000"]}', "@") == {"a\ufffd": ["b\ufffd"]}


def test_data_that_is_nested_too_deep_to_be_passed_on_is_told() -> None:
    assert extract("[" * 99 + "1" + "]" * 99, "@") is not EXTRACT_FAILED
    assert extract("[" * 300 + "1" + "]" * 300, "@") is EXTRACT_FAILED
    assert extract("[" * 1_000 + "1" + "]" * 1_000, "@") is EXTRACT_FAILED
