"""The dashboard as a person without a script uses it: pages read, links and forms followed."""

import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser

import httpx


class Reader(HTMLParser):
    """Reads a page: its texts, its links, and its forms with their hidden fields."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.forms: dict[str, dict[str, str]] = {}
        self.tags: set[str] = set()
        self._form: dict[str, str] | None = None
        self.feed(text)

    @property
    def text(self) -> str:
        """All that it says, blanks folded."""
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link, a form or a field."""
        said = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        elif tag == "form":
            self._form = self.forms.setdefault(said.get("action", ""), {})
        elif tag == "input" and self._form is not None and "name" in said:
            self._form[said["name"]] = said.get("value", "")
        elif tag == "script":
            self.scripts.append(said.get("src", "inline"))
        bad = [name for name in said if name.startswith("on") or name == "style"]
        assert not bad, f"{tag} has {bad}"

    def handle_endtag(self, tag: str) -> None:
        """End a form."""
        if tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)


class Visitor:
    """A browser without a script, with a cookie jar of its own."""

    def __init__(self, base_url: str | httpx.URL) -> None:
        self.http = httpx.Client(base_url=base_url, timeout=30.0)

    def see(self, path: str, status: int = 200) -> Reader:
        """Return a page, after redirects."""
        answer = self.http.get(path, follow_redirects=True)
        assert answer.status_code == status, answer.text
        return Reader(answer.text)

    def send(self, page: Reader, path: str, fields: Mapping[str, str] | None = None) -> httpx.Response:
        """Send a form of a page, and return the answer itself."""
        return self.http.post(path, data={**page.forms[path], **(fields or {})})

    def close(self) -> None:
        """Leave."""
        self.http.close()


def problem_in(text: str) -> str:
    """Return what a page says is wrong."""
    found = re.search(r'class="problem"[^>]*>(.*?)</p>', text, re.DOTALL)
    return "" if found is None else unescape(re.sub(r"<[^>]+>", "", found[1]))
