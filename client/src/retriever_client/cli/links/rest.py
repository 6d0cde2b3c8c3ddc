"""Links in reStructuredText, also with the directives and roles of Sphinx.

A scanner of our own and not docutils: docutils drops what stands in a directive that it does not know, tells
lines of paragraphs and no columns, and falls into endless recursion or minutes of work over a megabyte of `-
` or `:a:`. It is beside this scanner in the tests. Nothing is included, no directive is carried out. Each
line is gone over a fixed number of times.
"""

import re
from collections.abc import Iterator

from retriever_client.cli.links.document import Findings, Found, Lines, LinkKind, Remark
from retriever_client.cli.links.plain import find_urls

# What these hold is not written in reStructuredText, or is the name of a file.
_VERBATIM = frozenset(
    """
    blockdiag code code-block csv-plot default-role digraph doctest graph graphviz highlight include
    inheritance-diagram ipython literalinclude math mermaid meta plantuml plot productionlist prompt raw role
    sourcecode testcleanup testcode testoutput testsetup uml unicode
    """.split()  # noqa: SIM905 (one name a line would be a page of them)
)
_IMAGES = frozenset({"image", "figure", "thumbnail"})
_BULLET = re.compile(r"(?:[-*+\u2022\u2023\u2043]|\(?(?:\d+|[A-Za-z]|[ivxlcdmIVXLCDM]{1,9}|#)[.)])[ ]+(?=\S)")
_FIELD = re.compile(r":(?![: ])(?:[^:\\`]|\\.|:(?! ))*:(?=[ ]|$)[ ]*")
_MARKUP = re.compile(r"\.\.(?:[ \t]+|$)")
_DIRECTIVE = re.compile(r"(?:\|[^|\n]+\|[ ]+)?([A-Za-z0-9][A-Za-z0-9_.+:-]*?)[ ]?::(?:[ \t]+|$)")
_TARGET = re.compile(r"_(?![ ]|_:)(?:`([^`\n]+)`|((?:\\.|[^\\:`]|:(?!\s|$))+)):(?:[ \t]+|$)")
_ANONYMOUS = re.compile(r"__:(?:[ \t]+|$)")
_LABEL = re.compile(r"\[(?:#?[\w.\-]+|#|\*)\](?:[ \t]+|$)")
_REMARK = re.compile(r"retriever:[ \t]*(.*\S)")
_OPTION = re.compile(r"[ \t]+:([A-Za-z][\w-]*):(?:[ \t]+|$)")
# Literals, phrases in backquotes, and a backslash with what it escapes.
_INLINE = re.compile(r"\\.|``(?=\S)|`(?=[^\s`])", re.DOTALL)
_END_OF_LITERAL = re.compile(r"(?<=\S)``")
_END_OF_PHRASE = re.compile(r"(?<![\s\\])`")
_EMBEDDED = re.compile(r"(?:\A|\s)<([^<>]+)>\Z")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*\Z")
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")


def find_in_rest(text: str) -> Findings:
    """Return the links of a document, the ids of its sections and targets, and its comments for us.

    A reference by name is found once, where its target is defined. Roles are left to Sphinx: it knows what
    they mean, and complains itself.
    """
    return _Scan(text).run()


class _Scan:
    """One way through the lines of a document."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = Lines(text)
        self.count = len(self.lines.starts)
        self.links: list[Found] = []
        self.remarks: list[Remark] = []
        self.anchors: set[str] = set()

    def run(self) -> Findings:
        at = 0
        while at < self.count:
            at = self._block(at)
        return Findings(self.links, self.remarks, frozenset(self.anchors))

    def _block(self, at: int) -> int:
        """Read what begins in a line, and return the line to go on from."""
        line = self.lines.line(at)
        if not line.strip():
            return at + 1
        column = _text_column(line)
        if markup := _MARKUP.match(line, column):
            return self._explicit(at, column, markup.end())
        if line.startswith("__ ", column):
            return self._target(at, column, column + 3)
        if line.startswith(">>> ", column):
            return self._end_of_paragraph(at)
        return self._paragraph(at)

    def _paragraph(self, at: int) -> int:
        end = self._end_of_paragraph(at)
        for begin, stop in self._pieces(at, end):
            self.links += _find_inline(self.text, self.lines.starts[begin], self.lines.end(stop - 1))
        self._note_sections(at, end)
        last = self.lines.line(end - 1)
        # More colons than two, alone, are the line under a title.
        if not last.rstrip().endswith("::") or _ADORNMENT.match(last.strip()[1:-1]):
            return end
        return self._skip_literal(end, _text_column(last))

    def _pieces(self, at: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the lines that belong together within [at, end): markup goes over no border of an item."""
        begin, column = at, _text_column(self.lines.line(at))
        for number in range(at + 1, end):
            line = self.lines.line(number)
            indent = _indent(line)
            if indent != column or _text_column(line) != indent or line[indent] in "|+":
                yield begin, number
                begin, column = number, _text_column(line)
        yield begin, end

    def _note_sections(self, at: int, end: int) -> None:
        for number in range(at + 1, end):
            line = self.lines.line(number).rstrip()
            title = self.lines.line(number - 1).strip()
            if len(line) > 1 and _ADORNMENT.match(line) and title and not _ADORNMENT.match(title):
                self.anchors.add(_id(title))

    def _end_of_paragraph(self, at: int) -> int:
        while at < self.count and self.lines.line(at).strip():
            at += 1
        return at

    def _skip_literal(self, at: int, column: int) -> int:
        """Return the line behind a literal block, indented or quoted, after a text in a column."""
        begin = at
        while begin < self.count and not self.lines.line(begin).strip():
            begin += 1
        if begin == self.count:
            return begin
        line = self.lines.line(begin)
        if _indent(line) > column:
            return self._end_of_indented(begin, column)
        mark = line[column : column + 1]
        if not (_indent(line) == column and _ADORNMENT.match(mark)):
            return begin
        while begin < self.count and self.lines.line(begin).startswith(mark, column):
            begin += 1
        return begin

    def _end_of_indented(self, at: int, column: int) -> int:
        """Return the line behind those that are empty or indented by more than a column."""
        while at < self.count:
            line = self.lines.line(at)
            if line.strip() and _indent(line) <= column:
                break
            at += 1
        return at

    def _explicit(self, at: int, column: int, begin: int) -> int:  # noqa: PLR0911 (one for each construct)
        """Read what stands behind `..`, which is in a column; its own text begins in another."""
        line = self.lines.line(at)
        if directive := _DIRECTIVE.match(line, begin):
            return self._directive(at, column, directive)
        if anonymous := _ANONYMOUS.match(line, begin):
            return self._target(at, column, anonymous.end())
        if target := _TARGET.match(line, begin):
            self.anchors.add(_id(target[1] or target[2]))
            return self._target(at, column, target.end())
        if label := _LABEL.match(line, begin):
            self.links += _find_inline(self.text, self.lines.starts[at] + label.end(), self.lines.end(at))
            return at + 1
        if remark := _REMARK.match(line, begin):
            start = self.lines.starts[at]
            self.remarks.append(Remark(start + column, start + remark.end(), remark[1]))
            return at + 1
        # A comment; an empty one takes no lines with it when an empty line follows.
        if not line[begin:].strip() and at + 1 < self.count and not self.lines.line(at + 1).strip():
            return at + 1
        return self._end_of_indented(at + 1, column)

    def _target(self, at: int, column: int, begin: int) -> int:
        """Read the URL that a target leads to, which may go on in lines that are indented."""
        end = at + 1
        while end < self.count and self.lines.line(end).strip() and _indent(self.lines.line(end)) > column:
            end += 1
        start = self.lines.starts[at] + begin
        self._found(start, self.lines.end(end - 1), LinkKind.DEFINITION)
        return end

    def _directive(self, at: int, column: int, directive: re.Match[str]) -> int:
        name = directive[1].lower().rpartition(":")[2]
        if name in _VERBATIM:
            return self._end_of_indented(at + 1, column)
        begin, end = self.lines.starts[at] + directive.end(), at + 1
        if name in _IMAGES:
            while end < self.count and self._continues(end, column):
                end += 1
            self._found(begin, self.lines.end(end - 1), LinkKind.IMAGE)
        else:
            self.links += _find_inline(self.text, begin, self.lines.end(at))
        return self._options(end, column)

    def _continues(self, at: int, column: int) -> bool:
        line = self.lines.line(at)
        return bool(line.strip()) and _indent(line) > column and not _OPTION.match(line)

    def _options(self, at: int, column: int) -> int:
        """Go over the options of a directive; only `:target:` of an image leads somewhere."""
        while at < self.count:
            line = self.lines.line(at)
            option = _OPTION.match(line)
            if not option or _indent(line) <= column:
                break
            end = at + 1
            while end < self.count and self._continues(end, _indent(line)):
                end += 1
            if option[1] == "target":
                self._found(self.lines.starts[at] + option.end(), self.lines.end(end - 1), LinkKind.LINK)
            at = end
        return at

    def _found(self, start: int, end: int, kind: LinkKind) -> None:
        """Take what is written in [start, end) as a URL, unless it is none or the name of another target."""
        written = self.text[start:end]
        raw = written.strip()
        start += len(written) - len(written.lstrip())
        if raw and not (raw.endswith("_") and not raw.endswith("\\_")):
            self.links.append(Found(start, start + len(raw), _meant(raw), kind))


def _find_inline(text: str, start: int, end: int) -> Iterator[Found]:
    """Yield the links within a piece of running text: URLs as they are, and those in `` `text <URL>`_ ``."""
    at, plain = start, start
    unclosed: set[re.Pattern[str]] = set()
    while opening := _INLINE.search(text, at, end):
        at = opening.end()
        if opening[0][0] == "\\":
            continue
        closing = _END_OF_LITERAL if opening[0] == "``" else _END_OF_PHRASE
        # Once there is no end, there is none for what opens later.
        close = None if closing in unclosed else closing.search(text, at, end)
        if close is None:
            unclosed.add(closing)
            continue
        yield from find_urls(text, plain, opening.start())
        if opening[0] == "`" and text.startswith("_", close.end()) and close.end() < end:
            yield from _embedded(text, at, close.start())
        at = plain = close.end()
    yield from find_urls(text, plain, end)


def _embedded(text: str, start: int, end: int) -> Iterator[Found]:
    # The last bracket, so that a long phrase is searched once.
    bracket = text.rfind("<", start, end)
    match = _EMBEDDED.search(text[bracket - 1 if bracket > start else start : end]) if bracket >= 0 else None
    if match and not (match[1].endswith("_") and not match[1].endswith("\\_")):
        begin = (bracket - 1 if bracket > start else start) + match.start(1)
        raw = match[1].strip()
        begin += len(match[1]) - len(match[1].lstrip())
        if raw:
            yield Found(begin, begin + len(raw), _meant(raw), LinkKind.LINK)


def _meant(raw: str) -> str:
    """Return a URL without the blanks that break its lines, and without backslashes that escape."""
    return re.sub(r"\\(.)", r"\1", "".join(raw.split()))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _text_column(line: str) -> int:
    """Return where the text of a line begins, behind the marks of items and fields."""
    column = _indent(line)
    while marker := _BULLET.match(line, column) or _FIELD.match(line, column):
        column = marker.end()
    return column


def _id(name: str) -> str:
    """Return the id that docutils makes of a name."""
    return _NOT_IN_IDS.sub("-", name.lower()).strip("-")
