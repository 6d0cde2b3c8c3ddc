"""Links in sitemaps and in indexes of sitemaps (sitemaps.org, protocol 0.9).

expat reads, and stops at a document type: so there are no entities that grow and nothing is loaded from
elsewhere.
"""

from pyexpat import ExpatError, ParserCreate

from retriever_client.cli.links.document import Findings, Found, Lines, LinkKind

# What a sitemap may hold, by its protocol; each is bounded in bytes where it is read.
MOST_PAGES = 50_000
_NAMESPACE_END = "}"
_CDATA = "<![CDATA["
_KINDS = {"url": LinkKind.PAGE, "sitemap": LinkKind.SITEMAP}


class NoSitemap(ValueError):
    """A text is no sitemap: it says why, and where."""


def find_in_sitemap(text: str) -> Findings:
    """Return the pages of a sitemap, or the sitemaps of an index.

    Raises:
        NoSitemap: The text is not well-formed, has a document type, another root or more than 50,000 entries.
    """
    reading = _Reading(text)
    parser = ParserCreate("utf-8", namespace_separator=_NAMESPACE_END)
    parser.buffer_text = False
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = lambda name, _: reading.open(name)
    parser.EndElementHandler = lambda name: reading.close(
        name, parser.CurrentLineNumber, parser.CurrentColumnNumber
    )
    parser.CharacterDataHandler = lambda data: reading.hear(
        data, parser.CurrentLineNumber, parser.CurrentColumnNumber
    )
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except ExpatError as error:
        raise NoSitemap(f"it is not well-formed: {error}") from error
    return Findings(reading.links, [])


def _refuse_doctype(*_: object) -> None:
    raise NoSitemap("it has a document type, which no sitemap needs")


class _Reading:
    """Where in a sitemap the parser is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = Lines(text)
        self.links: list[Found] = []
        self.path: list[str] = []
        self.heard: list[str] = []
        self.start = 0
        self.namespace = ""

    def open(self, name: str) -> None:
        namespace, _, local = name.rpartition(_NAMESPACE_END)
        if not self.path and local not in {"urlset", "sitemapindex"}:
            raise NoSitemap(f"its root is <{local[:40]}>, not <urlset> or <sitemapindex>")
        if not self.path:
            self.namespace = namespace
        # Images and the like have a `loc` too, of a namespace of their own.
        self.path.append(local if namespace == self.namespace else name)
        self.heard.clear()

    def hear(self, data: str, line: int, column: int) -> None:
        if len(self.path) == 3 and self.path[2] == "loc":
            if not self.heard:
                self.start = self.lines.starts[line - 1] + column
            self.heard.append(data)

    def close(self, name: str, line: int, column: int) -> None:
        if len(self.path) == 3 and self.path[2] == "loc" and self.path[1] in _KINDS and self.heard:
            written = self.text[self.start : self.lines.starts[line - 1] + column]
            raw = written.partition("]]>")[0].strip()
            start = self.start + len(written) - len(written.lstrip())
            if raw.startswith(_CDATA):
                raw, start = raw[len(_CDATA) :], start + len(_CDATA)
            if raw:
                self.links.append(
                    Found(start, start + len(raw), "".join(self.heard).strip(), _KINDS[self.path[1]])
                )
            if len(self.links) > MOST_PAGES:
                raise NoSitemap(f"it has more than {MOST_PAGES:,} entries")
        self.path.pop()
        self.heard.clear()
