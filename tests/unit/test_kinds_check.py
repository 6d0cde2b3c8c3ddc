"""What a check may be told: statuses, assertions, patterns."""

from typing import Any

import pytest
from pydantic import ValidationError

from consumer.handlers.check_verdict import failure_of_answer
from shared.kinds.acceptance import accepts_status
from shared.kinds.check import CheckArgs, Verdict
from shared.kinds.registry import args_document


def args(**more: Any) -> CheckArgs:
    return CheckArgs.model_validate({"url": "https://example.org/a", **more})


def test_statuses_are_numbers_texts_and_ranges() -> None:
    accepted = args(statuses=[401, "200-299", "404"]).statuses

    assert accepted == ["401", "200-299", "404"]
    assert [accepts_status(accepted, status) for status in (200, 299, 300, 401, 404)] == [
        True,
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["2xx"],
        ["299-200"],
        [99],
        [1000],
        ["200-"],
        [True],
        [200.5],
        [None],
        "200",
        ["\u0662\u0660\u0660"],
    ],
)
def test_what_is_no_status_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        args(statuses=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"regex": ["("]},
        {"regex": ["(?=a)"]},
        {"regex": ["(a)\\1"]},
        {"regex": ["a{1000}"]},
        {"regex": ["[a-z]{1,100}"] * 5},
        {"regex": ["\ud800"]},
        {"contains": [""]},
        {"contains": "text"},
        {"json": [{"path": "a["}]},
        {"json": [{"path": "a", "is": 1}]},
        {"json": [{"path": "a", "equals": 10**4_300}]},
        {"json": [{"path": "a", "equals": "x" * 2_000}]},
        {"header": [{"name": "a b"}]},
        {"max_latency_seconds": 0},
        {"min_certificate_days": -1},
        {"unknown": 1},
    ],
)
def test_an_assertion_that_cannot_be_held_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        args(assertions=wrong)


def test_a_head_cannot_be_asked_for_its_body() -> None:
    with pytest.raises(ValidationError, match="no body"):
        args(method="HEAD", title=True)


def test_arguments_survive_being_stored() -> None:
    given = args(
        statuses=["200-204", 404],
        assertions={"json": [{"path": "a", "equals": False}], "header": [{"name": "Content-Length"}]},
        connect_timeout_seconds=3,
    )

    assert CheckArgs.model_validate(args_document(given)) == given


@pytest.mark.parametrize(
    ("more", "status", "is_own", "verdict"),
    [
        ({}, 401, True, Verdict.BLOCKED),
        ({"url": "https://ann:x@example.org/"}, 401, True, Verdict.BROKEN),
        ({"url": "https://ann:x@example.org/"}, 401, False, Verdict.BLOCKED),
        ({"statuses": ["401"]}, 401, True, None),
        ({"statuses": ["404"]}, 200, True, Verdict.BROKEN),
        ({"redirects": "report"}, 301, True, None),
        ({"redirects": "report", "statuses": ["200"]}, 301, True, Verdict.BROKEN),
    ],
)
def test_a_status_means_what_the_job_says_of_it(
    more: dict[str, Any], status: int, is_own: bool, verdict: Verdict | None
) -> None:
    failure = failure_of_answer(args(**more), status, {"Location": "/"}, is_own=is_own)

    assert (failure.verdict if failure else None) == verdict
