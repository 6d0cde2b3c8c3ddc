"""JSON as hosts send it: decoded, read with every whole number as it is, or told where it is no JSON."""

import json
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, NoReturn

import orjson
import webencodings

from consumer.compute.answers import JSON_TOO_DEEP, TOO_MANY_VALUES, Flaw, not_json
from shared import exact_json


@dataclass(frozen=True, slots=True)
class JsonBody:
    """The value of a body.

    Attributes:
        document: What it says. A number that no double can hold is an infinity.
        charset: What it was decoded with.
        is_exact: Whether it was decodable; if not, there are lone surrogates for bytes that were not.
    """

    document: Any
    charset: str = "utf-8"
    is_exact: bool = True


def read_json_body(body: bytes, label: str | None) -> JsonBody | Flaw:
    """Return the JSON of a body, or where it is none. Blocks for as long as parsing takes.

    One that may have too many values is not read: what it weighs is known only when it is in memory.

    JSON is UTF-8 whatever the label says (RFC 8259 section 8.1). Else it is UTF-16 or UTF-32, which a byte
    order mark or its zeros give away (RFC 4627 section 3); else what the label says; else UTF-8 with
    replacements, as the Fetch Standard reads JSON.

    Args:
        body: Its octets.
        label: The charset that was declared.
    """
    if exact_json.count_values(body) > exact_json.MAX_JSON_VALUES:
        return TOO_MANY_VALUES
    try:
        try:
            return JsonBody(exact_json.loads(body))
        except JSONDecodeError:
            text, charset, is_exact = _decode(body, label)
        try:
            return JsonBody(_read(text), charset, is_exact)
        except JSONDecodeError as error:
            return not_json(_place(error, charset, is_exact=is_exact))
    except RecursionError:
        return JSON_TOO_DEEP


def text_label(body: bytes, content_type: str | None, label: str | None) -> str | None:
    """Return the charset to read a body by: the declared one, unless it is JSON and UTF-8 all the same."""
    essence = (content_type or "").partition(";")[0].strip().lower()
    if label is None or not essence.endswith(("/json", "+json")) or json.detect_encoding(body) != "utf-8":
        return label
    try:
        body.decode()
    except UnicodeDecodeError:
        return label
    return "utf-8"


def _decode(body: bytes, label: str | None) -> tuple[str, str, bool]:
    charset = json.detect_encoding(body)
    encoding = webencodings.lookup(label) if label else None
    try:
        return body.decode(charset), charset, True
    except UnicodeDecodeError:
        pass
    if encoding is not None and encoding.name != "utf-8":
        try:
            return encoding.codec_info.decode(body, "strict")[0], encoding.name, True
        except UnicodeError:
            pass
    # Without a mark that was detected there is none to lose.
    return body.decode("utf-8-sig", "surrogateescape"), charset if charset == "utf-8-sig" else "utf-8", False


def _read(text: str) -> Any:
    # Python's own parser also takes halves of surrogate pairs, which truncated texts end with, and 1e400.
    try:
        return json.loads(text, parse_int=exact_json.read_whole, parse_constant=_refuse)
    except _NotJsonError:
        # orjson says where.
        return orjson.loads(text.encode("utf-8", "replace"))


class _NotJsonError(Exception):
    """The text has a NaN or an infinity."""


def _refuse(_name: str) -> NoReturn:
    raise _NotJsonError


def _place(error: JSONDecodeError, charset: str, *, is_exact: bool) -> str:
    """Return what is wrong and where, without a character of what was sent; all is counted from 1."""
    text = error.doc
    if not text.strip():
        return "it is empty"
    what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at").rstrip(": ")
    before = _encode(text[: error.pos], charset, "replace" if is_exact else "surrogateescape")
    said = f"{what} at line {error.lineno}, column {error.colno} (byte {len(before) + 1})"
    if text.lstrip().startswith("<"):
        return f"{said}; it begins as HTML and XML do"
    return said if is_exact else f"{said}; some of its bytes are not UTF-8"


def _encode(text: str, charset: str, errors: str) -> bytes:
    encoding = webencodings.lookup(charset)
    # Python knows the marks of UTF-8, UTF-16 and UTF-32, and the Standard some names that Python does not.
    if encoding is None or encoding.name.startswith("utf-"):
        return text.encode(charset, errors)
    return encoding.codec_info.encode(text, errors)[0]
