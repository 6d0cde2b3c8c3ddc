"""Assertions against what was seen."""

from collections.abc import Mapping
from typing import Any

import pytest
from multidict import CIMultiDict

from consumer.compute.answers import EXTRACT_LIMIT, TOO_MANY_VALUES, Flaw
from consumer.compute.judgement import SeenAnswer, judge
from consumer.handlers.check_verdict import failure_of_assertions, wanted_of
from consumer.http.markup import Markup
from shared.kinds.check import MAX_BODY_BYTES, AssertionResult, Assertions, Verdict, success_words


def result_of(
    assertions: dict[str, Any],
    *,
    text: str | None = None,
    fragment: str = "",
    is_cut: bool = False,
    headers: Mapping[str, str] | None = None,
) -> AssertionResult:
    answer = SeenAnswer(
        headers=CIMultiDict(headers or {}),
        latency_seconds=0.5,
        fragment=fragment,
        body=None if text is None else text.encode(),
        markup=Markup.NONE if text is None else Markup.HTML,
        limit_bytes=1_000 if is_cut else None,
    )
    return result_in(assertions, answer)


def result_in(assertions: dict[str, Any], answer: SeenAnswer) -> AssertionResult:
    wanted = wanted_of(Assertions.model_validate(assertions))
    (result,) = judge(wanted, (), answer, sought=[answer.fragment]).assertions
    return AssertionResult(**result._asdict())


def passed(assertions: dict[str, Any], *, text: str | None = None, **headers: str) -> bool | None:
    return result_of(assertions, text=text, headers=headers).passed


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


@pytest.mark.parametrize(
    ("assertion", "holds"),
    [
        ({"contains": ["a"]}, True),
        ({"contains": ["z"]}, None),
        ({"not_contains": ["a"]}, False),
        ({"not_contains": ["z"]}, None),
        ({"regex": ["^[abc]"]}, True),
        ({"regex": ["z"]}, None),
        ({"json": [{"path": "a"}]}, None),
    ],
)
def test_the_beginning_of_a_body_decides_what_it_can(assertion: dict[str, Any], holds: bool | None) -> None:
    result = result_of(assertion, text="abc", is_cut=True)

    assert result.passed is holds
    assert (result.explanation is None) is (holds is not None)


def test_what_a_cut_body_does_not_decide_is_no_fault_of_the_host() -> None:
    undecided = result_of({"contains": ["z"]}, text="abc", is_cut=True)
    failure = failure_of_assertions([undecided], limit_bytes=1_000)

    assert failure is not None
    assert (failure.reason, failure.verdict, failure.transient) == ("body_too_large", None, False)
    assert "contains z" in failure.explanation and "max_body_bytes" in failure.explanation


def test_nobody_is_told_to_raise_the_greatest_limit() -> None:
    undecided = result_of({"contains": ["z"]}, text="abc", is_cut=True)
    failure = failure_of_assertions([undecided], limit_bytes=MAX_BODY_BYTES)

    assert failure is not None and failure.explanation.endswith("contains z holds; no check reads more.")


@pytest.mark.parametrize(
    ("text", "path", "limit"),
    [
        ("1", "|".join(["[@,@]"] * 100), EXTRACT_LIMIT),
        ("[" + "[]," * 3_900_000 + "[]]", "@", TOO_MANY_VALUES),
    ],
    ids=["expression", "values"],
)
def test_a_limit_of_ours_is_no_fault_of_the_host(text: str, path: str, limit: Flaw) -> None:
    wanted = wanted_of(Assertions.model_validate({"json": [{"path": path}]}))
    judgement = judge(wanted, (), SeenAnswer(body=text.encode()))
    results = [AssertionResult(**judged._asdict()) for judged in judgement.assertions]
    failure = failure_of_assertions(results, limit_bytes=1_000, limit=judgement.limit)

    assert [result.passed for result in results] == [None]
    assert judgement.limit == limit
    assert failure is not None and (failure.reason, failure.verdict) == ("extract_limit", None)


def test_what_the_beginning_of_a_body_decides_comes_before_what_it_does_not() -> None:
    results = [
        result_of({"contains": ["z"]}, text="abc", is_cut=True),
        result_of({"not_contains": ["a"]}, text="abc", is_cut=True),
    ]
    failure = failure_of_assertions(results, limit_bytes=1_000)

    assert failure is not None
    assert (failure.reason, failure.verdict) == ("assertion_failed", Verdict.BROKEN)


@pytest.mark.parametrize(
    ("fragment", "text", "is_cut", "holds"),
    [
        ("", None, False, True),
        ("top", None, False, True),
        (":~:text=b", None, False, True),
        ("page=3", None, False, None),
        ("x", "<p id=x>", False, True),
        ("x", "<p id=x>", True, True),
        ("y", "<p id=x>", False, False),
        ("y", "<p id=x>", True, None),
        ("/y", "<p id=x>", False, None),
        ("/y", "<p id=/y>", False, True),
    ],
)
def test_a_fragment_is_judged_where_it_can_be(
    fragment: str, text: str | None, is_cut: bool, holds: bool | None
) -> None:
    result = result_of({"fragment": True}, fragment=fragment, text=text, is_cut=is_cut)

    assert result.passed is holds
    assert (result.explanation is None) is (holds is not None)


def test_an_explanation_says_what_was_not_judged_and_why() -> None:
    result = result_of({"fragment": True}, fragment="page=3", headers={"Content-Type": "application/pdf"})

    assert failure_of_assertions([result], limit_bytes=1_000) is None
    assert success_words([result]) == (
        "The host answered as it should. Whether fragment #page=3 holds was not judged: "
        "the answer is no HTML but application/pdf."
    )


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
    seen = SeenAnswer(CIMultiDict(X="\x1b" + "a" * 500))

    result = result_in({"header": [{"name": "X"}]}, seen)

    assert result.observed == "\ufffd" + "a" * 99
