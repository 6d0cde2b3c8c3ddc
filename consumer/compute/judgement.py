"""What a check demands of an answer, held against it: the body, its JSON, the headers, places in the page.

Pure, but for the time that it takes: `is_small` says whether that is next to none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from multidict import CIMultiDict

from consumer.compute.answers import Flaw, Judged, Judgement
from consumer.compute.extract import EXTRACT_SECONDS, Budget, extract
from consumer.compute.html import Page, is_for_scripts, is_top, read_page
from consumer.compute.json_body import read_json_body, text_label
from consumer.http.markup import Markup, essence_of, sniff
from consumer.http.text import bounded_text, decode_page
from shared import exact_json
from shared.programs import compile_pattern, pattern_size

MAX_EXPECTED_LENGTH = 200
MAX_OBSERVED_LENGTH = 100

SMALL_PAGE_BYTES: Final = 4_096
SMALL_JSON_BYTES: Final = 8_192
SMALL_TEXT_BYTES: Final = 16_384
SMALL_MATCHING: Final = 50_000
"""Bytes of text times size of the patterns: at 20 to 40 ns each at worst, that is 1 to 2 ms."""

SMALL_EXTRACT_SECONDS: Final = 0.002
"""What expressions on a small body may take of the event loop before they go to a process of their own."""


class Wanted(NamedTuple):
    """`shared.kinds.check.Assertions` as plain values.

    Attributes:
        json: Pairs of a path and what it must be; None is what JMESPath takes for true.
        header: A name, what it must equal, and a pattern; each of the last two may be None.
    """

    contains: Sequence[str] = ()
    not_contains: Sequence[str] = ()
    regex: Sequence[str] = ()
    json: Sequence[tuple[str, Any]] = ()
    header: Sequence[tuple[str, str | None, str | None]] = ()
    max_latency_seconds: float | None = None
    min_certificate_days: float | None = None
    fragment: bool = False


@dataclass(frozen=True, slots=True)
class SeenAnswer:
    """An answer as it is judged.

    Attributes:
        headers: Those that assertions name, and `Content-Type`.
        days_left: Of the certificate; None without one.
        fragment: The fragment of the final URL, as it stands there.
        brings_fragment: Whether a redirect named it, so that it is that of every fragment of the job.
        body: The body, or its beginning; None when it was not read.
        markup: What the answer says that the body is.
        charset: The charset that was declared.
        content_type: As it was declared, shortened.
        limit_bytes: How much of the body was read, when that is not all of it.
    """

    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    latency_seconds: float = 0.0
    days_left: float | None = None
    fragment: str = ""
    brings_fragment: bool = False
    body: bytes | None = None
    markup: Markup = Markup.NONE
    charset: str | None = None
    content_type: str | None = None
    limit_bytes: int | None = None


def judge(
    wanted: Wanted | None,
    fragments: Sequence[str],
    answer: SeenAnswer,
    *,
    sought: Sequence[str] = (),
    extract_seconds: float = EXTRACT_SECONDS,
) -> Judgement:
    """Return what was found in an answer, and every assertion with whether it holds, in the order of the job.

    Args:
        wanted: What must hold, if anything.
        fragments: Those of the job.
        answer: What came.
        sought: The fragments for which the page must be looked through.
        extract_seconds: How much of the processor all JMESPath expressions together may take.
    """
    seen = _Seen(answer, sought, extract_seconds)
    # A fragment that a redirect names is that of all.
    found = {
        fragment: _of_fragment(seen, answer.fragment if answer.brings_fragment else fragment)
        for fragment in fragments
    }
    judged = () if wanted is None else tuple(_results(wanted, seen))
    title = None if seen.page is None else seen.page.title
    return Judgement(title, found, judged, seen.limit, seen.budget.left_seconds <= 0)


def is_small(wanted: Wanted | None, answer: SeenAnswer) -> bool:
    """Return whether `judge` with `SMALL_EXTRACT_SECONDS` takes a few milliseconds at most."""
    size = len(answer.body or b"")
    if size > (SMALL_TEXT_BYTES if answer.markup is Markup.NONE else SMALL_PAGE_BYTES):
        return False
    if wanted is None:
        return True
    if wanted.json and size > SMALL_JSON_BYTES:
        return False
    matching = size * sum(map(pattern_size, wanted.regex))
    for name, _, pattern in wanted.header:
        if pattern is not None:
            matching += sum(map(len, answer.headers.getall(name, []))) * pattern_size(pattern)
    return matching <= SMALL_MATCHING


class _Seen:
    """An answer, read; and what is left of the time for expressions."""

    def __init__(self, answer: SeenAnswer, sought: Sequence[str], extract_seconds: float) -> None:
        self.answer = answer
        self.text: str | None = None
        self.page: Page | None = None
        self.budget = Budget(extract_seconds)
        self.limit: Flaw | None = None
        if answer.body is None:
            return
        markup = sniff(answer.body) if answer.markup is Markup.UNKNOWN else answer.markup
        label = text_label(answer.body, answer.content_type, answer.charset)
        self.text = decode_page(answer.body, label, markup)
        if markup is not Markup.NONE:
            self.page = read_page(self.text, markup, sought)


def _results(wanted: Wanted, seen: _Seen) -> Iterator[Judged]:
    yield from _of_body(wanted, seen)
    yield from _of_json(wanted, seen)
    for name, equals, pattern in wanted.header:
        yield _of_header(name, equals, pattern, seen.answer.headers)
    answer = seen.answer
    if (limit := wanted.max_latency_seconds) is not None:
        latency = answer.latency_seconds
        yield _result("max_latency_seconds", f"{limit:g}", passed=latency <= limit, observed=f"{latency:.3f}")
    if (days := wanted.min_certificate_days) is not None:
        left = answer.days_left
        observed = "no certificate" if left is None else f"{left:g}"
        passed = left is not None and left >= days
        yield _result("min_certificate_days", f"{days:g}", passed=passed, observed=observed)
    if wanted.fragment:
        yield _of_fragment(seen, answer.fragment)


def _of_body(wanted: Wanted, seen: _Seen) -> Iterator[Judged]:
    text, limit_bytes = seen.text or "", seen.answer.limit_bytes
    for part in wanted.contains:
        yield _of_text("contains", part, limit_bytes, passed=part in text, decided=part in text)
    for part in wanted.not_contains:
        yield _of_text("not_contains", part, limit_bytes, passed=part not in text, decided=part in text)
    for pattern in wanted.regex:
        found = compile_pattern(pattern).search(text)
        observed = found and found.group()
        yield _of_text(
            "regex", pattern, limit_bytes, passed=bool(found), decided=bool(found), observed=observed
        )


def _of_text(
    name: str,
    expected: str,
    limit_bytes: int | None,
    *,
    passed: bool,
    decided: bool,
    observed: str | None = None,
) -> Judged:
    """Return the result for a body; `decided` is whether its beginning alone says so."""
    if limit_bytes is None or decided:
        return _result(name, expected, passed=passed, observed=observed)
    return _result(name, expected, passed=None, explanation=_beyond(limit_bytes))


def _beyond(limit_bytes: int) -> str:
    return f"only the first {limit_bytes:,} bytes of the body were read"


def _of_json(wanted: Wanted, seen: _Seen) -> Iterator[Judged]:
    if not wanted.json:
        return
    if seen.answer.limit_bytes is not None:
        for path, _ in wanted.json:
            yield _of_text("json", path, seen.answer.limit_bytes, passed=False, decided=False)
        return
    read = read_json_body(seen.answer.body or b"", seen.answer.charset)
    for path, equals in wanted.json:
        data = read if isinstance(read, Flaw) else extract(read.document, path, seen.budget)
        if isinstance(data, Flaw) and data.is_limit:
            seen.limit = seen.limit or data
        yield _of_data(path, equals, data)


def _of_fragment(seen: _Seen, fragment: str) -> Judged:
    leads, explanation = _leads_somewhere(seen, fragment)
    return _result(FRAGMENT, f"#{fragment}", passed=leads, explanation=explanation)


FRAGMENT: Final = "fragment"


def _leads_somewhere(seen: _Seen, fragment: str) -> tuple[bool | None, str | None]:
    """Return whether a fragment leads somewhere, or None and why that cannot be told."""
    if is_top(fragment):
        return True, None
    if seen.page is None:
        essence = essence_of(seen.answer.headers.get("Content-Type"))
        return None, f"the answer is no HTML{f' but {essence[:MAX_OBSERVED_LENGTH]}' if essence else ''}"
    if fragment in seen.page.fragments:
        return True, None
    if seen.answer.limit_bytes is not None:
        return None, _beyond(seen.answer.limit_bytes)
    if is_for_scripts(fragment):
        return None, "only a script of the page can tell where it leads"
    return False, None


def _of_data(path: str, equals: Any, data: Any | Flaw) -> Judged:
    expected = path if equals is None else f"{path} equals {_written(equals)}"
    if isinstance(data, Flaw):
        if data.is_limit:
            return _result("json", expected, passed=None, explanation=data.explanation)
        return _result("json", expected, passed=False, observed=data.explanation)
    passed = _is_true(data) if equals is None else _is_same(data, equals)
    return _result("json", expected, passed=passed, observed=_written(data))


def _of_header(name: str, equals: str | None, pattern: str | None, headers: CIMultiDict[str]) -> Judged:
    values = headers.getall(name, [])
    passed, expected = bool(values), name
    if equals is not None:
        passed = passed and equals in values
        expected += f" equals {equals}"
    if pattern is not None:
        compiled = compile_pattern(pattern)
        passed = passed and any(compiled.search(bounded_text(value, len(value))) for value in values)
        expected += f" matches {pattern}"
    return _result("header", expected, passed=passed, observed=", ".join(values) if values else None)


def _result(
    name: str,
    expected: str,
    *,
    passed: bool | None,
    observed: str | None = None,
    explanation: str | None = None,
) -> Judged:
    return Judged(
        name,
        bounded_text(expected, MAX_EXPECTED_LENGTH),
        passed,
        None if observed is None else bounded_text(observed, MAX_OBSERVED_LENGTH),
        explanation,
    )


_FALSE: tuple[Any, ...] = (None, False, "", [], {})


def _is_true(data: Any) -> bool:
    # JMESPath's own notion: 0 is true, what is empty is not.
    return not any(_is_same(data, empty) for empty in _FALSE)


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
