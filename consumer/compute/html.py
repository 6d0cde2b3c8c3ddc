"""The title of a page, and the places in it to which fragments lead."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from consumer.http.markup import Markup, as_written, read_html, read_xhtml
from consumer.http.text import bounded_text

MAX_TITLE_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Page:
    """What was found in a page.

    Attributes:
        title: Shortened, or None when it has none.
        fragments: Those that were looked for and lead to a place in it.
    """

    title: str | None
    fragments: frozenset[str]


def read_page(text: str, markup: Markup, fragments: Collection[str] = ()) -> Page:
    """Return the title of a page, and which fragments lead to a place in it.

    Blocks for up to half a second a megabyte. Scripts are not run: what is in a `noscript` counts, and what a
    script would make does not.

    Args:
        text: The page, or its beginning.
        markup: How to read it.
        fragments: Those of URLs, as they stand there, without `#`.
    """
    reader = _Reader(fragments)
    if markup is Markup.XHTML:
        read_xhtml(text, reader)
    elif markup is Markup.HTML:
        read_html(text, reader)
    return Page(reader.title, frozenset(reader.found))


def is_top(fragment: str) -> bool:
    """Return whether a fragment leads to the top of every page: none, `top`, and directives (`:~:text=`)."""
    return _decoded(fragment).lower() in {"", "top"}


def is_for_scripts(fragment: str) -> bool:
    """Return whether only a script of the page can tell where a fragment leads.

    That is a route of an application in one page (`#/users`, `#!/users`), or lines of a file (`#L10-L20`).
    """
    return _FOR_SCRIPTS.match(fragment) is not None


def _names(fragment: str) -> set[str]:
    """Return the names of which a place needs one for a fragment to lead there.

    As the HTML Standard finds "the indicated part of the document": the fragment as it stands, then
    percent-decoded as UTF-8; where that fails, Chrome takes bytes for characters. The scripts of GitHub,
    GitLab and others find what their users name behind `user-content-`.
    """
    decoded = _decoded(fragment)
    names = {_name(fragment), decoded, f"user-content-{decoded}"}
    return names | {unquote(_name(fragment), "latin-1")} if "\ufffd" in decoded else names


def _name(fragment: str) -> str:
    return fragment.partition(":~:")[0]


def _decoded(fragment: str) -> str:
    return unquote(_name(fragment))


_NONE: frozenset[str] = frozenset()
_FOR_SCRIPTS = re.compile(r"!?/|!|L\d+(?:$|[-C])")


class _Reader:
    """Listens for the first title and for ids, and for names of `a`, outside of templates."""

    def __init__(self, fragments: Collection[str]) -> None:
        self.found: set[str] = set()
        self.title: str | None = None
        self._wanted: dict[str, set[str]] = {}
        for fragment in fragments:
            for name in _names(fragment):
                self._wanted.setdefault(name, set()).add(fragment)
        self._sought = len(set(fragments))
        self._template_depth = 0
        self._title_parts: list[str] | None = None
        self._has_title = False

    @property
    def is_done(self) -> bool:
        return self._has_title and len(self.found) == self._sought

    def start(self, name: str, attributes: Mapping[str, str], *, is_html: bool) -> None:
        if name == "template":
            self._note(attributes.get("id"))
            self._template_depth += 1
        elif self._template_depth == 0:
            self._note(attributes.get("id"))
            if name == "a":
                self._note(attributes.get("name"))
            elif name == "title" and is_html and not self._has_title:
                self._title_parts = []

    def end(self, name: str) -> None:
        if name == "template":
            self._template_depth = max(0, self._template_depth - 1)
        elif name == "title" and self._title_parts is not None:
            words = " ".join(as_written("".join(self._title_parts))[: MAX_TITLE_LENGTH * 8].split())
            self.title = bounded_text(words, MAX_TITLE_LENGTH) or None
            self._has_title, self._title_parts = True, None

    def text(self, text: str) -> None:
        if self._title_parts is not None:
            self._title_parts.append(text)

    def _note(self, name: str | None) -> None:
        if name and self._wanted:
            self.found |= self._wanted.get(as_written(name), _NONE)
