"""Bad servers and bad content of every kind that is tried, as data: what is said, to which job, how it ends.

Each has a loopback address of its own, so that limits of hosts apply to it alone, and so that the site
(`bench.hostile_site`) knows before the first byte what is wanted of it.
"""

import gzip
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from types import MappingProxyType
from typing import Any

import brotli
import orjson

LEFT_SECONDS = 1.0
"""The time limit of jobs that nothing else ends."""

AMPLE_SECONDS = 60.0
"""The time limit of all others: above what they take on a machine with much else to do."""

OURS = frozenset({"compute_busy"})
"""Reasons that say that we were too busy: true, without a verdict, and tried again."""

MEBIBYTE = 1_048_576
Json = Mapping[str, Any]


class Then(Enum):
    """What a server does when it has said all that it says."""

    CLOSE = auto()
    KEEP = auto()
    SILENT = auto()
    """Nothing, until the client goes."""
    RESET = auto()
    HALF_CLOSE = auto()
    """It ends its own side, and listens on."""


class Comes(Enum):
    """Before what an answer comes: before the first byte of the client, or behind the head of its request."""

    AT_ONCE = auto()
    ASKED = auto()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its method, its target, and the origin that it came to."""

    method: str
    target: str
    origin: str

    @property
    def number(self) -> int:
        """The number at the end of the target, 0 without one."""
        digits = self.target.rpartition("/")[2]
        return int(digits) if digits.isdigit() and len(digits) < 10 else 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to a request: a beginning, and then the same octets again and again.

    Attributes:
        again: Said without end, if there are any.
        pause_seconds: The pause before each of those.
    """

    begin: bytes | Callable[[Asked], bytes] = b""
    again: bytes = b""
    pause_seconds: float = 0.0
    then: Then = Then.CLOSE
    comes: Comes = Comes.ASKED

    def octets(self, asked: Asked) -> bytes:
        """Return the beginning."""
        return self.begin if isinstance(self.begin, bytes) else self.begin(asked)


@dataclass(frozen=True, slots=True)
class Hostile:
    """A kind of bad server or content.

    Attributes:
        name: In words, unique.
        ends: The reasons of which one says truly how its job ends, or `ok`.
        job: The kind and the arguments of the job that meets it, without URL and time limit.
        is_left: Whether the time limit alone ends the job.
        host: A name that its DNS says something bad about, instead of an address.
        tls: Whether it ends TLS, with a certificate that is huge.
        scheme: Of its URL.
    """

    name: str
    answer: Answer
    ends: frozenset[str]
    job: Json = field(default_factory=lambda: CHECK)
    is_left: bool = False
    host: str | None = None
    tls: bool = False
    scheme: str = "http"

    def is_true(self, end: str) -> bool:
        """Return whether a job may end so: it says what the host did, or that we were too busy."""
        return end in self.ends or end in OURS or (self.is_left and end == "timeout")

    def job_at(self, place: str, number: int) -> Json:
        """Return the job as it is submitted; `place` is its host and port."""
        seconds = LEFT_SECONDS if self.is_left else AMPLE_SECONDS
        url = {"url": f"{self.scheme}://{place}/{number}", "timeout_seconds": seconds}
        return {**self.job, "args": {**self.job["args"], **url}}


def head(*fields: bytes, status: bytes = b"200 OK") -> bytes:
    """Return the head of an answer."""
    return b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", b""])


def whole(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """Return an answer with its body."""
    return head(*fields, b"Content-Length: %d" % len(body), status=status) + body


def kind_named(name: str) -> "Hostile":
    """Return the kind of a name.

    Raises:
        StopIteration: there is none.
    """
    return next(each for each in HOSTILE if each.name == name)


def _is(*reasons: str) -> frozenset[str]:
    return frozenset(reasons)


def _job(kind: str, args: Json) -> Json:
    return MappingProxyType({"kind": kind, "args": {"method": "GET", **args}})


CHECK: Json = _job("check", {})
_PAGE = _job("check", {"title": True, "fragments": ["x"], "max_body_bytes": 4 * MEBIBYTE})
_FETCH = _job("fetch", {})
_LARGE = {"max_bytes": 16 * MEBIBYTE}
_PICK = _job("fetch", {"extract": "@", **_LARGE})
_ROBOTS = _job("check", {"robots": "respect"})
_WEBHOOK: Json = MappingProxyType(
    {"kind": "webhook", "args": {"type": "job.tried", "timestamp": "2026-11-22T15:54:17Z", "data": {}}}
)
_HTML = b"Content-Type: text/html"
_JSON = b"Content-Type: application/json"
_GZIP, _CHUNKED = b"Content-Encoding: gzip", b"Transfer-Encoding: chunked"


def _pages(pages: Json) -> Json:
    return _job("fetch", {"pages": {"max_pages": 3, **pages}})


def _assertions(assertions: Json) -> Json:
    return _job("check", {"assertions": assertions, "max_body_bytes": 4 * MEBIBYTE})


@cache
def _gzipped(body: bytes) -> bytes:
    return gzip.compress(body, 6, mtime=0)


def _lazily(make: Callable[[], bytes]) -> Callable[[Asked], bytes]:
    # Large ones are made when they are asked for first; most who import this want a few.
    made = cache(make)
    return lambda _: made()


def _bomb() -> bytes:
    return whole(_gzipped(bytes(64 * MEBIBYTE)), _GZIP)


def _nested_bomb() -> bytes:
    return whole(gzip.compress(_gzipped(bytes(64 * MEBIBYTE)), mtime=0), b"Content-Encoding: gzip, gzip")


def _brotli_bomb() -> bytes:
    packed = brotli.compress(bytes(64 * MEBIBYTE), quality=1)
    return whole(packed, b"Content-Encoding: br")


def _members() -> bytes:
    return whole(gzip.compress(b"", mtime=0) * 40_000, _GZIP)


def _page_bomb() -> bytes:
    return whole(_gzipped(b"<p>" * (8 * MEBIBYTE)), _GZIP, _HTML)


def _nodes() -> bytes:
    return whole(_gzipped(b"[" + b"[]," * 3_900_000 + b"[]]"), _GZIP, _JSON)


def _names() -> bytes:
    members = b",".join(b'"%d":{}' % number for number in range(300_000))
    return whole(_gzipped(b"{" + members + b"}"), _GZIP, _JSON)


def _deep() -> bytes:
    return whole(b"[" * MEBIBYTE, _JSON)


def _deep_right() -> bytes:
    return whole(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, _JSON)


def _digits() -> bytes:
    return whole(b'{"n": ' + b"9" * 900_000 + b"}", _JSON)


def _unsorted() -> bytes:
    numbers = random.Random(7).sample(range(10**6), 120_000)
    return whole(orjson.dumps(numbers), _JSON)


def _letters() -> bytes:
    return bytes(random.Random(7).choices(b"ab", k=4_000_000))


def _letters_in_fields(count: int) -> bytes:
    letters = _letters()
    fields = (b"X-L: " + letters[at : at + 16_000] for at in range(0, count * 16_000, 16_000))
    return whole(b"", *fields)


def _megabyte() -> bytes:
    return whole(orjson.dumps(["x" * 100] * 10_000), _JSON)


def _attributes() -> bytes:
    flood = b" ".join(b"a%d=1" % number for number in range(400_000))
    return whole(b"<title>t</title><p " + flood + b"><b id=x>", _HTML)


def _elements() -> bytes:
    return whole(b"<title>t" + b"<b><i>" * 600_000 + b"</p>" * 50_000, _HTML)


def _references() -> bytes:
    digits = b"9" * 5_000
    return whole(b"<title>&#%b;</title><p id='&#%b'><p id='&#x%b;x'>" % (digits, digits, digits), _HTML)


def _unended() -> bytes:
    return whole(b"<title>t</title>" + b"<!--" * 500_000 + b"<a b='" * 300_000, _HTML)


def _robots() -> bytes:
    groups = b"".join(
        b"User-agent: r%d\nDisallow: /%b*$\n" % (number, b"*a" * 20) for number in range(20_000)
    )
    return head(b"Content-Type: text/plain", b"Content-Length: 100000000") + groups


def _set_cookies(count: int) -> Callable[[Asked], bytes]:
    fields = [b"Set-Cookie: c%d=%b; Path=/" % (number, b"x" * 4_000) for number in range(count)]
    redirect = head(*fields, b"Location: /1000000", b"Content-Length: 0", status=b"302 Found")
    return lambda asked: whole(b"") if asked.number >= 10**6 else redirect


def _set_digits(asked: Asked) -> bytes:
    if asked.number >= 10**6:
        return whole(b"")
    age = b"Set-Cookie: a=b; Max-Age=%b; Expires=%b" % (b"9" * 5_000, b"9" * 5_000)
    return head(age, b"Location: /1000000", b"Content-Length: 0", status=b"302 Found")


def _crawl_delay() -> bytes:
    rules = b"User-agent: *\nCrawl-delay: %b\nRequest-rate: %b/1s\n" % (b"9" * 5_000, b"9" * 5_000)
    return whole(rules + b"Visit-time: 9999-9999\n", b"Content-Type: text/plain")


def _redirect_on(asked: Asked) -> bytes:
    return head(b"Location: /%d" % (asked.number + 1), b"Content-Length: 0", status=b"302 Found")


def _redirect_to_itself(asked: Asked) -> bytes:
    return head(b"Location: /%d" % asked.number, b"Content-Length: 0", status=b"302 Found")


def _page_and_next(asked: Asked) -> bytes:
    following = f"{asked.origin}/{asked.number + 1}"
    return whole(orjson.dumps({"items": list(range(100)), "next": following}), _JSON)


def _page_and_itself(asked: Asked) -> bytes:
    return whole(orjson.dumps({"items": [1], "next": f"{asked.origin}/{asked.number}"}), _JSON)


def _robots_or_page(answer: Callable[[], bytes]) -> Callable[[Asked], bytes]:
    made = cache(answer)
    return lambda asked: made() if asked.target == "/robots.txt" else whole(b"")


_EVERY = b"".join(bytes([octet]) for octet in range(256) if octet not in b"\r\n\0")
_UGLY = b"\x1b[2J\x7f\x9b\xe2\x80\xae\xed\xa0\x80"
_NOT_JSON = _is("not_json", "extract_failed")
# What a budget ended, whichever of its parts.
_LIMITS = _is("extract_limit", "compute_limit", "body_too_complex", "json_too_large", "not_json")
_TIMEOUTS = _is("timeout", "first_byte_timeout", "read_timeout")

HOSTILE: tuple[Hostile, ...] = (
    # Bombs.
    Hostile("gzip bomb", Answer(_lazily(_bomb)), _is("body_too_large"), _FETCH),
    Hostile("brotli bomb", Answer(_lazily(_brotli_bomb)), _is("body_too_large"), _FETCH),
    Hostile("gzip in gzip", Answer(_lazily(_nested_bomb)), _is("unsupported_encoding"), _FETCH),
    Hostile("gzip of 40,000 members", Answer(_lazily(_members)), _is("ok"), _FETCH),
    Hostile("page bomb", Answer(_lazily(_page_bomb)), _is("ok"), _PAGE),
    # The site hangs up without having read the request, and a reset may overtake the answer.
    Hostile("bomb that a webhook gets", Answer(_lazily(_bomb)), _is("ok", "connection_reset"), _WEBHOOK),
    # Drips and silence.
    Hostile("silence", Answer(then=Then.SILENT), _TIMEOUTS, is_left=True),
    Hostile("dripping head", Answer(head()[:-2], b"X: y\r\n", 0.05), _TIMEOUTS, is_left=True),
    Hostile("dripping status", Answer(b"H", b"", then=Then.SILENT), _TIMEOUTS, is_left=True),
    Hostile(
        "dripping body", Answer(head(b"Content-Length: 999"), b"x", 0.05), _TIMEOUTS, _FETCH, is_left=True
    ),
    Hostile(
        "dripping gzip",
        Answer(head(_GZIP) + b"\x1f\x8b\x08" + bytes(7), b"\0\0\0\xff\xff", 0.05),
        _TIMEOUTS,
        _FETCH,
        is_left=True,
    ),
    Hostile(
        "receiver that drips",
        Answer(b"HTTP/1.1 2", b"0", 0.3),
        _is("timeout", "protocol_error"),
        _WEBHOOK,
        is_left=True,
    ),
    # Floods.
    Hostile("endless fields", Answer(head()[:-2], b"X-Again: and again\r\n"), _is("header_too_large")),
    Hostile("endless field", Answer(head()[:-2] + b"X-Long: ", b"x" * 1_000), _is("header_too_large")),
    Hostile(
        "four megabytes of fields",
        Answer(_lazily(lambda: _letters_in_fields(240))),
        _is("header_too_large"),
    ),
    Hostile("endless status", Answer(b"HTTP/1.1 ", b"2"), _is("protocol_error")),
    Hostile(
        "endless 103",
        Answer(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        _is("timeout", "protocol_error", "header_too_large"),
        is_left=True,
    ),
    Hostile(
        "endless 100",
        Answer(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        _is("timeout", "protocol_error", "header_too_large"),
        is_left=True,
    ),
    Hostile("endless body", Answer(head(), b"x" * 65_536), _is("body_too_large"), _FETCH),
    Hostile(
        "chunks of one byte", Answer(head(_CHUNKED), b"1\r\nx\r\n" * 10_000), _is("body_too_large"), _FETCH
    ),
    Hostile(
        "extension of a chunk without end",
        Answer(head(_CHUNKED) + b"1;", b"x" * 65_536),
        _is("body_too_large"),
        _FETCH,
    ),
    Hostile(
        "trailer without end",
        Answer(head(_CHUNKED) + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 1_000),
        _is("ok", "body_truncated", "protocol_error", "timeout"),
        _FETCH,
        is_left=True,
    ),
    Hostile("endless redirects", Answer(_redirect_on, then=Then.KEEP), _is("too_many_redirects")),
    Hostile("redirect to itself", Answer(_redirect_to_itself, then=Then.KEEP), _is("redirect_loop")),
    Hostile("a megabyte of cookies", Answer(_set_cookies(250)), _is("header_too_large")),
    Hostile("a quarter of a megabyte of cookies", Answer(_set_cookies(60)), _is("ok")),
    Hostile(
        "robots.txt of 100 MB",
        Answer(_robots_or_page(_robots), then=Then.SILENT),
        _is("ok", "timeout"),
        _ROBOTS,
    ),
    Hostile("several answers at once", Answer(whole(b"a") * 2_000), _is("ok"), _FETCH),
    Hostile(
        "pages without end",
        Answer(_page_and_next),
        _is("ok"),
        _pages({"by": "next_url", "items": "items", "next_url": "next"}),
    ),
    Hostile(
        "page whose next is itself",
        Answer(_page_and_itself),
        _is("ok"),
        _pages({"by": "next_url", "items": "items", "next_url": "next"}),
    ),
    # Lies.
    Hostile("length too long", Answer(head(b"Content-Length: 1000") + b"x"), _is("body_truncated"), _FETCH),
    Hostile(
        "length of a terabyte",
        Answer(head(b"Content-Length: 999999999999"), b"x" * 65_536),
        _is("body_too_large"),
        _FETCH,
    ),
    Hostile(
        "length of 5,000 digits",
        Answer(head(b"Content-Length: " + b"9" * 5_000)),
        _is("protocol_error"),
        _FETCH,
    ),
    Hostile(
        "two lengths",
        Answer(head(b"Content-Length: 1", b"Content-Length: 2") + b"xx"),
        _is("protocol_error"),
        _FETCH,
    ),
    Hostile("gzip that is none", Answer(whole(b"x" * 1_000, _GZIP)), _is("body_corrupt"), _FETCH),
    Hostile(
        "gzip that is cut",
        Answer(_lazily(lambda: whole(_gzipped(b"x" * 9_999)[:-9], _GZIP))),
        _is("body_truncated"),
        _FETCH,
    ),
    Hostile(
        "charset that is none",
        Answer(whole(_EVERY, b"Content-Type: text/plain; charset=" + b"x" * 9_000)),
        _is("ok"),
        _FETCH,
    ),
    Hostile(
        "utf-32 that is binary",
        Answer(whole(_EVERY * 999, b"Content-Type: text/html; charset=utf-32")),
        _is("ok"),
        _PAGE,
    ),
    Hostile(
        "picture that calls itself a page", Answer(whole(b"\x89PNG" + _EVERY * 999, _HTML)), _is("ok"), _PAGE
    ),
    Hostile("304 to who has no copy", Answer(head(status=b"304 Not Modified")), _is("http_304")),
    Hostile(
        "101 to who asked for nothing",
        Answer(head(status=b"101 Switching Protocols"), b"x" * 9_999),
        _is("http_101", "protocol_error", "connection_reset"),
        is_left=True,
    ),
    Hostile(
        "Retry-After of 5,000 digits",
        Answer(whole(b"", b"Retry-After: " + b"9" * 5_000, status=b"503 No")),
        _is("http_503"),
    ),
    Hostile(
        "Retry-After in the year 9999",
        Answer(whole(b"", b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", status=b"429 No")),
        _is("http_429"),
    ),
    Hostile(
        "total of 5,000 digits",
        Answer(whole(b"[1]", _JSON, b"Content-Range: items 0-9/" + b"9" * 5_000)),
        _is("ok"),
        _pages({"by": "page", "total_header": "Content-Range"}),
    ),
    Hostile(
        "chunk of 5,000 digits",
        Answer(head(_CHUNKED) + b"9" * 5_000 + b"\r\nx"),
        _is("body_truncated", "protocol_error", "body_too_large"),
        _FETCH,
    ),
    Hostile(
        "cookie of 5,000 digits",
        Answer(_set_digits),
        _is("ok"),
    ),
    Hostile(
        "crawl delay of 5,000 digits",
        Answer(_robots_or_page(_crawl_delay)),
        _is("ok"),
        _ROBOTS,
    ),
    Hostile(
        "next cursor of 5,000 digits",
        Answer(whole(b'{"items": [1], "next": ' + b"9" * 5_000 + b"}", _JSON)),
        _is("ok", "extract_failed"),
        _pages({"by": "cursor", "items": "items", "cursor": "next"}),
    ),
    Hostile(
        "Link that never ends its quotes",
        Answer(whole(b"[1]", _JSON, b"Link: " + b'</x>; rel="' * 2_500)),
        _is("ok"),
        _pages({"by": "link"}),
    ),
    # Connections.
    Hostile("reset at once", Answer(then=Then.RESET, comes=Comes.AT_ONCE), _is("connection_reset")),
    Hostile("reset behind the request", Answer(then=Then.RESET), _is("connection_reset")),
    Hostile("reset in the head", Answer(b"HTTP/1.1 200", then=Then.RESET), _is("connection_reset")),
    Hostile(
        "reset in the body",
        Answer(head(b"Content-Length: 9") + b"x", then=Then.RESET),
        _is("body_truncated", "connection_reset"),
        _FETCH,
    ),
    Hostile("half closed", Answer(then=Then.HALF_CLOSE), _is("connection_reset")),
    Hostile(
        "answer before the request",
        Answer(whole(b"early") * 3, then=Then.SILENT, comes=Comes.AT_ONCE),
        _is("ok", "connection_reset", "protocol_error", "timeout"),
        is_left=True,
    ),
    # TLS.
    Hostile(
        "TLS that is silent",
        Answer(then=Then.SILENT, comes=Comes.AT_ONCE),
        _is("tls_timeout", "timeout"),
        is_left=True,
        scheme="https",
    ),
    Hostile(
        "TLS that is none",
        Answer(b"220 smtp\r\n", b"x" * 999, comes=Comes.AT_ONCE),
        _is("tls_failed", "tls_interrupted"),
        scheme="https",
    ),
    Hostile(
        "TLS that drips",
        Answer(b"\x16\x03\x03\x40\x00", b"\x02", 0.05, comes=Comes.AT_ONCE),
        _is("tls_timeout", "timeout", "tls_failed"),
        is_left=True,
        scheme="https",
    ),
    Hostile(
        "certificate of 5,000 names",
        Answer(whole(b"")),
        _is("tls_failed"),
        tls=True,
        scheme="https",
    ),
    # Content.
    Hostile("3.9 million lists", Answer(_lazily(_nodes)), _LIMITS | {"ok"}, _PICK),
    Hostile("300,000 names", Answer(_lazily(_names)), _LIMITS | {"ok"}, _PICK),
    Hostile("a million brackets", Answer(_lazily(_deep)), _NOT_JSON | _LIMITS, _PICK),
    Hostile("depth of 100,000", Answer(_lazily(_deep_right)), _NOT_JSON | _LIMITS, _PICK),
    Hostile("number of 900,000 digits", Answer(_lazily(_digits)), _NOT_JSON | _LIMITS | {"ok"}, _PICK),
    Hostile(
        "list that takes long to sort",
        Answer(_lazily(_unsorted)),
        _LIMITS | {"ok", "assertion_failed"},
        _assertions({"json": [{"path": f"sort_by(@, &abs(abs(abs(@))))[{n}]"} for n in range(10)]}),
    ),
    Hostile(
        "body that regexes hate",
        Answer(_lazily(lambda: whole(_letters()))),
        _LIMITS | {"assertion_failed"},
        _assertions({"regex": ["[ab]*a[ab]{400}c"]}),
    ),
    Hostile(
        "fields that regexes hate",
        Answer(_lazily(lambda: _letters_in_fields(15))),
        _LIMITS | {"assertion_failed"},
        _assertions({"header": [{"name": "X-L", "regex": "[ab]*a[ab]{400}c"}]}),
    ),
    Hostile("a megabyte of data", Answer(_lazily(_megabyte)), _is("ok"), _PICK),
    Hostile("400,000 attributes", Answer(_lazily(_attributes)), _LIMITS | {"ok"}, _PAGE),
    Hostile("600,000 elements inside each other", Answer(_lazily(_elements)), _LIMITS | {"ok"}, _PAGE),
    Hostile("character of 5,000 digits", Answer(_lazily(_references)), _is("ok"), _PAGE),
    Hostile(
        "character of 5,000 digits in XHTML",
        Answer(lambda _: _references().replace(_HTML, b"Content-Type: application/xhtml+xml")),
        _is("ok"),
        _PAGE,
    ),
    Hostile("comments without end", Answer(_lazily(_unended)), _LIMITS | {"ok"}, _PAGE),
    Hostile(
        "NUL and ESC in every text",
        Answer(
            whole(
                b'{"a": "\\u0000\\u001b\\ud800", "\\udfff": "' + _UGLY + b'"}',
                _JSON + _UGLY,
                b"ETag: " + _UGLY,
                b"X: " + _UGLY,
                status=b"200 " + _UGLY,
            )
        ),
        _is("ok", "not_json"),
        _PICK,
    ),
    Hostile(
        "ESC in a title and a Location",
        Answer(
            lambda asked: (
                whole(b"<title>" + _UGLY + b"</title>", _HTML)
                if asked.number >= 10**6
                else head(b"Location: /" + _UGLY + b"/1000000", b"Content-Length: 0", status=b"302 " + _UGLY)
            )
        ),
        _is("ok", "redirect_invalid"),
        _PAGE,
    ),
    Hostile("NUL in a field", Answer(whole(b"", b"X: a\0b")), _is("ok", "protocol_error")),
    Hostile(
        "JSON in a wrong encoding",
        Answer(whole('{"a": "ä€"}'.encode("utf-16-be"), _JSON + b"; charset=koi8-r")),
        _is("ok"),
        _PICK,
    ),
    # Names.
    Hostile("DNS that is silent", Answer(), _is("dns_timeout"), host="silent.hostile.example"),
    Hostile(
        "DNS with 200 addresses",
        Answer(whole(b"")),
        _is(
            "ok",
            "connection_refused",
            "connect_timeout",
            "unreachable",
            "timeout",
            "egress_denied",
            "dns_failed",
        ),
        host="many.hostile.example",
        is_left=True,
    ),
    Hostile(
        "DNS that also leads inside",
        Answer(),
        _is("egress_denied", "dns_timeout"),
        host="inside.hostile.example",
    ),
)
