"""LinkChecker and we judge the same 300 links; every difference is listed and argued in the documents."""

import asyncio
import csv
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from pydantic import ValidationError

from consumer.handlers.check import check
from consumer.http.client import Client
from consumer.politeness.host_limiters import HostLimiters
from shared.kinds.check import CheckArgs
from tests.differential.link_site import LINKS, LinkSite, open_link_site
from tests.support.http_servers import client_that_reaches_loopback, self_signed_tls

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "compared-with-linkchecker.md"
ROW = re.compile(
    r"^\| `(?P<link>[^`]+)` \| (?P<theirs>\w+) \| (?P<ours>\w+), `(?P<reason>\w+)` \|", re.MULTILINE
)
TIMEOUT_SECONDS = 2
RUN_SECONDS = 120

CONFIGURATION = f"""\
[checking]
maxrequestspersecond=500
threads=20
timeout={TIMEOUT_SECONDS}
recursionlevel=1
[filtering]
checkextern=1
"""


async def test_every_difference_to_linkchecker_is_listed_and_argued(tmp_path: Path, unused_port: int) -> None:
    async with (
        asyncio.timeout(RUN_SECONDS),
        open_link_site(self_signed_tls(tmp_path), unused_port=unused_port) as site,
        client_that_reaches_loopback() as client,
    ):
        theirs = await their_verdicts(site, tmp_path)
        ours = await our_verdicts(site, client)

    assert len(site.hrefs) == LINKS
    assert differences(theirs, ours) == listed_differences()


def differences(theirs: Mapping[str, str], ours: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the links that one calls good and the other does not, with what each says."""
    return {
        link: (theirs[link], *ours[link])
        for link in ours
        if (theirs[link] == "valid") != (ours[link][0] == "ok")
    }


def listed_differences() -> dict[str, tuple[str, ...]]:
    """Return the rows of the table in the documents."""
    rows = ROW.finditer(DOCUMENT.read_text())
    return {row["link"]: (row["theirs"], row["ours"], row["reason"]) for row in rows}


async def their_verdicts(site: LinkSite, folder: Path) -> dict[str, str]:
    """Return what LinkChecker says of each link: valid, invalid, or nothing, because it crashed."""
    configuration = folder / "linkcheckerrc"
    configuration.write_text(CONFIGURATION)
    program = Path(sys.executable).parent / "linkchecker"
    process = await asyncio.create_subprocess_exec(
        *(program, "-f", configuration, "--no-robots", "--no-status", "-v", "-o", "csv", site.index),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    output, _ = await process.communicate()
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter=";"))
    verdicts = {row[key]: row["valid"] for row in rows for key in ("url", "urlname")}
    names = {"True": "valid", "False": "invalid", None: "nothing"}
    return {
        link: names[verdicts.get(href) or verdicts.get(urljoin(site.index, href))]
        for link, href in site.hrefs.items()
    }


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
