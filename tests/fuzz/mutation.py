"""Spoiling JSON documents and bytes at random, the same way for the same seed."""

import copy
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A text in place of which raw JSON is written, which `json` itself would not write.
_RAW = "\ue000raw:"
_DEPTH = 100_000

TIMES = (
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
    "2026-02-30T00:00:00Z",
    "2026-01-01T00:00:60Z",
    "2026-01-01",
    "1969-12-31T23:59:59Z",
    "2199-12-31T23:59:59.999999Z",
)
HOSTILE: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    -0.0,
    1e308,
    5e-324,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**400,
    f"{_RAW}NaN",
    f"{_RAW}-Infinity",
    f"{_RAW}1e999",
    f"{_RAW}{'9' * 5_000}",
    f"{_RAW}0.{'1' * 3_000}",
    f"{_RAW}{'[' * 300}{']' * 300}",
    f'{_RAW}"\\ud800"',
    f'{_RAW}"a\\udc00b"',
    f'{_RAW}"\\u0000"',
    f'{_RAW}{{"a": 1, "a": 2}}',
    "",
    " ",
    "\0",
    "a\0b",
    "\x1b[31m\r\nX-Y: z",
    "\u2028\ufeff\u202e",
    "é\U0001f600",
    "x" * 300,
    "x" * 70_000,
    "../../etc/passwd",
    "'; DROP TABLE jobs; --",
    "%s%n{0}${x}",
    "00000000-0000-0000-0000-000000000000",
    "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    "check",
    "no_such_kind",
    "*",
    [],
    [None],
    [[]],
    [0] * 2_000,
    {},
    {"": None},
    {"a": {"b": {}}},
    {f"k{number}": number for number in range(500)},
    *TIMES,
)
_PIECES = ("\0", "\x85", "é", "\ud800", " ", "#", "@", "%00")
_BYTES: Sequence[bytes] = (
    b"",
    b"\0",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r\n",
    b"{",
    b"}",
    b"]",
    b'"',
    b"\\",
    b"\\u",
    b",",
    b":",
    b"1e",
    b"-",
    b"null",
)


def spoiled(document: Any, rng: random.Random, *, hostile: Sequence[Any] = HOSTILE) -> Any:
    """Return a copy of a JSON document in which one to three places are other than they should be."""
    holder = {"": copy.deepcopy(document)}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parent, name = rng.choice(list(_places(holder)))
        _spoil(parent, name, rng, hostile)
    return holder.get("")


def encoded(document: Any, rng: random.Random) -> bytes:
    """Return a document as bytes of JSON, now and then damaged, or in a coding that nobody expects."""
    text = written(document)
    return rng.choice(_CODINGS)(text, rng) if rng.random() < 0.2 else text


def _in_wide_characters(text: bytes, rng: random.Random) -> bytes:
    return text.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-16-le")))


def _with_more(text: bytes, rng: random.Random) -> bytes:
    return text + rng.choice((b"\n", b"\0", text, b"\n" + text, b" " * 100_000))


def written(document: Any) -> bytes:
    """Return a document as JSON, with what stands for raw JSON as it is."""
    text = json.dumps(document)
    escaped = json.dumps(_RAW)[1:-1]
    while (at := text.find(f'"{escaped}')) >= 0:
        end = json.JSONDecoder().raw_decode(text, at)[1]
        raw = json.loads(text[at:end]).removeprefix(_RAW)
        text = text[:at] + raw + text[end:]
    return text.encode("utf-8", "surrogatepass")


def damaged(octets: bytes, rng: random.Random) -> bytes:
    """Return bytes with some bits or pieces of them changed."""
    array = bytearray(octets)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(array) + 1)
        match rng.randrange(4):
            case 0 if at < len(array):
                array[at] ^= 1 << rng.randrange(8)
            case 1:
                array[at:at] = rng.choice(_BYTES)
            case 2:
                del array[at : at + rng.randrange(1, 20)]
            case _:
                array[at:at] = array[max(at - rng.randrange(40), 0) : at]
    return bytes(array)


_CODINGS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    damaged,
    _in_wide_characters,
    _with_more,
    lambda text, rng: text[: rng.randrange(len(text) + 1)],
    lambda text, _: gzip.compress(text, mtime=0),
    lambda text, _: text.replace(b'"', b'"\xff', 1),
    lambda text, _: b"[" * _DEPTH + text,
)


def _places(value: Any) -> "list[tuple[Any, Any]]":
    """Return every place in a document, as what holds it and its name or index."""
    found: list[tuple[Any, Any]] = []
    names = list(value) if isinstance(value, Mapping) else range(len(value))
    for name in names:
        found.append((value, name))
        if isinstance(value[name], dict | list):
            found += _places(value[name])
    return found


def _spoil(parent: Any, name: Any, rng: random.Random, hostile: Sequence[Any]) -> None:
    old = parent[name]
    match rng.randrange(12):
        case 0 if name != "":
            del parent[name]
        case 1 if isinstance(parent, dict) and name != "":
            parent[rng.choice((name.upper(), f"{name} ", "unheard_of", "", "\0", "x" * 1_000))] = old
        case 2 if isinstance(parent, list):
            parent.extend([old] * rng.choice((1, 50)))
        case 3:
            parent[name] = [old]
        case 4:
            parent[name] = str(old)
        case 5 if isinstance(old, str) and old:
            at = rng.randrange(len(old))
            parent[name] = (
                old[:at] + rng.choice(("\0", "\x85", "é", "\ud800", " ", "#", "@", "%00")) + old[at:]
            )
        case 6 if isinstance(old, int | float) and not isinstance(old, bool):
            parent[name] = rng.choice(
                (-old, old + 1, old * 1_000, old * 10**20, old / 3 if abs(old) < 2**64 else 0, f"{old}")
            )
        case 7 if isinstance(old, str):
            parent[name] = old * rng.choice((2, 100))
        case _:
            # A copy, for a later change is made within it.
            parent[name] = copy.deepcopy(rng.choice(hostile))
