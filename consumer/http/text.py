"""Bodies of strangers as text: in which encoding they are, as browsers find it, and what may be shown."""

import codecs
import re
from collections.abc import Mapping

import webencodings
from webencodings import Encoding

from consumer.http.markup import Markup, as_written, read_html

PRESCAN_BYTES = 1024
"""How far into a page its encoding must be declared (HTML Standard, "prescan a byte stream")."""


def decode_page(body: bytes, label: str | None, markup: Markup = Markup.NONE) -> str:
    """Return a body as text, as a browser would; what cannot be decoded becomes U+FFFD.

    Args:
        body: A whole body, or its beginning.
        label: The charset of the `Content-Type`.
        markup: Whether the body may declare its encoding itself.
    """
    mark, codec = _marked(body)
    if codec is not None:
        return body[mark:].decode(codec, "replace")
    encoding = _declared(body, label, markup)
    if encoding is None:
        return _guessed(body)
    text, _ = encoding.codec_info.decode(body, "replace")
    return text


def decode_text(body: bytes, label: str | None, markup: Markup = Markup.NONE) -> tuple[str, str] | None:
    """Return a body as text that every store can hold, and its encoding; None when that would lose anything.

    Without a declaration it is UTF-8 or nothing. Text with a NUL is not text to us: PostgreSQL refuses it.
    """
    mark, codec = _marked(body)
    encoding = None if codec else _declared(body, label, markup)
    name = codec or (encoding.name if encoding else "utf-8")
    try:
        text, _ = (encoding.codec_info if encoding else codecs.lookup(name)).decode(body[mark:])
    except UnicodeError:
        return None
    return None if "\0" in text or name == "replacement" else (text, name)


def bounded_text(text: str, max_characters: int) -> str:
    """Return the beginning of a text, without surrogates and controls that stores or readers refuse."""
    cut = text[:max_characters].encode("utf-8", "replace").decode()
    return _CONTROLS.sub("\ufffd", cut)


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UTF8 = webencodings.UTF8
_XML_DECLARATION = re.compile(rb"<\?xml[^>]*?\sencoding\s*=\s*[\"']([^\"'>]+)[\"']")
# "Extracting a character encoding from a meta element" of the HTML Standard.
_CHARSET = re.compile(r"charset[\t\n\f\r ]*=[\t\n\f\r ]*(?:\"([^\"]*)\"|'([^']*)'|([^\t\n\f\r ;\"']+))", re.I)


def _marked(body: bytes) -> tuple[int, str | None]:
    """Return the length of the byte order mark and its codec; the mark wins over every declaration."""
    for mark, codec in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return len(mark), codec
    return 0, None


def _declared(body: bytes, label: str | None, markup: Markup) -> Encoding | None:
    """Return the encoding that the answer declares, else the page in its beginning; None when neither does.

    A label means what the Encoding Standard says: `iso-8859-1` and `us-ascii` are windows-1252, for example.
    """
    if label is not None and (encoding := _labelled(label)):
        return encoding
    if markup not in {Markup.HTML, Markup.XHTML}:
        return None
    beginning = body[:PRESCAN_BYTES]
    if (in_declaration := _XML_DECLARATION.match(beginning)) and markup is Markup.XHTML:
        return _readable(in_declaration[1].decode("latin-1")) or _UTF8
    if markup is Markup.XHTML:
        return _UTF8
    if b"charset" in beginning.lower():
        reader = _MetaReader()
        read_html(beginning.decode("latin-1"), reader)
        if reader.encoding is not None:
            return reader.encoding
    return _readable(in_declaration[1].decode("latin-1")) if in_declaration else None


def _readable(label: str) -> Encoding | None:
    """Return the encoding that a page declares in itself; who can read that does not read UTF-16."""
    encoding = _labelled(label)
    return encoding and webencodings.lookup(_INSTEAD.get(encoding.name, encoding.name))


def _labelled(label: str) -> Encoding | None:
    # The Standard lacks this name, which Python and its servers use.
    encoding = webencodings.lookup("latin1" if label.strip().lower() == "latin-1" else label)
    # The decoder of GBK is that of gb18030 (Encoding Standard, section 10.1); the library takes Python's.
    return webencodings.lookup("gb18030") if encoding and encoding.name == "gbk" else encoding


_INSTEAD: Mapping[str, str] = {
    "utf-16le": "utf-8",
    "utf-16be": "utf-8",
    "x-user-defined": "windows-1252",
}


def _guessed(body: bytes) -> str:
    """Return text without any declaration: UTF-8 if most of what is not ASCII decodes, else windows-1252.

    The HTML Standard leaves the guess to browsers and says windows-1252 for most of the world; each of them
    finds UTF-8 in some way.
    """
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        characters = len(text) - len(text.encode("ascii", "ignore"))
        return text if 2 * text.count("\ufffd") < characters else body.decode("cp1252", "replace")


class _MetaReader:
    """Listens for the first `meta` that declares an encoding which exists."""

    encoding: Encoding | None = None

    @property
    def is_done(self) -> bool:
        return self.encoding is not None

    def start(self, name: str, attributes: Mapping[str, str], *, is_html: bool) -> None:
        if name != "meta" or self.is_done:
            return
        label = attributes.get("charset")
        if label is None and attributes.get("http-equiv", "").lower() == "content-type":
            found = _CHARSET.search(attributes.get("content", ""))
            label = found and (found[1] or found[2] or found[3])
        if label:
            self.encoding = _readable(as_written(label))

    def end(self, name: str) -> None:
        """Not what this listens for."""

    def text(self, text: str) -> None:
        """Not what this listens for."""
