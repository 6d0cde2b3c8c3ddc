"""HTML and XHTML as tags and texts in their order: without a tree, and in linear time.

libxml2 cuts HTML into tags as the HTML Standard says (since 2.14). Then it closes elements by rules of its
own: an end tag that fits nothing walks through all that is open, which takes 34 s for 1 MB. So it never hears
of an element that stays open: `<div id=x>` goes in as `<br z_div id=x>`, which ends at once, and comes out as
what it was. `<div>` says nothing and goes in as `</z_div>`, which comes out as nothing.
"""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import Any, Protocol

from lxml import etree

PIECE_CHARACTERS = 65_536
FIRST_PIECE_CHARACTERS = 1_024
"""Most titles are in there; pieces double."""


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
        """Hear of an end tag; in HTML only of those of `template` and of elements whose text is no markup."""

    def text(self, text: str) -> None:
        """Hear a part of the text, without character references; in HTML it must go through `as_written`."""


def markup_of(content_type: str | None) -> Markup:
    """Return what a `Content-Type` says."""
    essence = essence_of(content_type)
    return Markup.UNKNOWN if essence is None else _PAGES.get(essence, Markup.NONE)


def essence_of(content_type: str | None) -> str | None:
    """Return the media type of a `Content-Type` in small letters, or None when it says none."""
    found = _ESSENCE.match(content_type or "")
    return None if found is None or found[1].lower() in _MEANINGLESS else found[1].lower()


def sniff(body: bytes) -> Markup:
    """Return whether a body without a type begins like HTML (MIME Sniffing Standard, section 7.1)."""
    return Markup.HTML if _LIKE_HTML.match(body) else Markup.NONE


def read_html(text: str, listener: Listener) -> None:
    """Tell a listener what is in an HTML page; blocks for up to half a second a megabyte."""
    _in_own_thread(_read_html, text, listener)


def read_xhtml(text: str, listener: Listener) -> None:
    """Tell a listener what is in an XHTML page, as far as it is XML."""
    _in_own_thread(_read_xhtml, text, listener)


def as_written(value: str) -> str:
    """Return a text or the value of an attribute as it stands in the page."""
    if "z_" not in value:
        return value
    value = _FLAT_END_OF_TEXT.sub(r"</\1", value)
    return value.replace("<br z_", "<").replace("</z_", "<").replace("<hr z_", "</")


def _in_own_thread(read: Callable[[str, Listener], None], text: str, listener: Listener) -> None:
    # lxml keeps every name of an element or attribute for as long as the thread lives, and strangers never
    # run out of names: those of a page of 4 MB took 20 MB for good.
    with ThreadPoolExecutor(1, "page") as thread:
        thread.submit(read, text, listener).result()


def _read_html(text: str, listener: Listener) -> None:
    target: Any = _FlatTarget(listener)  # The types of lxml demand what it does not.
    parser = etree.HTMLParser(target=target, huge_tree=True)
    at, size = 0, FIRST_PIECE_CHARACTERS
    while at < len(text) and not listener.is_done:
        piece = _next_piece(text, at, size)
        at, size = at + len(piece), min(2 * size, PIECE_CHARACTERS)
        if piece == _CDATA and target.foreign_depth and target.text_element is None:
            # Tags in there are text, but only in SVG and MathML, which libxml2 does not know.
            end = text.find("]]>", at)
            at = len(text) if end < 0 else end
        else:
            parser.feed(_flat(piece))
    if text and not listener.is_done:
        parser.close()
        if target.text_element is not None:
            listener.end(target.text_element)


def _read_xhtml(text: str, listener: Listener) -> None:
    # libxml2 bounds what entities expand to as long as `huge_tree` is false.
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


_PAGES: Mapping[str, Markup] = {"text/html": Markup.HTML, "application/xhtml+xml": Markup.XHTML}
# Some servers send the field twice, which comes as a list.
_ESSENCE = re.compile(r"\s*([\w!#$&^.+-]+/[\w!#$&^.+*-]+|\*/\*)\s*(?:[;,]|\Z)", re.ASCII)
_MEANINGLESS = frozenset({"*/*", "unknown/unknown", "application/unknown"})
_LIKE_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title"
    rb"|b|body|br|p|!--)[ >]",
    re.IGNORECASE,
)

# The text of these is no markup, and only their own end tag ends it, so they keep their names.
_TEXT_ELEMENTS = "script|style|textarea|title|xmp|iframe|noembed|noframes"
_FOREIGN = "svg|math"
_NAME_ENDS = r"[\s/>]"
_FLAGS = re.IGNORECASE | re.ASCII
_SAYS_NOTHING = re.compile(
    rf"<(?=[a-z])(?!(?:{_TEXT_ELEMENTS}|plaintext|template|{_FOREIGN})>)([^\s/<>\"'=]+)>", _FLAGS
)
_START_TAG = re.compile(rf"<(?=[a-z])(?!(?:{_TEXT_ELEMENTS}|plaintext){_NAME_ENDS})", _FLAGS)
_END_TAG = re.compile(rf"</(template|{_FOREIGN})(?={_NAME_ENDS})", _FLAGS)
_END_OF_TEXT = re.compile(rf"</({_TEXT_ELEMENTS})(?={_NAME_ENDS})", _FLAGS)
_FLAT_END_OF_TEXT = re.compile(r"</(\w++)><hr z_\1")
_CDATA = "<![CDATA["
_XHTML_NAMESPACE = "{http://www.w3.org/1999/xhtml"


def _next_piece(text: str, at: int, size: int) -> str:
    """Return a piece that ends before a tag and before CDATA, whose beginning is a piece of its own."""
    if text.startswith(_CDATA, at):
        return _CDATA
    end = text.find("<", at + size)
    end = len(text) if end < 0 else end
    section = text.find(_CDATA, at, end)
    return text[at : end if section < 0 else section]


def _flat(piece: str) -> str:
    piece = _START_TAG.sub("<br z_", _SAYS_NOTHING.sub(r"</z_\1>", piece))
    # Behind the end of a text comes a tag that is no text any more, and so tells of it.
    return _END_OF_TEXT.sub(r"</\1><hr z_\1", _END_TAG.sub(r"<hr z_\1", piece))


class _FlatTarget:
    """What lxml calls for tags that were made flat; without a method for their ends, which say nothing.

    Attributes:
        foreign_depth: How many elements of SVG and MathML are open, as far as `svg` and `math` tell.
        text_element: The element whose text comes now, if its text is no markup.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.foreign_depth = 0
        self.text_element: str | None = None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.text_element = None
        if tag == "br":
            name = next(iter(attributes), "z_")[2:]
            if name in {"svg", "math"}:
                self.foreign_depth += 1
            self._listener.start(name, attributes, is_html=self.foreign_depth == 0)
        elif tag == "hr":
            name = next(iter(attributes), "z_")[2:]
            if name in {"svg", "math"}:
                self.foreign_depth = max(0, self.foreign_depth - 1)
            self._listener.end(name)
        elif tag not in _IMPLIED:
            self.text_element = tag
            self._listener.start(tag, attributes, is_html=self.foreign_depth == 0)

    def data(self, text: str) -> None:
        self._listener.text(text)

    def close(self) -> None:
        """End, as lxml demands of a target."""


_IMPLIED = frozenset({"html", "head", "body", "p"})


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
