"""The site that contract tests of the client expect, in the service in memory."""

from collections.abc import Mapping
from typing import Any, Final

from retriever_client.testing import Ended, FakeService, broken, parked

SITE: Final = "http://site.example"


class _Answers(dict[str, Any]):
    """All pages but those of /missing are there."""

    def get(self, url: str, default: Any = None) -> Any:
        return _missing if url.startswith(f"{SITE}/missing") else default


def fake_service() -> FakeService:
    """Return a service in memory that knows the site."""
    return FakeService(answers=_Answers())


def _missing(job: Mapping[str, Any]) -> Ended:
    return broken("http_404") if job["kind"] == "check" else parked("http_404")
