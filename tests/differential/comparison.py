"""What we say of each link of the site, and where another link checker says something else."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from pydantic import ValidationError

from consumer.handlers.check import check
from consumer.http.client import Client
from consumer.politeness.host_limiters import HostLimiters
from shared.kinds.check import CheckArgs
from tests.differential.link_site import LinkSite

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
TIMEOUT_SECONDS = 2
ROW = re.compile(
    r"^\| `(?P<link>[^`]+)` \| (?P<theirs>\w+) \| (?P<ours>\w+), `(?P<reason>\w+)` \|", re.MULTILINE
)


def differences(theirs: Mapping[str, str], ours: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the links that one calls good and the other does not, with what each says."""
    return {
        link: (theirs[link], *ours[link])
        for link in ours
        if (theirs[link] == "valid") != (ours[link][0] == "ok")
    }


def listed_differences(document: str) -> dict[str, tuple[str, ...]]:
    """Return the rows of the table in a document."""
    rows = ROW.finditer((DOCUMENTS / document).read_text())
    return {row["link"]: (row["theirs"], row["ours"], row["reason"]) for row in rows}


async def our_verdicts(site: LinkSite, client: Client) -> dict[str, tuple[str, str]]:
    """Return our verdict and reason for each link, as the API and a worker come to it."""
    hands = asyncio.Semaphore(50)

    async def judge(href: str) -> tuple[str, str]:
        url = href if urlsplit(href).scheme else urljoin(site.index, href)
        try:
            args = CheckArgs(url=url, timeout_seconds=2 * TIMEOUT_SECONDS)
        except ValidationError:
            return "refused", "url"
        async with hands:
            # Each as if it were alone on its host: what one says of our pace is not for the others.
            outcome = await check(args, replace(client, limiters=HostLimiters()))
        assert outcome.result is not None
        return outcome.result["verdict"], outcome.result["reason"]

    verdicts = await asyncio.gather(*(judge(href) for href in site.hrefs.values()))
    return dict(zip(site.hrefs, verdicts, strict=True))
