"""The verdict of a check: what status, headers, bot walls and assertions say of a final answer.

Pure, but for the time that assertions on a large body take.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multidict import CIMultiDictProxy

from consumer.handlers.extract import extract
from consumer.handlers.html import Page, is_for_scripts, is_top
from consumer.handlers.json_body import read_json_body
from consumer.http.failures import (
    Failure,
    assertion_failed,
    body_undecided,
    bot_wall,
    failure_of_status,
    unaccepted_status,
)
from consumer.http.header_fields import asks_to_wait
from consumer.http.markup import essence_of
from consumer.http.text import bounded_text
from shared import exact_json
from shared.kinds.acceptance import SUCCESS, accepts_status
from shared.kinds.check import (
    AssertionResult,
    Assertions,
    Certificate,
    CheckArgs,
    HeaderAssertion,
    JsonAssertion,
)
from shared.kinds.expressions import compile_pattern
from shared.kinds.requests import Redirects
from shared.urls import has_credentials

MAX_EXPECTED_LENGTH = 200
MAX_OBSERVED_LENGTH = 100


def failure_of_answer(
    args: CheckArgs, status: int, headers: Mapping[str, str], *, is_own: bool
) -> Failure | None:
    """Return what is wrong with the status and headers of an answer, or None when the job accepts it.

    A bot wall comes before its status, which is 202 with some. What the job names in `statuses` comes before
    everything else.

    Args:
        is_own: Whether the URL's own origin gave it, to a request with all that the job sends.
    """
    if wall := bot_wall_of(status, headers):
        return bot_wall(status, wall)
    if accepts_status(args.statuses, status) or _is_reported(args, status, headers):
        return None
    failure = failure_of_status(status, asks_to_wait=asks_to_wait(status, headers)) or unaccepted_status(
        status
    )
    if status == 401 and is_own and (args.auth is not None or has_credentials(args.url)):
        return _CREDENTIALS_REFUSED
    return failure


# Without credentials, 401 is a shut door: `blocked`, we cannot tell. With them the job asks whether this URL
# opens with this key, and 401 is the answer: it does not, so it is `broken` until somebody mends it.
_CREDENTIALS_REFUSED = Failure(
    "http_401", transient=False, explanation="The host answered 401: it refuses the credentials of the job."
)


def _is_reported(args: CheckArgs, status: int, headers: Mapping[str, str]) -> bool:
    return (
        args.redirects is Redirects.REPORT
        and args.statuses == SUCCESS
        and status in range(300, 400)
        and "Location" in headers
    )


@dataclass(frozen=True, slots=True)
class WallHeader:
    """A header that gives a bot wall away.

    Attributes:
        value: What the value begins with, in lower case.
        statuses: The statuses in which it means that; empty means any.
    """

    name: str
    header: str
    value: str = ""
    statuses: frozenset[int] = frozenset()


# Bot walls are known by the headers that they document, and only by what says for sure that a wall answered:
# `Server: cloudflare` alone is in every answer of a site behind Cloudflare, a real 404 or 503 too. PerimeterX
# (HUMAN) and others mark pages and cookies only; their 403 is `blocked` all the same, just nameless.
BOT_WALLS = (
    # developers.cloudflare.com/cloudflare-challenges: "cf-mitigated: challenge" is in every challenge page.
    WallHeader("Cloudflare", "cf-mitigated"),
    # docs.aws.amazon.com/waf: a challenge is a 202, a CAPTCHA a 405, both with this header.
    WallHeader("AWS WAF", "x-amzn-waf-action"),
    # docs.datadome.co: in answers of the protection, `X-DataDome: protected`; on pages let through too.
    WallHeader("DataDome", "x-datadome", statuses=frozenset({401, 403, 405, 429})),
    # What Akamai's edge itself answers calls itself so; its 503 may as well be an origin that is down.
    WallHeader("Akamai", "server", "akamaighost", frozenset({403})),
)


def bot_wall_of(status: int, headers: Mapping[str, str]) -> str | None:
    """Return the name of the bot wall that answered, or None.

    Args:
        headers: Those of the answer; names in any case if the mapping allows it, as aiohttp's does.
    """
    for wall in BOT_WALLS:
        value = headers.get(wall.header)
        if (
            value is not None
            and value.lower().startswith(wall.value)
            and (not wall.statuses or status in wall.statuses)
        ):
            return wall.name
    return None


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """What assertions are held against.

    Attributes:
        headers: Those of the final answer.
        fragment: The fragment of the final URL, as it stands there.
        text: The body, or its beginning; None when it was not read.
        page: What is in it; None when it was not read, or is no HTML.
        body: The same as `text` in octets; None when it was not read.
        charset: The charset that was declared.
        limit_bytes: How much of the body was read, when that is not all of it.
    """

    headers: CIMultiDictProxy[str]
    latency_seconds: float
    certificate: Certificate | None
    fragment: str
    text: str | None
    page: Page | None = None
    body: bytes | None = None
    charset: str | None = None
    limit_bytes: int | None = None


def results_of_assertions(assertions: Assertions, answer: CheckedAnswer) -> list[AssertionResult]:
    """Return every assertion with whether it holds, in the order of the arguments.

    With assertions on the body it may block for seconds: call it in a thread then.
    """
    return [
        *_of_body(assertions, answer),
        *_of_json(assertions, answer),
        *_of_answer(assertions, answer),
    ]


def results_of_fragments(
    fragments: Iterable[str], answer: CheckedAnswer, *, instead: str | None
) -> dict[str, AssertionResult]:
    """Return of each fragment what the assertion says of it.

    Args:
        instead: The fragment that a redirect put in the place of each.
    """
    return {
        fragment: _of_fragment(answer, fragment if instead is None else instead) for fragment in fragments
    }


def failure_of_assertions(results: Sequence[AssertionResult], *, limit_bytes: int) -> Failure | None:
    """Return what is wrong when an assertion does not hold, or cannot be decided within the limit.

    A fragment that cannot be judged is nothing wrong: the page is there.
    """
    wrong = [result for result in results if result.passed is False]
    if wrong:
        return assertion_failed(wrong[0].assertion, wrong[0].expected, others=len(wrong) - 1)
    for result in results:
        if result.passed is None and result.assertion != _FRAGMENT:
            return body_undecided(result.assertion, result.expected, limit_bytes=limit_bytes)
    return None


_FRAGMENT = "fragment"


def _of_body(assertions: Assertions, answer: CheckedAnswer) -> Iterator[AssertionResult]:
    text = answer.text or ""
    for part in assertions.contains:
        yield _of_text("contains", part, answer, passed=part in text, decided=part in text)
    for part in assertions.not_contains:
        yield _of_text("not_contains", part, answer, passed=part not in text, decided=part in text)
    for pattern in assertions.regex:
        found = compile_pattern(pattern).search(text)
        observed = found and found.group()
        yield _of_text("regex", pattern, answer, passed=bool(found), decided=bool(found), observed=observed)


def _of_text(
    name: str,
    expected: str,
    answer: CheckedAnswer,
    *,
    passed: bool,
    decided: bool,
    observed: str | None = None,
) -> AssertionResult:
    """Return the result for a body; `decided` is whether its beginning alone says so."""
    if answer.limit_bytes is None or decided:
        return _result(name, expected, passed=passed, observed=observed)
    return _result(name, expected, passed=None, explanation=_beyond(answer.limit_bytes))


def _beyond(limit_bytes: int) -> str:
    return f"only the first {limit_bytes:,} bytes of the body were read"


def _of_json(assertions: Assertions, answer: CheckedAnswer) -> Iterator[AssertionResult]:
    if not assertions.json_body:
        return
    if answer.limit_bytes is not None:
        for assertion in assertions.json_body:
            yield _of_text("json", assertion.path, answer, passed=False, decided=False)
        return
    read = read_json_body(answer.body or b"", answer.charset)
    for assertion in assertions.json_body:
        data = read if isinstance(read, Failure) else extract(read.document, assertion.path)
        yield _of_data(assertion, data)


def _of_answer(assertions: Assertions, answer: CheckedAnswer) -> Iterator[AssertionResult]:
    for header in assertions.header:
        yield _of_header(header, answer.headers)
    if (limit := assertions.max_latency_seconds) is not None:
        latency = answer.latency_seconds
        yield _result("max_latency_seconds", f"{limit:g}", passed=latency <= limit, observed=f"{latency:.3f}")
    if (days := assertions.min_certificate_days) is not None:
        left = None if answer.certificate is None else answer.certificate.days_left
        observed = "no certificate" if left is None else f"{left:g}"
        passed = left is not None and left >= days
        yield _result("min_certificate_days", f"{days:g}", passed=passed, observed=observed)
    if assertions.fragment:
        yield _of_fragment(answer, answer.fragment)


def _of_fragment(answer: CheckedAnswer, fragment: str) -> AssertionResult:
    leads, explanation = judge_fragment(answer, fragment)
    return _result(_FRAGMENT, f"#{fragment}", passed=leads, explanation=explanation)


def judge_fragment(answer: CheckedAnswer, fragment: str) -> tuple[bool | None, str | None]:
    """Return whether a fragment leads somewhere, or None and why that cannot be told.

    Args:
        answer: Its page was read with this fragment among those to look for.
        fragment: As it stands in the URL.
    """
    if is_top(fragment):
        return True, None
    if answer.page is None:
        essence = essence_of(answer.headers.get("Content-Type"))
        return None, f"the answer is no HTML{f' but {essence[:MAX_OBSERVED_LENGTH]}' if essence else ''}"
    if fragment in answer.page.fragments:
        return True, None
    if answer.limit_bytes is not None:
        return None, _beyond(answer.limit_bytes)
    if is_for_scripts(fragment):
        return None, "only a script of the page can tell where it leads"
    return False, None


def _of_data(assertion: JsonAssertion, data: Any | Failure) -> AssertionResult:
    if assertion.equals is None:
        expected, passed = assertion.path, _is_true(data)
    else:
        expected = f"{assertion.path} equals {_written(assertion.equals)}"
        passed = not isinstance(data, Failure) and _is_same(data, assertion.equals)
    observed = data.explanation if isinstance(data, Failure) else _written(data)
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


def _result(
    name: str,
    expected: str,
    *,
    passed: bool | None,
    observed: str | None = None,
    explanation: str | None = None,
) -> AssertionResult:
    return AssertionResult(
        assertion=name,
        expected=bounded_text(expected, MAX_EXPECTED_LENGTH),
        passed=passed,
        observed=None if observed is None else bounded_text(observed, MAX_OBSERVED_LENGTH),
        explanation=explanation,
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
    return exact_json.dumps(data).decode()
