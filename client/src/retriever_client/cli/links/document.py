r"""What all formats have in common: links, the comments that ignore them, and positions in a text.

Extractors work on offsets into a text whose line ends are all `\n` (`normal_line_ends`); people are told
lines and columns from 1, columns in characters.
"""

from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """How a document is written."""

    MARKDOWN = "markdown"
    HTML = "html"
    REST = "rest"
    TEXT = "text"
    SITEMAP = "sitemap"


class LinkKind(StrEnum):
    """What a link is for."""

    LINK = "link"  # A person follows it.
    DEFINITION = "definition"  # The target of reference links; they lead where it says.
    IMAGE = "image"
    MEDIA = "media"  # Sound, films and what is embedded.
    RESOURCE = "resource"  # Sheets, scripts, icons, manifests.
    FRAME = "frame"
    FORM = "form"
    REFRESH = "refresh"  # Of a meta element: the page leads on by itself.
    CITATION = "citation"
    PAGE = "page"  # Of a sitemap.
    SITEMAP = "sitemap"  # Of an index of sitemaps.


class Word(StrEnum):
    """What a comment for us says: `<!-- retriever: ignore -->`."""

    IGNORE = "ignore"
    IGNORE_NEXT = "ignore-next"
    OFF = "off"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Found:
    """A link at [start, end) of a text; `url` is what it means, without entities and escapes."""

    start: int
    end: int
    url: str
    kind: LinkKind


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment at [start, end) of a text that speaks to us: `said` is what follows `retriever:`."""

    start: int
    end: int
    said: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What an extractor found in a text, in no particular order.

    `base` is what the document itself says its links start from, `anchors` what a fragment may name.
    """

    links: list[Found]
    remarks: list[Remark]
    anchors: frozenset[str] = frozenset()
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A link as it is written at a line and column, both from 1, columns in characters."""

    url: str
    raw: str
    line: int
    column: int
    kind: LinkKind


def normal_line_ends(text: str) -> str:
    r"""Return the text with `\n` for `\r\n` and `\r`: no line or column changes."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


class Lines:
    """The lines of a text, for positions in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0]
        at = text.find("\n")
        while at >= 0:
            self.starts.append(at + 1)
            at = text.find("\n", at + 1)

    def number(self, offset: int) -> int:
        """Return the line of an offset, from 0."""
        return bisect_right(self.starts, offset) - 1

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column of an offset, both from 1."""
        line = self.number(offset)
        return line + 1, offset - self.starts[line] + 1

    def line(self, number: int) -> str:
        """Return a line, from 0, without its end."""
        return self.text[self.starts[number] : self.end(number)]

    def end(self, number: int) -> int:
        """Return the offset where a line, from 0, ends: of its line end or of the end of the text."""
        return self.starts[number + 1] - 1 if number + 1 < len(self.starts) else len(self.text)
