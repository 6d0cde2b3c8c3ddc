"""Bot walls, known by the headers that they document: the answer is theirs and not the page's.

Only what says for sure that a wall answered is in the table. `Server: cloudflare` alone is in every
answer of a site behind Cloudflare, a real 404 or 503 too. PerimeterX (HUMAN) and others put their
marks into pages and cookies only; their 403 is `blocked` all the same, just nameless.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """A header that gives a wall away.

    Attributes:
        value: What the value begins with, in lower case.
        statuses: Those in which it means that; none is any.
    """

    wall: str
    header: str
    value: str = ""
    statuses: frozenset[int] = frozenset()


MARKS = (
    # developers.cloudflare.com/cloudflare-challenges: "cf-mitigated: challenge" is in every challenge page.
    Mark("Cloudflare", "cf-mitigated"),
    # docs.aws.amazon.com/waf: a challenge is a 202, a CAPTCHA a 405, both with this header.
    Mark("AWS WAF", "x-amzn-waf-action"),
    # docs.datadome.co: in answers of the protection, `X-DataDome: protected`; on pages let through too.
    Mark("DataDome", "x-datadome", statuses=frozenset({401, 403, 405, 429})),
    # What Akamai's edge itself answers calls itself so; its 503 may as well be an origin that is down.
    Mark("Akamai", "server", "akamaighost", frozenset({403})),
)


def wall_of(status: int, headers: Mapping[str, str]) -> str | None:
    """Return the name of the wall that answered, or None.

    Args:
        status: Of the answer.
        headers: The answer's; names in any case if the mapping allows it, as aiohttp's does.
    """
    for mark in MARKS:
        value = headers.get(mark.header)
        if (
            value is not None
            and value.lower().startswith(mark.value)
            and (not mark.statuses or status in mark.statuses)
        ):
            return mark.wall
    return None
