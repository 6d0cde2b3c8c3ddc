"""The verdict of a check: what status, headers, bot walls and assertions say of a final answer. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consumer.compute.answers import Flaw
from consumer.compute.judgement import FRAGMENT, Wanted
from consumer.http.failures import (
    Failure,
    assertion_failed,
    body_undecided,
    bot_wall,
    failure_of_status,
    not_found_out,
    unaccepted_status,
)
from consumer.http.header_fields import asks_to_wait
from shared.kinds.acceptance import SUCCESS, accepts_status
from shared.kinds.check import AssertionResult, Assertions, CheckArgs
from shared.kinds.requests import Redirects
from shared.urls import has_credentials


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


def wanted_of(assertions: Assertions) -> Wanted:
    """Return assertions as plain values, which a small process can hold against an answer."""
    return Wanted(
        contains=assertions.contains,
        not_contains=assertions.not_contains,
        regex=assertions.regex,
        json=[(each.path, each.equals) for each in assertions.json_body],
        header=[(each.name, each.equals, each.regex) for each in assertions.header],
        max_latency_seconds=assertions.max_latency_seconds,
        min_certificate_days=assertions.min_certificate_days,
        fragment=assertions.fragment,
    )


def failure_of_assertions(
    results: Sequence[AssertionResult], *, limit_bytes: int, limit: Flaw | None = None
) -> Failure | None:
    """Return what is wrong when an assertion does not hold, or cannot be decided within the limits.

    A fragment that cannot be judged is nothing wrong: the page is there.

    Args:
        results: What was found, in the order of the job.
        limit_bytes: How much of a body the check reads.
        limit: The limit of ours, if an assertion was not judged because of one.
    """
    wrong = [result for result in results if result.passed is False]
    if wrong:
        return assertion_failed(wrong[0].assertion, wrong[0].expected, others=len(wrong) - 1)
    for result in results:
        if result.passed is None and result.assertion != FRAGMENT:
            if limit is not None:
                return not_found_out(limit, result.assertion, result.expected)
            return body_undecided(result.assertion, result.expected, limit_bytes=limit_bytes)
    return None
