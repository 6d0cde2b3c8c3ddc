"""lychee judged the same 300 links; every difference is listed and argued in the documents."""

import asyncio
import json
from pathlib import Path

from tests.differential.comparison import differences, listed_differences, our_verdicts
from tests.differential.link_site import LINKS, open_link_site
from tests.differential.lychee import RECORD, site_digest
from tests.support.http_servers import client_that_reaches_loopback, self_signed_tls

RUN_SECONDS = 60


async def test_every_difference_to_lychee_is_listed_and_argued(tmp_path: Path, unused_port: int) -> None:
    theirs = json.loads(RECORD.read_text())["verdicts"]
    async with (
        asyncio.timeout(RUN_SECONDS),
        open_link_site(self_signed_tls(tmp_path), unused_port=unused_port) as site,
        client_that_reaches_loopback() as client,
    ):
        ours = await our_verdicts(site, client)

    assert len(theirs) == LINKS
    assert differences(theirs, ours) == listed_differences("compared-with-lychee.md")


def test_what_lychee_said_is_of_the_site_as_it_is() -> None:
    assert json.loads(RECORD.read_text())["site"] == site_digest(), "see tests/differential/lychee.py"
