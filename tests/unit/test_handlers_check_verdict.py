"""Assertions against what was seen."""

from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from consumer.handlers.check_verdict import CheckedAnswer, results_of_assertions
from shared.kinds.check import Assertions


def passed(assertions: dict[str, Any], *, text: str | None = None, **headers: str) -> bool:
    seen = CheckedAnswer(
        headers=CIMultiDictProxy(CIMultiDict(headers)),
        latency_seconds=0.5,
        certificate=None,
        fragment="",
        text=text,
        body=None if text is None else text.encode(),
    )
    (result,) = results_of_assertions(Assertions.model_validate(assertions), seen)
    return result.passed


@pytest.mark.parametrize(
    ("document", "path", "equals", "holds"),
    [
        ('{"a": 1}', "a", 1, True),
        ('{"a": 1}', "a", 1.0, True),
        ('{"a": true}', "a", 1, False),
        ('{"a": 1}', "a", True, False),
        ('{"a": [1, {"b": null}]}', "a", [1, {"b": None}], True),
        ('{"a": [1]}', "a", [1, 2], False),
        ('{"a": "1"}', "a", 1, False),
        ('{"a": 9007199254740993}', "a", 9007199254740992, False),
        ('{"a": 9223372036854775809}', "a", 9223372036854775809, True),
        ('{"a": 9223372036854775809}', "a", 9223372036854775808, False),
        ('{"a": 18446744073709551617}', "a", 18446744073709551617, True),
        ('{"a": 18446744073709551617}', "a", 18446744073709551616, False),
        ('{"a": 18446744073709551617}', "a == `18446744073709551617`", None, True),
        ('{"a": 18446744073709551617}', "a == `18446744073709551616`", None, False),
        ('{"a": -9223372036854775809}', "[a]", [-9223372036854775809], True),
        ('{"a": 0}', "a", None, True),
        ('{"a": ""}', "a", None, False),
        ('{"a": false}', "a", None, False),
        ('{"a": null}', "a", None, False),
        ('{"a": null}', "a == null", None, True),
        ("{}", "b", None, False),
        ("no json", "a", None, False),
    ],
)
def test_json_is_compared_as_json(document: str, path: str, equals: object, holds: bool) -> None:
    assert passed({"json": [{"path": path, "equals": equals}]}, text=document) is holds


@pytest.mark.parametrize("assertion", [{"contains": ["a"]}, {"not_contains": ["a"]}, {"regex": ["a"]}])
def test_nothing_holds_of_a_body_that_is_no_text(assertion: dict[str, Any]) -> None:
    assert not passed(assertion, text=None)


@pytest.mark.parametrize(
    ("assertion", "holds"),
    [
        ({"name": "etag"}, True),
        ({"name": "ETag", "equals": "x"}, True),
        ({"name": "ETag", "equals": "y"}, False),
        ({"name": "ETag", "equals": "x", "regex": "^y"}, False),
        ({"name": "Age"}, False),
    ],
)
def test_a_header_is_found_in_any_case(assertion: dict[str, Any], holds: bool) -> None:
    assert passed({"header": [assertion]}, ETag="x") is holds


def test_no_certificate_is_never_valid_for_long_enough() -> None:
    assert not passed({"min_certificate_days": 0})


def test_what_was_observed_is_cut_and_cleaned() -> None:
    seen = CheckedAnswer(CIMultiDictProxy(CIMultiDict(X="\x1b" + "a" * 500)), 0.1, None, "", None)

    (result,) = results_of_assertions(Assertions.model_validate({"header": [{"name": "X"}]}), seen)

    assert result.observed == "\ufffd" + "a" * 99
