"""The tables of hostile URLs and of those that only look so."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
REDIRECT = "redirect:"


@dataclass(frozen=True, slots=True)
class Row:
    """One URL of a table; in `about` is its class, or what is to happen."""

    about: str
    url: str

    def on(self, *, port: int, redirecting: str) -> str:
        """Return the URL that a job is given.

        Args:
            port: Where the listener waits that the URL is about.
            redirecting: Address of a page that redirects to whatever is behind it.
        """
        url = self.url.replace("{port}", str(port))
        if url.startswith(REDIRECT):
            return redirecting + url.removeprefix(REDIRECT).encode().hex()
        return url


def read_table(name: str) -> list[Row]:
    """Return the rows of `hostile_urls` or `harmless_urls`."""
    return list(_rows((DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()))


def _rows(lines: list[str]) -> Iterator[Row]:
    for line in lines:
        if not line.startswith("#"):
            about, url = line.split("\t")
            yield Row(about, json.loads(url))
