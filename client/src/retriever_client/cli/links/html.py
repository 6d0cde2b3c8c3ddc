"""Links in HTML, found in the tree that browsers build of it.

turbohtml is known to this module alone: it is pinned to one version, because it is young and its ways change.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape

import turbohtml
from turbohtml import Element, TokenType

from retriever_client.cli.links.document import Findings, Found, Lines, LinkKind, Remark

# What an attribute leads to. For some elements it is something else than for the others (None).
_KINDS: dict[str, dict[str | None, LinkKind]] = {
    "href": {
        None: LinkKind.LINK,
        "link": LinkKind.RESOURCE,
        "use": LinkKind.IMAGE,
        "image": LinkKind.IMAGE,
        "feimage": LinkKind.IMAGE,
    },
    "src": {
        None: LinkKind.MEDIA,
        "img": LinkKind.IMAGE,
        "input": LinkKind.IMAGE,
        "script": LinkKind.RESOURCE,
        "iframe": LinkKind.FRAME,
        "frame": LinkKind.FRAME,
    },
    "action": {"form": LinkKind.FORM},
    "formaction": {"button": LinkKind.FORM, "input": LinkKind.FORM},
    "cite": {None: LinkKind.CITATION},
    "longdesc": {None: LinkKind.LINK},
    "data": {"object": LinkKind.MEDIA},
    "poster": {"video": LinkKind.IMAGE},
    "background": {None: LinkKind.IMAGE},
    "manifest": {"html": LinkKind.RESOURCE},
    "profile": {"head": LinkKind.RESOURCE},
}
_KINDS["xlink:href"] = _KINDS["href"]
_SETS = {"srcset": LinkKind.IMAGE, "imagesrcset": LinkKind.IMAGE}
_SELECTOR = (
    ",".join(f"[{name}]" for name in (*_KINDS, *_SETS, "style", "http-equiv") if name != "xlink:href")
    + r",[xlink\:href],style"
)
# These lead to no page: a browser only opens a connection.
_ONLY_CONNECTIONS = {"preconnect", "dns-prefetch"}
_VALUE = re.compile(r"""[^\s=]*\s*=\s*(?:"([^"]*)"|'([^']*)'|(\S*))""", re.DOTALL)
_CANDIDATE = re.compile(r"[\s,]*(\S+)")
_REFRESH = re.compile(r"""\s*[\d.]+\s*[;,\s]\s*(?:url\s*=\s*)?(?:"([^"]*)|'([^']*)|(\S+))""", re.IGNORECASE)
_CSS = re.compile(
    r"""url\(\s*(?:"([^"\n]*)"|'([^'\n]*)'|([^\s"'()]+))\s*\)|@import\s+(?:"([^"\n]*)"|'([^'\n]*)')""",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\s*retriever:\s*(.*?)\s*", re.DOTALL)
_BLANKS = " \t\n\f"


def find_in_html(text: str) -> Findings:
    """Return the links of a page or a part of one, the ids and names in it, its base and its comments for us.

    What is written in comments or as text is no link. Time and memory grow with the length of the text.
    """
    document = turbohtml.parse(text, source_locations=True)
    links: list[Found] = []
    base: str | None = None
    for element in document.select(_SELECTOR):
        # An element that the parser itself repeats, as browsers do for misnested tags, is in the source once.
        if element.source_location is None:
            continue
        if element.tag == "base":
            base = element.attr("href") if base is None else base
        else:
            links.extend(_links_of(element, text))
    anchors = {str(element.attr("id")) for element in document.select("[id]")}
    anchors |= {str(element.attr("name")) for element in document.select("a[name]")}
    return Findings(links, list(_remarks(text)), frozenset(anchors), base)


@dataclass(frozen=True, slots=True)
class _Value:
    """The value of an attribute: as it is written from `start` on, and what it means."""

    start: int
    raw: str
    meant: str

    def whole(self, kind: LinkKind) -> Iterator[Found]:
        """Yield the value as a link, without the blanks around it."""
        raw = self.raw.strip(_BLANKS)
        if raw:
            start = self.start + len(self.raw) - len(self.raw.lstrip(_BLANKS))
            url = re.sub(r"[\t\n]", "", self.meant.strip(_BLANKS))
            yield Found(start, start + len(raw), url, kind)

    def part(self, match: re.Match[str], group: int, kind: LinkKind) -> Iterator[Found]:
        """Yield a part of the value as a link."""
        raw = match[group].strip(_BLANKS)
        if raw:
            start = self.start + match.start(group)
            start += len(match[group]) - len(match[group].lstrip(_BLANKS))
            yield Found(start, start + len(raw), unescape(raw), kind)


def _links_of(element: Element, text: str) -> Iterator[Found]:
    tag = element.tag
    if tag == "style":
        yield from _links_of_sheet(element, text)
    for name, value in _values(element, text):
        if name in _SETS:
            yield from _candidates(value, _SETS[name])
        elif name == "style":
            yield from _links_of_css(value)
        elif name == "content":
            yield from _refresh(value)
        elif not (name == "href" and tag == "link" and _only_connects(element)):
            kinds = _KINDS[name]
            kind = kinds.get(tag) or kinds.get(None)
            if kind is not None:
                yield from value.whole(kind)


def _values(element: Element, text: str) -> Iterator[tuple[str, _Value]]:
    """Yield the attributes that may hold links, with their values."""
    location = element.source_location
    assert location is not None
    refreshes = element.tag == "meta" and (element.attr("http-equiv") or "").strip().lower() == "refresh"
    for name, span in location.attrs.items():
        if name in _KINDS or name in _SETS or name == "style" or (name == "content" and refreshes):
            match = _VALUE.fullmatch(text, span.start_offset, span.end_offset)
            group = match.lastindex if match else None
            if match and group:
                yield name, _Value(match.start(group), match[group], element.attr(name) or "")


def _only_connects(element: Element) -> bool:
    return bool(_ONLY_CONNECTIONS & set((element.attr("rel") or "").lower().split()))


def _candidates(value: _Value, kind: LinkKind) -> Iterator[Found]:
    """Yield the images of a `srcset`; the HTML Standard lets their URLs hold commas, not end in them."""
    at = 0
    while match := _CANDIDATE.match(value.raw, at):
        url = match[1].rstrip(",")
        if url:
            start = value.start + match.start(1)
            yield Found(start, start + len(url), unescape(url), kind)
        at = match.end()
        if not match[1].endswith(","):
            comma = _end_of_descriptors(value.raw, at)
            at = comma + 1


def _end_of_descriptors(raw: str, at: int) -> int:
    depth = 0
    while at < len(raw) and (depth or raw[at] != ","):
        depth += (raw[at] == "(") - (raw[at] == ")" and depth > 0)
        at += 1
    return at


def _refresh(value: _Value) -> Iterator[Found]:
    match = _REFRESH.match(value.raw)
    if match and match.lastindex:
        yield from value.part(match, match.lastindex, LinkKind.REFRESH)


def _links_of_sheet(element: Element, text: str) -> Iterator[Found]:
    location = element.source_location
    assert location is not None
    start = location.start_tag.end_offset
    sheet = text[start : start + len(element.text)]
    # In a `style` of SVG there may be entities, so that its text is not what is written.
    if sheet == element.text:
        yield from _links_of_css(_Value(start, sheet, sheet))


def _links_of_css(value: _Value) -> Iterator[Found]:
    css = _without_comments(value.raw)
    for match in _CSS.finditer(css):
        if match.lastindex:
            yield from value.part(match, match.lastindex, LinkKind.RESOURCE)


def _without_comments(css: str) -> str:
    """Return a sheet with blanks for its comments."""
    parts, at = [], 0
    while (start := css.find("/*", at)) >= 0:
        end = css.find("*/", start + 2)
        end = len(css) if end < 0 else end + 2
        parts += [css[at:start], " " * (end - start)]
        at = end
    return "".join([*parts, css[at:]]) if parts else css


def _remarks(text: str) -> Iterator[Remark]:
    if "retriever:" not in text:
        return
    lines = Lines(text)
    for token in turbohtml.tokenize(text):
        if token.type is TokenType.COMMENT:
            match = _REMARK.fullmatch(token.data or "")
            if match:
                start = lines.starts[token.line - 1] + token.col
                yield Remark(start, text.find(">", start + len(token.data or "")) + 1, match[1])
