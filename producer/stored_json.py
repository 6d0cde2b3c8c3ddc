r"""JSON as it is stored: text that is passed on as it is, and of which a few fields are read. Pure.

As objects of Python a document takes twenty times the room of its text and more, and strangers write it. So
what only hands it on never reads it, and what needs a few of its fields reads those alone.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import msgspec
import orjson

from shared import exact_json

Picked = TypeVar("Picked", bound=msgspec.Struct)

NULL: Final = msgspec.Raw(b"null")
"""What a field is that a document lacks."""

# Shorter numbers need no look at how long they are.
_SHORT_DIGITS = 19
_TEXT = msgspec.json.Decoder(str)
# The first surrogate, and where as many code points are that Unicode has for private use.
_LONE = 0xD800
_PRIVATE = (
    (0xE000, re.compile(r"\\u[eE][0-7][0-9a-fA-F]{2}")),
    (0xE800, re.compile(r"\\u[eE][89a-fA-F][0-9a-fA-F]{2}")),
    (0xF000, re.compile(r"\\u[fF][0-7][0-9a-fA-F]{2}")),
)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
# Pairs, escaped backslashes, and what is left of the escapes of surrogates: lone ones.
_SURROGATES = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\\\)|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


class StoredObject(Mapping[str, Any]):
    """A JSON object from the store: `text` as it was stored, read as a whole when a field is asked for."""

    __slots__ = ("_fields", "text")

    def __init__(self, text: str) -> None:
        """Take the text of an object, compact and ASCII, as the store writes it."""
        self.text = text
        self._fields: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        """Return a field."""
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names of the fields."""
        return iter(self._read())

    def __len__(self) -> int:
        """Return how many fields there are."""
        return len(self._read())

    def __repr__(self) -> str:
        """Return its size: the text may hold secrets."""
        return f"<StoredObject of {len(self.text)} bytes>"

    def _read(self) -> dict[str, Any]:
        if self._fields is None:
            self._fields = json.loads(self.text, parse_int=exact_json.read_whole)
        return self._fields


def json_text(document: object) -> str:
    """Return the JSON text of a document; an object that was stored is passed on."""
    if isinstance(document, StoredObject):
        return document.text
    return json.dumps(document, separators=(",", ":"))


def pick(document: Mapping[str, Any] | None, decoder: msgspec.json.Decoder[Picked]) -> Picked:
    """Return the fields that a decoder is for, as they are stored, and read no others.

    Args:
        document: None has none of them.
        decoder: Of a structure whose fields are `msgspec.Raw` and default to `NULL`.
    """
    text = "{}" if document is None else json_text(document)
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        disguise = _Disguise.of(text)
        picked = decoder.decode(disguise.hide(text))
    for name in picked.__struct_fields__:
        setattr(picked, name, msgspec.Raw(disguise.reveal(text_of(getattr(picked, name))).encode()))
    return picked


def text_of(field: msgspec.Raw) -> str:
    """Return the JSON text of a field."""
    return bytes(field).decode()


def items_of(field: msgspec.Raw) -> list[bytes]:
    """Return the JSON text of each item of a field that is a list; none of any other."""
    text = text_of(field)
    if not text.startswith("["):
        return []
    try:
        return [bytes(item) for item in _ITEMS.decode(text)]
    except msgspec.DecodeError:
        disguise = _Disguise.of(text)
        return [disguise.reveal(text_of(item)).encode() for item in _ITEMS.decode(disguise.hide(text))]


def scalar(field: msgspec.Raw) -> str | float | bool | None:
    """Return the value of a field; None for an array or an object, which may be of any size."""
    if field is NULL:
        return None
    octets = bytes(field)
    if octets[:1] in (b"[", b"{", b"n"):
        return None
    if len(octets) < _SHORT_DIGITS and octets.isdigit():
        return int(octets)
    try:
        if octets.startswith(b'"'):
            text: str = _TEXT.decode(octets)
            return text
    except msgspec.DecodeError:
        # With a lone surrogate.
        pass
    value: str | float | bool = json.loads(octets, parse_int=exact_json.read_whole)
    return value


def embed(document: bytes | str, **stored: str) -> bytes:
    """Return a JSON object with further fields at its end, whose values are JSON texts."""
    text = document.decode() if isinstance(document, bytes) else document
    fields = ",".join(f'"{name}":{value}' for name, value in stored.items())
    return f"{text[:-1]},{fields}}}".encode()


def page_of(items: list[bytes], *, following: object | None) -> bytes:
    """Return the document of a page of a list: its items, each a JSON text, and the cursor behind them."""
    cursor = orjson.dumps(None if following is None else str(following))
    return b'{"items":[' + b",".join(items) + b'],"next":' + cursor + b"}"


@dataclass(frozen=True, slots=True)
class _Disguise:
    """Hides lone surrogates behind other escapes of the same length, and brings them back.

    JSON may have them (RFC 8259 section 8.2) and strangers write them, but they are no Unicode, and the
    decoder refuses them even where it only passes over them.
    """

    first: int | None
    """Of 2,048 code points for private use whose escapes the text does not have; None when it has of all."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Return one for a text."""
        return cls(next((first for first, escapes in _PRIVATE if not escapes.search(text)), None))

    def hide(self, text: str) -> str:
        """Return the text without lone surrogates."""
        return _SURROGATES.sub(lambda found: found[1] or self._escape(found[0]), text)

    def reveal(self, part: str) -> str:
        """Return a part of the text as it was."""
        if (first := self.first) is None:
            return part
        escapes = dict(_PRIVATE)[first]
        return escapes.sub(lambda found: rf"\u{int(found[0][2:], 16) - first + _LONE:04x}", part)

    def _escape(self, surrogate: str) -> str:
        if self.first is None:
            return r"\ufffd"
        return rf"\u{int(surrogate[2:], 16) - _LONE + self.first:04x}"
