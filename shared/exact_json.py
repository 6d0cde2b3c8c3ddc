"""JSON with whole numbers of any length, as strangers write them: none becomes a float on its way.

orjson reads whole numbers of more than 64 bits as floats, without a word, and writes none. It is fast all the
same, so it does all but those. What decimals and exponents make is a double, as RFC 8259 section 6 foresees.
"""

import json
from math import isinf
from typing import Any, Final

import orjson
import re2

MAX_DIGITS: Final = 4_300
"""A whole number may have so many digits: what Python reads, and pydantic on its way to the store."""

MAX_DATA_BYTES: Final = 1_048_576
"""Limit of what an expression picks out, as JSON."""

MAX_JSON_VALUES: Final = 750_000
"""How many values a stranger's JSON may have to be read: lists in lists take 40 times its memory."""

# The shortest that orjson may make a float of: 2^64 has 20 digits, -2^63 has 19.
_LONG_NUMBER = re2.compile(rb"[0-9]{20}|-[0-9]{19}")
# The largest double has 309 digits.
_BEYOND_DOUBLES = re2.compile(rb"[0-9]{309,}")
_MAX_DEPTH = 254


def loads(text: bytes | str) -> Any:
    """Return the value of a JSON text in UTF-8; a whole number of too many digits is an infinity.

    Raises:
        orjson.JSONDecodeError: it is not JSON, or orjson does not take it: for a fraction or an exponent that
            no double can hold, half of a surrogate pair, or more than 1,024 levels.
    """
    octets = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        value = orjson.loads(octets)
    except orjson.JSONDecodeError as error:
        return _with_longest_numbers(octets, error)
    return json.loads(octets, parse_int=read_whole) if _LONG_NUMBER.search(octets) else value


def _with_longest_numbers(octets: bytes, error: orjson.JSONDecodeError) -> Any:
    """Return the value of a text that orjson does not take, if only for whole numbers beyond doubles.

    Raises:
        orjson.JSONDecodeError: for anything else.
    """
    if not _BEYOND_DOUBLES.search(octets):
        raise error
    # Whatever else is wrong with it, orjson sees it here.
    orjson.loads(_BEYOND_DOUBLES.sub(b"0", octets))

    def read_fraction(digits: str) -> float:
        if isinf(number := float(digits)):
            raise error
        return number

    return json.loads(octets, parse_int=read_whole, parse_float=read_fraction)


def count_values(text: bytes) -> int:
    """Return how many values and names a JSON text in UTF-8 has at most, without reading it."""
    return 1 + text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")


def read_whole(digits: str) -> int | float:
    """Return a whole number; an infinity when it has too many digits."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """Return a value as JSON, compact and in UTF-8.

    Raises:
        TypeError: it is no JSON, holds half of a surrogate pair, or is nested too deeply.
        ValueError: a whole number has too many digits.
    """
    option = orjson.OPT_SORT_KEYS if sort_keys else 0
    try:
        return orjson.dumps(value, option=option)
    except TypeError:
        return orjson.dumps(_written(value, _MAX_DEPTH), option=option)


def _written(value: Any, levels: int) -> Any:
    """Return a value with its long numbers as JSON that orjson passes on."""
    if levels < 0:
        raise TypeError("nested too deeply")
    match value:
        case bool():
            return value
        case int() if not -(2**63) <= value < 2**64:
            return orjson.Fragment(str(value))
        case dict():
            return {name: _written(part, levels - 1) for name, part in value.items()}
        case list() | tuple():
            return [_written(part, levels - 1) for part in value]
        case _:
            return value
