"""JSON as clients send it: one rule for bodies, lines of batches, cells of CSV and values in queries. Pure.

RFC 8259 leaves open what a name that comes twice means and how large a number may be. Parsers differ: one
keeps the last name, one makes a float of a large whole number. Here both are refused.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from producer.submission import json_pointer
from shared.errors import FieldError, JobInvalid

MAX_DEPTH: Final = 200
"""How deeply arrays and objects may be nested: what pydantic's parser takes."""

DUPLICATE_NAME: Final = "The name comes twice in one object"
BEYOND_64_BITS: Final = "A whole number must be from -9223372036854775808 to 18446744073709551615"
TOO_DEEP: Final = f"Values are nested more than {MAX_DEPTH} deep"

_LOWEST, _HIGHEST = -(2**63), 2**64 - 1
# orjson makes a float of a whole number from here on.
_LARGE = float(2**63)
# Added to a count of names, it makes any comparison fail.
_UNSURE = -(2**60)
_BLANKED = re.compile(rb'"[ \t\r\n]+:')


def read_json(text: bytes | str, *, at: str = "", levels: int = 0) -> Any:
    """Return the value of a JSON text (RFC 8259).

    Args:
        text: The text.
        at: JSON pointer of the text, for the errors.
        levels: How many levels of a larger text there are around it.

    Raises:
        orjson.JSONDecodeError: it is not JSON, a number is infinite as a double, or it has over 1,024 levels.
        JobInvalid: it is nested too deeply.
        AmbiguousJson: a name comes twice in one object, or a whole number has more than 64 bits.
    """
    raw = text.encode() if isinstance(text, str) else text
    try:
        value = orjson.loads(raw)
        names = _count_names([value], MAX_DEPTH + 1 - levels)
    except RecursionError:
        raise JobInvalid([FieldError(at, TOO_DEEP)]) from None
    # As many names came out of it as can have gone in: nearly always, and cheaply, this is the end.
    if names != _most_names(raw) and (faults := _find_faults(raw, at)):
        raise AmbiguousJson(faults)
    return value


class AmbiguousJson(JobInvalid):
    """A JSON text that different parsers read differently."""


class _Pairs(list[tuple[str, Any]]):
    """The names and values of an object, all of them."""


class _Whole(str):
    """The digits of a whole number."""

    __slots__ = ()


def _count_names(value: dict[str, Any] | list[Any], levels: int) -> int:
    if not levels:
        raise RecursionError
    names, inner = (len(value), value.values()) if isinstance(value, dict) else (0, value)
    for each in inner:
        kind = type(each)
        if kind is dict or kind is list:
            names += _count_names(each, levels - 1)
        elif kind is float and not -_LARGE < each < _LARGE:
            names += _UNSURE
    return names


def _most_names(raw: bytes) -> int:
    """Return how many names a text has at most: a name is followed by a quote and a colon."""
    most = raw.count(b'":')
    if most and b'\\":' in raw and b'\\\\"' not in raw:
        # No backslash is escaped before a quote, so these quotes are, and are inside a string.
        most -= raw.count(b'\\":')
    if b" :" in raw or b"\n:" in raw or b"\t:" in raw or b"\r:" in raw:
        most += len(_BLANKED.findall(raw))
    return most


def _find_faults(raw: bytes, at: str) -> list[FieldError]:
    return list(_faults(json.loads(raw, object_pairs_hook=_Pairs, parse_int=_Whole, parse_float=str), at))


def _faults(value: object, at: str) -> Iterator[FieldError]:
    match value:
        case _Whole():
            # Twenty digits and a sign are the most that 64 bits have.
            if len(value) > 20 or not _LOWEST <= int(value) <= _HIGHEST:
                yield FieldError(at, BEYOND_64_BITS)
        case _Pairs():
            seen: set[str] = set()
            for name, inner in value:
                place = at + json_pointer([name])
                if name in seen:
                    yield FieldError(place, DUPLICATE_NAME)
                seen.add(name)
                yield from _faults(inner, place)
        case list():
            for index, inner in enumerate(value):
                yield from _faults(inner, f"{at}/{index}")
