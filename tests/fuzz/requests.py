"""Requests for every operation of the contract, spoiled: targets, fields, bodies, framing, bytes."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from producer.api.contract import load_contract
from tests.fuzz.mutation import HOSTILE, damaged, encoded, spoiled

_METHODS = ("get", "post", "delete")
_ODD_METHODS = ("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "get", "G\x00T", "PRI", "X" * 300)
# What waits for a task would wait for a minute.
_WAIT = "wait_seconds"
_SHORT_WAIT_SECONDS = 0.01
_KEPT_IDS = 200

_TEXTS: Sequence[str] = (
    "",
    " ",
    "\0",
    "a,b",
    "null",
    "true",
    "TRUE",
    "0",
    "-1",
    "1e3",
    "05",
    "+5",
    "1_000",
    "٣",
    "9" * 400,
    "NaN",
    "x" * 600,
    "x" * 9_000,
    "é\U0001f600",
    "\u2028",
    "\r\nX-Y: z",
    "../..",
    "%00",
    "%",
    "*",
    "'; --",
    "2026-01-01T00:00:00Z",
    "2026-01-01",
    "9999-12-31T23:59:59Z",
    "a:b",
    "check",
    "bulk",
    "parked",
    "eyJhIjoxfQ",
)
_FIELDS: Mapping[str, Sequence[bytes]] = {
    "Accept": (b"*/*", b"text/csv", b"application/xml;q=0.5, */*;q=0", b"\xff", b"a" * 3_000, b",,;q=x"),
    "Accept-Encoding": (b"gzip", b"br;q=0", b"identity;q=0, *;q=0"),
    "Content-Encoding": (b"gzip", b"identity", b"br, gzip"),
    "Expect": (b"100-continue", b"200-ok"),
    "Host": (b"localhost", b"127.0.0.1", b"[::1]:80", b"", b"a b", b"localhost\xff"),
    "Idempotency-Key": (b"k", b'"k"', b"", b"\xff", b"x" * 500, b"a\tb", b"k1", b"k2"),
    "If-None-Match": (b"*", b'"a"', b'W/"a", "b"', b"\xff", b'"' * 100),
    "Origin": (b"null", b"http://localhost", b"http://evil.example", b"\xff"),
    "Range": (b"bytes=0-", b"bytes=5-1", b"bytes=-0", b"bytes=0-0,1-2", b"items=0-1", b"bytes=" + b"9" * 400),
    "Retriever-Actor": (b"ann", b"", b"\xff", b"x" * 500, b"a\x01b"),
    "Sec-Fetch-Site": (b"same-origin", b"cross-site", b"none"),
    "Transfer-Encoding": (b"chunked", b"gzip, chunked", b"identity", b"\x0bchunked", b"chunked, chunked"),
    "Upgrade": (b"h2c", b"websocket"),
    "Connection": (b"close", b"keep-alive, Upgrade", b"Content-Length"),
    "X-Forwarded-Host": (b"evil.example",),
    "Content-Length": (b"0", b"-1", b"1e3", b"99999999999999999999", b"5, 5", b"+5", b" 5 "),
}
_CONTENT_TYPES: Sequence[bytes] = (
    b"application/json",
    b"application/json; charset=utf-16",
    b"application/merge-patch+json",
    b"application/x-ndjson",
    b"application/jsonl",
    b"text/csv",
    b"text/tab-separated-values",
    b"text/plain",
    b"text/plain; charset=nonsense",
    b"multipart/form-data",
    b"application/x-www-form-urlencoded",
    b"",
    b"\xff",
    b"nonsense",
)
_LINES: Sequence[str] = (
    "https://example.com/",
    "http://example.com/a b",
    "www.example.com",
    "# comment",
    '{"url": "https://example.com/", "ref": "a"}',
    '{"url": 7}',
    "url,title",
    '"https://example.com/","a ""b""',
    '"unclosed',
    "sep=;",
    "\ufeffurl;ref",
    "javascript:alert(1)",
    "https://ex\u00e4mple.com/\u2028",
    "x" * 70_000,
    "",
    "\0",
    "a\tb\tc",
)


class Request(NamedTuple):
    """Bytes to send, and whether they are HTTP that has to be answered."""

    octets: bytes
    is_whole: bool
    method: str


class _Operation(NamedTuple):
    method: str
    path: str
    parameters: Sequence[Mapping[str, Any]]
    content: Mapping[str, Sequence[Any]]


@dataclass(slots=True)
class RequestFuzzer:
    """Makes requests; ids that answers have named are asked for in the next ones."""

    seed: int
    ids: list[str] = field(default_factory=list)
    _operations: Sequence[_Operation] = field(default_factory=lambda: _operations(load_contract()))

    def learn(self, document: Any) -> None:
        """Remember the ids, tokens and cursors of an answer."""
        match document:
            case {"items": [*items]}:
                for item in items[:3]:
                    self.learn(item)
            case dict():
                found = (document.get(name) for name in ("id", "job_id", "batch_id", "token", "next_cursor"))
                self.ids += [text for text in found if isinstance(text, str)]
                del self.ids[:-_KEPT_IDS]

    def request(self, number: int) -> Request:
        """Return the request of a number: the same each time, but for what was learned."""
        rng = random.Random(f"{self.seed}-{number}")
        operation = rng.choice(self._operations)
        method = rng.choice(_ODD_METHODS) if rng.random() < 0.03 else operation.method
        target = self._target(operation, rng)
        fields = self._fields(operation, rng)
        body, content_type = self._body(operation, rng)
        if content_type is not None:
            fields.append(("Content-Type", content_type))
        lines, sent, is_whole = _framed(body, rng)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            name = rng.choice(sorted(_FIELDS))
            is_whole &= name not in {"Transfer-Encoding", "Content-Length", "Upgrade", "Connection", "Expect"}
            fields.append((name, rng.choice(_FIELDS[name])))
        if "Host" not in {name for name, _ in fields} and rng.random() < 0.98:
            fields.insert(0, ("Host", b"localhost"))
        version = (
            b"HTTP/1.1" if rng.random() < 0.97 else rng.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b""))
        )
        head = b" ".join((method.encode("latin-1", "replace"), target, version)) + b"\r\n"
        head += b"".join(name.encode() + b": " + value + b"\r\n" for name, value in fields) + lines + b"\r\n"
        if rng.random() < 0.08:
            return Request(damaged(head, rng) + sent, False, method)
        is_known = method in {"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD"} and version == b"HTTP/1.1"
        return Request(head + sent, is_whole and is_known, method)

    def _target(self, operation: _Operation, rng: random.Random) -> bytes:
        path = operation.path
        for parameter in operation.parameters:
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", self._path_value(parameter, rng))
        if rng.random() < 0.03:
            path = rng.choice((f"/{path}", f"{path}/", path.replace("/", "%2F"), path.upper(), "*", "//x/y"))
        pairs = [
            (parameter["name"], self._query_value(parameter, rng))
            for parameter in operation.parameters
            if parameter["in"] == "query" and rng.random() < 0.35
        ]
        if rng.random() < 0.05:
            pairs += rng.choice(([("unheard_of", "x")], pairs, [("", "")], [("limit", "5"), ("limit", "5")]))
        query = "&".join(f"{quote(name)}={_quoted(value, rng)}" for name, value in pairs)
        octets = (path + (f"?{query}" if query or rng.random() < 0.02 else "")).encode()
        return octets + rng.choice((b"", b"#f", b"%", b"?&&&", b"\x80")) if rng.random() < 0.03 else octets

    def _path_value(self, parameter: Mapping[str, Any], rng: random.Random) -> str:
        enum = parameter["schema"].get("enum")
        if enum and rng.random() < 0.8:
            return str(rng.choice(enum))
        if self.ids and rng.random() < 0.8:
            return rng.choice(self.ids)
        return quote(rng.choice(_TEXTS), safe="")

    def _query_value(self, parameter: Mapping[str, Any], rng: random.Random) -> str:
        schema = parameter.get("schema", {})
        known = [*schema.get("enum", []), *([parameter["example"]] if "example" in parameter else [])]
        if known and rng.random() < 0.5:
            return str(rng.choice(known))
        match schema.get("type"):
            case "integer" if rng.random() < 0.6:
                return str(rng.choice((1, 2, 100, 0, 10**6, -(2**63), 10**30)))
            case "boolean" if rng.random() < 0.6:
                return rng.choice(("true", "false", "1", "True"))
        return rng.choice(self.ids) if self.ids and rng.random() < 0.3 else rng.choice(_TEXTS)

    def _fields(self, operation: _Operation, rng: random.Random) -> list[tuple[str, bytes]]:
        named = [each["name"] for each in operation.parameters if each["in"] == "header"]
        return [(name, rng.choice(_FIELDS[name])) for name in named if name in _FIELDS and rng.random() < 0.5]

    def _body(self, operation: _Operation, rng: random.Random) -> tuple[bytes | None, bytes | None]:
        if not operation.content:
            return (None, None) if rng.random() < 0.9 else (rng.randbytes(20), rng.choice(_CONTENT_TYPES))
        media_type = rng.choice(sorted(operation.content))
        declared = media_type.encode() if rng.random() < 0.92 else rng.choice(_CONTENT_TYPES)
        example = rng.choice(operation.content[media_type])
        if isinstance(example, str) or media_type != "application/json":
            lines = [*str(example).splitlines(), *rng.sample(_LINES, rng.randrange(5))]
            rng.shuffle(lines)
            text = rng.choice(("\n", "\r\n", "\r")).join(lines).encode("utf-8", "surrogatepass")
            return (damaged(text, rng) if rng.random() < 0.4 else text), declared
        document = spoiled(example, rng) if rng.random() < 0.85 else example
        if self.ids and rng.random() < 0.3 and isinstance(document, dict) and "token" in document:
            document = {**document, "token": rng.choice(self.ids)}
        return encoded(_without_long_wait(document), rng), declared


def _without_long_wait(document: Any) -> Any:
    if isinstance(document, dict) and isinstance(document.get(_WAIT), int | float):
        return {**document, _WAIT: min(document[_WAIT], _SHORT_WAIT_SECONDS)}
    return document


def _quoted(value: str, rng: random.Random) -> str:
    return value.replace(" ", "+") if value.isalnum() and rng.random() < 0.1 else quote(value, safe=",:*")


def _framed(body: bytes | None, rng: random.Random) -> tuple[bytes, bytes, bool]:
    """Return the fields that frame a body, the bytes after the head, and whether they are whole."""
    if body is None:
        return b"", b"", True
    if rng.random() < 0.7:
        return _announced(len(body)), body, True
    chunks = _chunked(body, rng)
    if rng.random() < 0.5:
        return _CHUNKED, chunks, True
    lines, sent = rng.choice(
        (
            (_announced(len(body) + rng.randrange(1, 100)), body),
            (_announced(max(len(body) - 3, 0)), body),
            (b"", body),
            (_CHUNKED + _announced(5), chunks),
            (_CHUNKED, damaged(chunks, rng)),
            (_announced(len(body)) * 2, body),
        )
    )
    return lines, sent, False


_CHUNKED = b"Transfer-Encoding: chunked\r\n"


def _announced(octets: int) -> bytes:
    return b"Content-Length: %d\r\n" % octets


def _chunked(body: bytes, rng: random.Random) -> bytes:
    pieces, at = [], 0
    while at < len(body):
        size = rng.choice((1, 7, 1_000, 65_536)) if len(body) < 2_000 else 65_536
        piece = body[at : at + size]
        pieces.append(b"%x%s\r\n%s\r\n" % (len(piece), rng.choice((b"", b"", b";a=b")), piece))
        at += size
    return b"".join(pieces) + b"0\r\n" + rng.choice((b"", b"", b"X-Trailer: a\r\n")) + b"\r\n"


def _operations(contract: Mapping[str, Any]) -> list[_Operation]:
    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in node:
            return node
        found: Any = contract
        for name in node["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return resolved(found)

    operations = []
    for path, item in contract["paths"].items():
        for method in _METHODS:
            if method not in item:
                continue
            operation = item[method]
            declared = [*item.get("parameters", []), *operation.get("parameters", [])]
            body = resolved(operation.get("requestBody", {})).get("content", {})
            content = {media_type: _examples(found) for media_type, found in body.items()}
            parameters = [resolved(each) for each in declared]
            operations.append(_Operation(method.upper(), path, parameters, content))
    return operations


def _examples(content: Mapping[str, Any]) -> list[Any]:
    named = [example["value"] for example in content.get("examples", {}).values() if "value" in example]
    one = [content["example"]] if "example" in content else []
    return [*named, *one] or [{}, *(value for value in HOSTILE if isinstance(value, dict | list))]


def read_document(body: bytes) -> Any:
    """Return a body as JSON; None when it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None
