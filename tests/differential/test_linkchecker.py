"""LinkChecker and we judge the same 300 links; every difference is listed and argued in the documents."""

import asyncio
import csv
import os
import sys
from pathlib import Path
from urllib.parse import urljoin

from tests.differential.comparison import TIMEOUT_SECONDS, differences, listed_differences, our_verdicts
from tests.differential.link_site import LINKS, LinkSite, open_link_site
from tests.support.http_servers import client_that_reaches_loopback, self_signed_tls

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
    assert differences(theirs, ours) == listed_differences("compared-with-linkchecker.md")


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
