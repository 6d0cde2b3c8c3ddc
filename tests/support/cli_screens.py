"""The service in memory that docs/cli-groups.md and client/README.md show the command line on."""

import shlex
from typing import Final

from click.testing import CliRunner, Result

from retriever_client.cli.main import retriever
from retriever_client.testing import FakeRetriever, broken, parked

BUSY: Final = "https://busy.example/page"
GONE: Final = "https://example.com/gone"


def shown_service() -> FakeRetriever:
    """Return a client of a service on which a few things have happened."""
    client = FakeRetriever()
    client.service.answers |= {
        BUSY: parked("http_503", "The host answered 503 five times."),
        GONE: broken("http_404"),
    }
    client.check("https://example.com/", labels={"team": "docs"})
    client.check(GONE, ref="docs/a.md:12")
    client.check(BUSY)
    client.batches.submit("check", ["https://example.com/a", BUSY, "no url"], labels={"team": "docs"})
    return client


def run_line(client: FakeRetriever, line: str) -> Result:
    """Run a command as it stands in a document."""
    program, *arguments = shlex.split(line)
    assert program == "retriever", line
    return CliRunner().invoke(retriever, arguments, obj=client)
