"""The links of a document by its format, without those that its comments say to ignore."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath

from retriever_client.cli.links.document import (
    Findings,
    Format,
    Found,
    Lines,
    Link,
    Remark,
    Word,
    normal_line_ends,
)

# The module and the name of what finds links, loaded for the first document of a format: parsers take a
# tenth of a second.
_FINDERS = {
    Format.MARKDOWN: ("markdown", "find_in_markdown"),
    Format.HTML: ("html", "find_in_html"),
    Format.REST: ("rest", "find_in_rest"),
    Format.TEXT: ("plain", "find_in_plain_text"),
    Format.SITEMAP: ("sitemap", "find_in_sitemap"),
}
_SUFFIXES = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd", ".mkdn", ".mdx"), Format.MARKDOWN),
    **dict.fromkeys((".html", ".htm", ".xhtml"), Format.HTML),
    **dict.fromkeys((".rst", ".rest"), Format.REST),
    **dict.fromkeys((".txt", ".text", ".adoc", ".asciidoc", ".org"), Format.TEXT),
}
_SITEMAP_NAME = re.compile(r"sitemap[^/]*\.xml(?:\.gz)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Misread:
    """A comment for us that says nothing we know, and so did nothing."""

    said: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a document links to, in the order in which it is written.

    `ignored` counts the links that its comments took out; `base` is what the document itself says its links
    start from; `anchors` are what a fragment may name.
    """

    links: tuple[Link, ...]
    ignored: int
    anchors: frozenset[str]
    base: str | None
    misread: tuple[Misread, ...]


def format_of_name(name: str) -> Format | None:
    """Return how a file of this name is written, None when its name does not say."""
    if _SITEMAP_NAME.search(name):
        return Format.SITEMAP
    return _SUFFIXES.get(PurePath(name).suffix.lower())


def extract(text: str, written_in: Format) -> Extraction:
    """Return the links of a document.

    Raises:
        NoSitemap: It should be a sitemap and is none.
    """
    text = normal_line_ends(text)
    findings = _finder_of(written_in)(text)
    lines = Lines(text)
    misread = tuple(
        Misread(remark.said, *lines.position(remark.start))
        for remark in findings.remarks
        if _word(remark) is None
    )
    ignored = _ignored_lines(findings.remarks, lines)
    found = sorted(set(findings.links), key=lambda link: (link.start, link.end))
    kept = [
        link for link in found if not _overlaps(ignored, lines.number(link.start), lines.number(link.end - 1))
    ]
    return Extraction(
        links=tuple(_link(link, lines) for link in kept),
        ignored=len(found) - len(kept),
        anchors=findings.anchors,
        base=findings.base,
        misread=misread,
    )


def _finder_of(written_in: Format) -> Callable[[str], Findings]:
    module, name = _FINDERS[written_in]
    found: Callable[[str], Findings] = getattr(import_module(f"retriever_client.cli.links.{module}"), name)
    return found


def _link(found: Found, lines: Lines) -> Link:
    line, column = lines.position(found.start)
    return Link(found.url, lines.text[found.start : found.end], line, column, found.kind)


def _word(remark: Remark) -> Word | None:
    return Word(remark.said) if remark.said in set(Word) else None


def _ignored_lines(remarks: Iterable[Remark], lines: Lines) -> list[tuple[int, int]]:
    """Return the lines, from 0, that comments take out: ranges [first, last], sorted."""
    ranges: list[tuple[int, int]] = []
    off: int | None = None
    for remark in sorted(remarks, key=lambda remark: remark.start):
        first, last = lines.number(remark.start), lines.number(max(remark.start, remark.end - 1))
        match _word(remark):
            case Word.IGNORE if _has_more(remark, lines, first, last):
                ranges.append((first, last))
            case Word.IGNORE | Word.IGNORE_NEXT:
                ranges.append((_next_written(lines, last),) * 2)
            case Word.OFF if off is None:
                off = first
            case Word.ON if off is not None:
                ranges.append((off, last))
                off = None
            case _:
                pass
    if off is not None:
        ranges.append((off, len(lines.starts) - 1))
    return _merged(ranges)


def _has_more(remark: Remark, lines: Lines, first: int, last: int) -> bool:
    """Whether there is more than the comment, and marks of quotations and items, in its lines."""
    before = lines.text[lines.starts[first] : remark.start]
    return bool(before.strip(" \t>-*+") or lines.text[remark.end : lines.end(last)].strip())


def _next_written(lines: Lines, number: int) -> int:
    number += 1
    while number < len(lines.starts) and not lines.line(number).strip():
        number += 1
    return number


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _overlaps(ranges: Sequence[tuple[int, int]], first: int, last: int) -> bool:
    at = bisect_left(ranges, first, key=lambda ignored: ignored[1])
    return at < len(ranges) and ranges[at][0] <= last
