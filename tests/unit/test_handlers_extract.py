"""JMESPath under limits."""

import time
from typing import Any

import pytest

from consumer.compute.answers import EXTRACT_FAILED, EXTRACT_LIMIT, NUMBER_TOO_LARGE
from consumer.compute.extract import extract

ITEMS = {
    "total": 2,
    "items": [{"id": 1, "name": "a", "price": 3.5}, {"id": 2, "name": "b", "price": None}],
}


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


@pytest.mark.parametrize(
    "expression",
    [
        "sum(items)",
        "join(',', items[].id)",
        "no_such_function(@)",
        "abs()",
        "items[::0]",
        "&name",
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
    document = {"s": "x" * 500_000, "a": ["y"] * 100_000}

    assert extract(document, "join(s, a)") is EXTRACT_LIMIT


def test_an_expression_that_takes_too_long_is_stopped() -> None:
    document = [{"n": n} for n in range(20_000)]
    expression = "[*].[" + ",".join(["n"] * 200) + "] | [*].[" + ",".join(["[0]"] * 20) + "]"
    started = time.monotonic()

    assert extract(document, expression) is EXTRACT_LIMIT
    assert time.monotonic() - started < 10


def test_a_big_body_is_picked_through_in_time() -> None:
    document = {"items": [{"id": n, "name": f"item {n}"} for n in range(20_000)]}

    assert extract(document, "length(items[?id > `100`].name)") == 19_899


def test_what_postgresql_refuses_in_texts_is_replaced() -> None:
    assert extract({"a\0": ["b\0", "\ud83d"]}, "@") == {"a\ufffd": ["b\ufffd", "\ufffd"]}


@pytest.mark.parametrize(
    "number", [2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, 9_007_199_254_740_993]
)
def test_a_whole_number_stays_as_it_is_however_long_it_is(number: float) -> None:
    assert extract({"n": number, "all": [number, 1]}, "{n: n, text: to_string(n), top: max(all)}") == {
        "n": number,
        "text": str(number),
        "top": max(number, 1),
    }
    assert extract([{"n": number}, {"n": number + 1}], f"[?n == `{number}`].n") == [number]


def test_a_number_that_no_double_can_hold_is_told_only_when_it_is_picked_out() -> None:
    document = {"big": float("inf"), "id": 7}

    assert extract(document, "id") == 7
    assert extract(document, "@") is NUMBER_TOO_LARGE
    assert extract(document, "to_number('1e999')") is NUMBER_TOO_LARGE


def test_long_numbers_count_by_their_digits() -> None:
    many = "[" + ",".join(["n"] * 300) + "]"

    assert extract({"n": 10**4_000}, many) is EXTRACT_LIMIT


def nested(levels: int) -> Any:
    document: Any = 1
    for _ in range(levels):
        document = [document]
    return document


def test_data_that_is_nested_too_deep_to_be_passed_on_is_told() -> None:
    assert extract(nested(99), "@") == nested(99)
    assert extract(nested(300), "@") is EXTRACT_FAILED
    assert extract(nested(1_000), "@") is EXTRACT_FAILED
