"""What a compute process answers: plain values, the only types of ours that its parent takes from it."""

from typing import Any, NamedTuple

from shared.exact_json import MAX_JSON_VALUES


class Flaw(NamedTuple):
    """Why nothing came of a computation.

    Attributes:
        reason: A short stable code; failures are grouped by it.
        explanation: One sentence for a person, without a character of what the target sent.
        is_limit: Whether it is a limit of ours, which says nothing about the target.
    """

    reason: str
    explanation: str
    is_limit: bool = False


JSON_TOO_DEEP = Flaw("not_json", "The body is nested too deeply to be read as JSON.")
EXTRACT_FAILED = Flaw("extract_failed", "The JMESPath expression does not fit the body.")
NUMBER_TOO_LARGE = Flaw(
    "extract_failed", "The JMESPath expression picks out a number that no double can hold, such as 1e400."
)
EXTRACT_LIMIT = Flaw(
    "extract_limit", "The JMESPath expression takes too long, or makes too much.", is_limit=True
)
TOO_MANY_VALUES = Flaw(
    "extract_limit",
    f"As JSON the body may have more than the {MAX_JSON_VALUES:,} values that are read.",
    is_limit=True,
)


def not_json(why: str) -> Flaw:
    """Return the flaw of a body that is not JSON.

    Args:
        why: What is wrong and where, in words that repeat nothing of it.
    """
    return Flaw("not_json", f"The body is not JSON: {why}.")


class Judged(NamedTuple):
    """One assertion, and whether it holds: `shared.kinds.check.AssertionResult` says what each means."""

    assertion: str
    expected: str
    passed: bool | None
    observed: str | None = None
    explanation: str | None = None


class Judgement(NamedTuple):
    """What was found in an answer.

    Attributes:
        fragments: Of each fragment of the job what the assertion says of it.
        limit: The limit of ours because of which an assertion was not judged.
        ran_out: Whether expressions took all the time that they had.
    """

    title: str | None = None
    fragments: dict[str, Judged] = {}  # noqa: RUF012 - a default of a tuple
    assertions: tuple[Judged, ...] = ()
    limit: Flaw | None = None
    ran_out: bool = False


class Picked(NamedTuple):
    """What an expression picked out of a body, as JSON in UTF-8.

    Attributes:
        charset: What the body was decoded with.
        is_exact: Whether it was decodable.
    """

    data: bytes
    charset: str
    is_exact: bool


class KeptBody(NamedTuple):
    """A body to be stored.

    Attributes:
        content: Compressed; None when even so it is too large.
        charset: What decodes it to text; None when nothing does.
        text: What it says, when that was asked for.
    """

    content: bytes | None
    sha256: str
    charset: str | None
    text: str | None = None


class KeptPage(NamedTuple):
    """What is kept of one page of many.

    Attributes:
        items: Those that are kept, as a JSON array.
        page: `shared.kinds.pages.PageResult` as JSON.
        report: `shared.kinds.pages.PageReport` as JSON.
    """

    items: bytes
    page: dict[str, Any]
    report: dict[str, Any]


class RobotsVerdict(NamedTuple):
    """What a robots.txt says to us of a URL.

    Attributes:
        crawl_delay_seconds: The time that the host wants between our requests, if it says so.
    """

    allows: bool = True
    crawl_delay_seconds: float | None = None
