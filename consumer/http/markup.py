"""HTML and XHTML as tags and texts in their order: without a tree, and in linear time.

libxml2 cuts HTML into tags as the HTML Standard says (since 2.14). Then it closes elements by rules of its
own: an end tag that fits nothing walks through all that is open, which takes 34 s for 1 MB. So it never hears
of an element that stays open: `<div id=x>` goes in as `<br t-div id=x>` and `</div>` as `<hr t-div>`, which
end at once, and they come out as what they were.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Protocol

from lxml import etree

PIECE_CHARACTERS = 65_536


class Markup(Enum):
    """Whether a body is a page, by its `Content-Type`."""

    HTML = auto()
    XHTML = auto()
    NONE = auto()
    UNKNOWN = auto()
    """The host does not say; the first bytes tell (`sniff`)."""


class Listener(Protocol):
    """Hears what is in a page, until it has heard enough."""

    @property
    def is_done(self) -> bool:
        """Whether the rest does not matter."""

    def start(self, name: str, attributes: Mapping[str, str], *, is_html: bool) -> None:
        """Hear of a start tag.

        Args:
            name: In small letters in HTML, and without the namespace in XHTML.
            attributes: In HTML, values still have to go through `as_written`.
            is_html: False inside SVG and MathML, whose `title`, for example, is another element.
        """

    def end(self, name: str) -> None:
        """Hear of an end tag."""

    def text(self, text: str) -> None:
        """Hear a part of the text, without character references; in HTML it must go through `as_written`."""


def markup_of(content_type: str | None) -> Markup:
    """Return what a `Content-Type` says."""
    essence = (content_type or "").partition(";")[0].strip().lower()
    if "/" not in essence or essence in _MEANINGLESS:
        return Markup.UNKNOWN
    return _PAGES.get(essence, Markup.NONE)


def sniff(body: bytes) -> Markup:
    """Return whether a body without a type begins like HTML (MIME Sniffing Standard, section 7.1)."""
    return Markup.HTML if _LIKE_HTML.match(body) else Markup.NONE


def read_html(text: str, listener: Listener) -> None:
    """Tell a listener what is in an HTML page; blocks for up to half a second a megabyte."""
    target: Any = _FlatTarget(listener)  # The types of lxml demand what it does not.
    parser = etree.HTMLParser(target=target, huge_tree=True)
    at = 0
    while at < len(text) and not listener.is_done:
        piece = _next_piece(text, at)
        at += len(piece)
        if piece.startswith(_CDATA) and target.is_in_foreign_data:
            # Tags in there are text, but only in SVG and MathML, which libxml2 does not know.
            end = text.find("]]>", at)
            at = len(text) if end < 0 else end
        else:
            parser.feed(_END_TAG.sub("<hr t-", _START_TAG.sub("<br t-", piece)))
    if text and not listener.is_done:
        parser.close()


def read_xhtml(text: str, listener: Listener) -> None:
    """Tell a listener what is in an XHTML page, as far as it is XML.

    libxml2 bounds what entities expand to as long as `huge_tree` is false.
    """
    target: Any = _XmlTarget(listener)
    parser = etree.XMLParser(
        target=target, recover=True, resolve_entities=False, no_network=True, load_dtd=False
    )
    try:
        for at in range(0, len(text), PIECE_CHARACTERS):
            parser.feed(text[at : at + PIECE_CHARACTERS])
            if listener.is_done:
                return
        parser.close()
    except etree.LxmlError:
        pass  # The rest is no XML; the listener has heard what comes before.


def as_written(value: str) -> str:
    """Return a text or the value of an attribute as it stands in the page."""
    return value.replace("<br t-", "<").replace("<hr t-", "</") if "r t-" in value else value


_PAGES: Mapping[str, Markup] = {"text/html": Markup.HTML, "application/xhtml+xml": Markup.XHTML}
_MEANINGLESS = frozenset({"*/*", "unknown/unknown", "application/unknown"})
_LIKE_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title"
    rb"|b|body|br|p|!--)[ >]",
    re.IGNORECASE,
)

# Elements whose text is no markup keep their names: only their own end tag ends that text.
_TEXT_ELEMENTS = frozenset(
    {"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"}
)
_OTHER_NAME = rf"(?=[a-z])(?!(?:{'|'.join(sorted(_TEXT_ELEMENTS))})(?:[\s/>]|\Z))"
_START_TAG = re.compile(f"<{_OTHER_NAME}", re.IGNORECASE | re.ASCII)
_END_TAG = re.compile(f"</{_OTHER_NAME}", re.IGNORECASE | re.ASCII)
_CDATA = "<![CDATA["
_FOREIGN = frozenset({"svg", "math"})
_XHTML_NAMESPACE = "{http://www.w3.org/1999/xhtml"


def _next_piece(text: str, at: int) -> str:
    """Return a piece that ends before a tag and before CDATA, whose beginning is a piece of its own."""
    if text.startswith(_CDATA, at):
        return _CDATA
    end = text.find("<", at + PIECE_CHARACTERS)
    end = len(text) if end < 0 else end
    section = text.find(_CDATA, at, end)
    return text[at : end if section < 0 else section]


class _FlatTarget:
    """What lxml calls for tags that were made flat."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._foreign_depth = 0
        self._is_in_text_element = False

    @property
    def is_in_foreign_data(self) -> bool:
        return self._foreign_depth > 0 and not self._is_in_text_element

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in _TEXT_ELEMENTS:
            self._is_in_text_element = True
            self._listener.start(tag, attributes, is_html=self._foreign_depth == 0)
        elif tag in {"br", "hr"}:
            name = next(iter(attributes), "t-")[2:]
            if name in _FOREIGN:
                self._foreign_depth = max(0, self._foreign_depth + (1 if tag == "br" else -1))
            if tag == "br":
                self._listener.start(name, attributes, is_html=self._foreign_depth == 0)
            else:
                self._listener.end(name)

    def end(self, tag: str) -> None:
        if tag in _TEXT_ELEMENTS:
            self._is_in_text_element = False
            self._listener.end(tag)

    def data(self, text: str) -> None:
        self._listener.text(text)

    def close(self) -> None:
        """End, as lxml demands of a target."""


class _XmlTarget:
    """What lxml calls for tags of XML, whose names begin with their namespace."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        namespace, _, name = tag.rpartition("}")
        self._listener.start(name, attributes, is_html=namespace in {"", _XHTML_NAMESPACE})

    def end(self, tag: str) -> None:
        self._listener.end(tag.rpartition("}")[2])

    def data(self, text: str) -> None:
        self._listener.text(text)

    def close(self) -> None:
        """End, as lxml demands of a target."""
