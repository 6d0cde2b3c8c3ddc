"""Whether an answer holds what a check asserts of it. Pure, but for the time that a large body takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from multidict import CIMultiDictProxy

from consumer.handlers.extract import extract
from consumer.handlers.failures import Failure
from consumer.handlers.page import has_fragment
from consumer.handlers.texts import bounded_text
from shared.kinds.assertions import Assertions, HeaderAssertion, JsonAssertion
from shared.kinds.check import AssertionResult, Certificate
from shared.kinds.patterns import compile_pattern

MAX_EXPECTED_LENGTH = 200
MAX_OBSERVED_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """What assertions are held against.

    Attributes:
        headers: Of the final answer.
        fragment: Of the final URL, as it stands there.
        text: The body; None when it was not read, or is not text.
    """

    headers: CIMultiDictProxy[str]
    latency_seconds: float
    certificate: Certificate | None
    fragment: str
    text: str | None


def judge(assertions: Assertions, seen: Seen) -> list[AssertionResult]:
    """Return every assertion with whether it holds, in the order of the arguments.

    Blocks for seconds at worst when there are assertions on the body: call it in a thread then.
    """
    return [*_of_body(assertions, seen.text), *_of_answer(assertions, seen)]


def _of_body(assertions: Assertions, text: str | None) -> Iterator[AssertionResult]:
    for part in assertions.contains:
        yield _result("contains", part, passed=text is not None and part in text)
    for part in assertions.not_contains:
        yield _result("not_contains", part, passed=text is not None and part not in text)
    for pattern in assertions.regex:
        found = None if text is None else compile_pattern(pattern).search(text)
        yield _result("regex", pattern, passed=found is not None, observed=found and found.group())
    for part_of_json in assertions.json_body:
        yield _of_json(part_of_json, text)


def _of_answer(assertions: Assertions, seen: Seen) -> Iterator[AssertionResult]:
    for header in assertions.header:
        yield _of_header(header, seen.headers)
    if (limit := assertions.max_latency_seconds) is not None:
        latency = seen.latency_seconds
        yield _result("max_latency_seconds", f"{limit:g}", passed=latency <= limit, observed=f"{latency:.3f}")
    if (days := assertions.min_certificate_days) is not None:
        left = None if seen.certificate is None else seen.certificate.days_left
        observed = "no certificate" if left is None else f"{left:g}"
        passed = left is not None and left >= days
        yield _result("min_certificate_days", f"{days:g}", passed=passed, observed=observed)
    if assertions.fragment:
        passed = seen.text is not None and has_fragment(seen.text, seen.fragment)
        yield _result("fragment", f"#{seen.fragment}", passed=passed)


def _of_json(assertion: JsonAssertion, text: str | None) -> AssertionResult:
    data = extract(text, assertion.path)
    if assertion.equals is None:
        expected, passed = assertion.path, _is_true(data)
    else:
        expected = f"{assertion.path} equals {_written(assertion.equals)}"
        passed = not isinstance(data, Failure) and _is_same(data, assertion.equals)
    observed = data.reason if isinstance(data, Failure) else _written(data)
    return _result("json", expected, passed=passed, observed=observed)


def _of_header(assertion: HeaderAssertion, headers: CIMultiDictProxy[str]) -> AssertionResult:
    values = headers.getall(assertion.name, [])
    passed, expected = bool(values), assertion.name
    if assertion.equals is not None:
        passed = passed and assertion.equals in values
        expected += f" equals {assertion.equals}"
    if assertion.regex is not None:
        pattern = compile_pattern(assertion.regex)
        passed = passed and any(pattern.search(bounded_text(value, len(value))) for value in values)
        expected += f" matches {assertion.regex}"
    return _result("header", expected, passed=passed, observed=", ".join(values) if values else None)


def _result(name: str, expected: str, *, passed: bool, observed: str | None = None) -> AssertionResult:
    return AssertionResult(
        assertion=name,
        expected=bounded_text(expected, MAX_EXPECTED_LENGTH),
        passed=passed,
        observed=None if observed is None else bounded_text(observed, MAX_OBSERVED_LENGTH),
    )


_FALSE: tuple[Any, ...] = (None, False, "", [], {})


def _is_true(data: Any) -> bool:
    # JMESPath's own notion: 0 is true, what is empty is not.
    return not isinstance(data, Failure) and not any(_is_same(data, empty) for empty in _FALSE)


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same; to Python, `True == 1` too."""
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case (int() | float(), int() | float()):
            return bool(one == other)
        case (list(), list()):
            return len(one) == len(other) and all(map(_is_same, one, other))
        case (dict(), dict()):
            return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
        case _:
            return type(one) is type(other) and bool(one == other)


def _written(data: Any) -> str:
    return orjson.dumps(data).decode()
