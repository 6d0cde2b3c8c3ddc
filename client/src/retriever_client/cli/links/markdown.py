"""Links in Markdown: CommonMark with GitHub's autolinks and footnotes, and the HTML within it.

markdown-it-py parses; it keeps the lines of blocks and drops the columns of what is in them. So the rules
that make links are wrapped here, to remember which part of their block they took. Rules that no link depends
on are off: emphasis and entities, and tables, whose rows are then lines of a paragraph with the same links in
them and cost no token a cell.
"""

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline, autolink, backtick, html_inline, image, link
from markdown_it.token import Token
from mdit_py_plugins.footnote import footnote_plugin

from retriever_client.cli.links.document import Findings, Found, Lines, LinkKind, Remark
from retriever_client.cli.links.html import find_in_html
from retriever_client.cli.links.plain import find_urls_of_markdown

# Blocks within blocks; GitHub's own parser has the same limit. Brackets within brackets cost time for each
# level.
_DEEPEST_BLOCKS = 100
_DEEPEST_BRACKETS = 20
# `[label]: destination`, the destination perhaps on the next line of a quotation.
_DESTINATION = re.compile(r"(?<!\\)\]:[ \t]*(?:\n[ \t>]*)?(?:<([^<>\n]*)>|(\S+))")
_FRONT_MATTER = re.compile(r"(?:---|\+\+\+)[ \t]*\n")
_HEADING_ID = re.compile(r"\{#([^\s{}]+)\}\s*\Z")
_NOT_IN_SLUGS = re.compile(r"[^\w\- ]")
_UNDERSCORES_OF_EMPHASIS = re.compile(r"(?<![^\W_])_+(?=\w)|(?<=\w)_+(?![^\W_])")


def find_in_markdown(text: str) -> Findings:
    """Return the links of a document, the anchors of its headings and of its HTML, and its comments for us.

    A link by reference is found once, where its target is defined: there it can be mended. What is in code or
    in front matter is no link.
    """
    body = _without_front_matter(text)
    tokens = _parser().parse(body, {})
    return _Reading(body).read(tokens)


class _Reading:
    """What is found so far in a document."""

    def __init__(self, text: str) -> None:
        self.lines = Lines(text)
        self.links: list[Found] = []
        self.remarks: list[Remark] = []
        self.anchors: set[str] = set()
        self.slugs: dict[str, int] = {}

    def read(self, tokens: Sequence[Token]) -> Findings:
        for before, token in zip([None, *tokens], tokens, strict=False):
            if token.map is None:
                continue
            if token.type == "inline":
                self._read_inline(token)
                if before is not None and before.type == "heading_open":
                    self._read_heading(token)
            elif token.type == "html_block":
                self._read_html(_Block(token, self.lines), 0, token.content)
            elif token.type == "definition":
                self._read_definition(token, token.map)
        return Findings(self.links, self.remarks, frozenset(self.anchors))

    def _read_inline(self, token: Token) -> None:
        block = _Block(token, self.lines)
        taken: list[tuple[int, int]] = []
        for child in token.children or []:
            if "span" not in child.meta:
                continue
            start, end = child.meta["span"]
            taken.append((start, end))
            if child.type == "html_inline":
                self._read_html(block, start, child.content)
            elif child.type in {"link_open", "image"} and "to" in child.meta:
                kind = LinkKind.IMAGE if child.type == "image" else LinkKind.LINK
                url = str(child.attrs.get("src" if child.type == "image" else "href", ""))
                begin, stop = child.meta["to"]
                self.links += block.found(begin, stop, url, kind)
        if "://" in token.content or "www." in token.content.lower():
            for found in find_urls_of_markdown(_blank(token.content, taken)):
                self.links += block.found(found.start, found.end, found.url, found.kind)

    def _read_html(self, block: "_Block", offset: int, html: str) -> None:
        if html.startswith("</"):
            return
        findings = find_in_html(html)
        for found in findings.links:
            self.links += block.found(offset + found.start, offset + found.end, found.url, found.kind)
        for remark in findings.remarks:
            start, end = block.offset(offset + remark.start), block.offset(offset + remark.end)
            self.remarks.append(Remark(start, end, remark.said))
        self.anchors |= findings.anchors

    def _read_definition(self, token: Token, lines: Sequence[int]) -> None:
        start, end = self.lines.starts[lines[0]], self.lines.end(min(lines[1], len(self.lines.starts)) - 1)
        match = _DESTINATION.search(self.lines.text, start, end)
        if match and match.lastindex and match[match.lastindex]:
            at = match.span(match.lastindex)
            self.links.append(Found(*at, str(token.meta["url"]), LinkKind.DEFINITION))

    def _read_heading(self, token: Token) -> None:
        title = token.content
        if own := _HEADING_ID.search(title):
            self.anchors.add(own[1])
            title = title[: own.start()]
        else:
            title = "".join(
                child.content for child in token.children or [] if child.type in {"text", "code_inline"}
            )
        slug = heading_slug(title)
        count = self.slugs.get(slug, 0)
        self.slugs[slug] = count + 1
        self.anchors.add(f"{slug}-{count}" if count else slug)


def heading_slug(title: str) -> str:
    """Return the fragment by which GitHub names a heading, given its text without markup."""
    title = _UNDERSCORES_OF_EMPHASIS.sub("", title.strip().lower())
    return _NOT_IN_SLUGS.sub("", title).replace(" ", "-")


class _Block:
    """The text of a block, whose lines lost what stood before them: indentation, the marks of quotations."""

    def __init__(self, token: Token, lines: Lines) -> None:
        assert token.map is not None
        self._lines = lines
        self._first = token.map[0]
        self._own = Lines(token.content)
        self._shifts: dict[int, int] = {}

    def found(self, start: int, end: int, url: str, kind: LinkKind) -> Iterator[Found]:
        """Yield what is at [start, end) of the block where it is in the document, unless it is empty."""
        if end > start:
            yield Found(self.offset(start), self.offset(end - 1) + 1, url, kind)

    def offset(self, at: int) -> int:
        """Return where in the document a character of the block is."""
        number = self._own.number(at)
        if number not in self._shifts:
            self._shifts[number] = self._shift(number)
        start = self._lines.starts[self._first + number]
        return start + max(0, at - self._own.starts[number] + self._shifts[number])

    def _shift(self, number: int) -> int:
        """Return by how much a line of the document is longer before its text than that of the block."""
        own, whole = self._own.line(number), self._lines.line(self._first + number)
        # Tabs may have become blanks, so count from the first character that is none.
        text = own.lstrip()
        begin = len(whole.rstrip()) - len(text.rstrip())
        if not whole.startswith(text.rstrip(), begin):
            begin = max(0, whole.rfind(text.rstrip()))
        return begin - (len(own) - len(text))


def _blank(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return the text with blanks in place of the spans, which are in order and may lie in each other."""
    parts, at = [], 0
    for start, end in spans:
        if end > at:
            begin = max(start, at)
            parts += [text[at:begin], " " * (end - begin)]
            at = end
    return "".join([*parts, text[at:]])


def _without_front_matter(text: str) -> str:
    """Return the text with empty lines for its front matter, YAML between `---` or TOML between `+++`."""
    match = _FRONT_MATTER.match(text)
    if not match:
        return text
    mark = text[:3]
    end = re.compile(rf"^{re.escape(mark)}[ \t]*$", re.MULTILINE).search(text, match.end())
    if not end:
        return text
    return re.sub(r"[^\n]", " ", text[: end.end()]) + text[end.end() :]


def _parser() -> MarkdownIt:
    """Return a parser that notes in `meta` which part of its block a link took, `span`, and its URL, `to`."""
    parser = MarkdownIt("commonmark", {"maxNesting": _DEEPEST_BLOCKS, "inline_definitions": True})
    parser.core.ruler.before("inline", "brackets", _nest_less)
    footnote_plugin(parser, inline=False, move_to_end=False)
    parser.disable(["emphasis", "entity"])
    parser.inline.ruler.at("backticks", _remember_code)
    parser.inline.ruler.at("link", _remember_link)
    parser.inline.ruler.at("image", _remember_image)
    parser.inline.ruler.at("autolink", _remember_autolink)
    parser.inline.ruler.at("html_inline", _remember_html)
    # URLs are told as they are written, and judged by who asks for them.
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return parser


def _nest_less(state: StateCore) -> None:
    state.md.options["maxNesting"] = _DEEPEST_BRACKETS


def _remember_code(state: StateInline, silent: bool) -> bool:
    start, count = state.pos, len(state.tokens)
    return backtick(state, silent) and _note(state, "code_inline", count, span=(start, state.pos))


def _remember_html(state: StateInline, silent: bool) -> bool:
    start, count = state.pos, len(state.tokens)
    return html_inline(state, silent) and _note(state, "html_inline", count, span=(start, state.pos))


def _remember_autolink(state: StateInline, silent: bool) -> bool:
    start, count = state.pos, len(state.tokens)
    if not autolink(state, silent):
        return False
    return _note(state, "link_open", count, span=(start, state.pos), to=(start + 1, state.pos - 1))


def _remember_link(state: StateInline, silent: bool) -> bool:
    start, count = state.pos, len(state.tokens)
    if not _is_closed(state) or not link(state, silent):
        return False
    return silent or _note_destination(state, "link_open", count, start, label=start)


def _remember_image(state: StateInline, silent: bool) -> bool:
    start, count = state.pos, len(state.tokens)
    if not _is_closed(state) or not image(state, silent):
        return False
    return silent or _note_destination(state, "image", count, start, label=start + 1)


def _is_closed(state: StateInline) -> bool:
    """Whether a bracket closes behind here: without one, the rules would look to the end each time."""
    source, last = state.env.get("last_bracket", (None, -1))
    if source is not state.src:
        last = state.src.rfind("]")
        state.env["last_bracket"] = (state.src, last)
    return bool(last > state.pos)


def _note_destination(state: StateInline, kind: str, count: int, start: int, *, label: int) -> bool:
    """Note where the URL behind a label in brackets is, unless the label stands for a definition."""
    end = state.pos
    at = state.md.helpers.parseLinkLabel(state, label, kind == "link_open") + 1
    if not (state.src.startswith("(", at) and end > at):
        return _note(state, kind, count, span=(start, end))
    at += 1
    while state.src[at] in " \t\n":
        at += 1
    destination = state.md.helpers.parseLinkDestination(state.src, at, end)
    bracket = state.src[at] == "<"
    to = (at + bracket, destination.pos - bracket) if destination.ok else (at, at)
    return _note(state, kind, count, span=(start, end), to=to)


def _note(state: StateInline, kind: str, count: int, **where: tuple[int, int]) -> bool:
    """Note in the token of this kind that a rule has just made; before it there may be one of text."""
    for token in state.tokens[count : count + 2]:
        if token.type == kind:
            token.meta = {**token.meta, **where}
    return True
