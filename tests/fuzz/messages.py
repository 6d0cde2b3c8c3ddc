"""Messages of every sort that our processes read, spoiled: bodies, properties, headers, keys and places."""

import base64
import gzip
import hashlib
import random
import struct
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared.broker.topology import (
    CANCELLED_STREAM,
    DEAD,
    DEFAULT,
    DELAY,
    JOBS,
    LARGE_RESULTS,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    RESULTS,
    RETURN,
    UNROUTED,
)
from tests.fuzz.mutation import HOSTILE, damaged, encoded, spoiled, written

KINDS = ("check", "fetch", "webhook", "command")
LANES = ("interactive", "bulk")
STATES = ("running", "succeeded", "delayed", "parked", "cancelled", "accepted", "queued", "scheduled")
OUTCOMES = ("succeeded", "failed_transient", "failed_permanent", "cancelled", None)
# Whoever may publish to the default exchange can pause queues, which is known: docs/limits.md.
_NO_QUEUE = {"kind": "nothing", "lane": "bulk"}
_HARMLESS: Sequence[Any] = tuple(value for value in HOSTILE if value not in ("*", "check"))
_SHORT_STEPS = ("1s", "5s")

Json = dict[str, Any]


class Message(NamedTuple):
    """A message to publish, byte for byte."""

    exchange: bytes
    key: bytes
    body: bytes
    properties: bytes


# What it is, its exchange and routing key, and its lines.
_Sane = tuple[str, str, str, list[Json]]


class MessageFuzzer:
    """Makes messages about the jobs of strangers, and forged ones about ours."""

    def __init__(self, *, seed: int, site_url: str, known_ids: Sequence[str]) -> None:
        """Take where jobs may lead, and the ids of jobs that are ours."""
        self._seed = seed
        self._site_url = site_url
        self._known_ids = known_ids

    def message(self, number: int) -> Message:
        """Return the message of a number: the same each time."""
        rng = random.Random(f"{self._seed}-{number}")
        sort, exchange, key, document = self._sane(rng)
        if rng.random() < 0.9:
            hostile = _HARMLESS if sort == "pauses" else HOSTILE
            document = [
                spoiled(each, rng, hostile=hostile) if rng.random() < 0.8 else each for each in document
            ]
        body = b"\n".join(encoded(each, rng) if len(document) == 1 else written(each) for each in document)
        if len(document) > 1 and rng.random() < 0.2:
            body = damaged(body, rng)
        if rng.random() < 0.05 and sort != "pauses":
            exchange, key = self._place(rng)
        octets = key.encode()
        if rng.random() < 0.03:
            octets += rng.choice((b".\xff", b".\xc3\x28", b".#", b".*", b".", b"." + b"x" * 200))
        return Message(exchange.encode(), octets, body, properties_of(rng, sort))

    def _sane(self, rng: random.Random) -> _Sane:
        kind, lane = _kind(rng), rng.choice(LANES)
        key = f"{kind}.{lane}"
        makers = (self._asking, self._copied, self._reported, self._ordered)
        return rng.choices(makers, weights=(8, 5, 6, 2))[0](rng, kind, lane, key)

    def _asking(self, rng: random.Random, kind: str, lane: str, key: str) -> _Sane:
        if rng.random() < 0.15:
            bundle = [self._job(rng, "check", "bulk") for _ in range(rng.randrange(1, 30))]
            return "jobs", JOBS, "check.bundles", bundle
        return "job", JOBS, key + rng.choice(("", "", "", ".stored")), [self._job(rng, kind, lane)]

    def _copied(self, rng: random.Random, kind: str, lane: str, key: str) -> _Sane:
        parked, job = self._copy(rng, kind, "parked"), self._job(rng, kind, lane)
        step = rng.choice(_SHORT_STEPS)
        return rng.choice(
            (
                ("job", DELAY, f"{key}.{step}", [self._copy(rng, kind, "delayed")]),
                ("job", DEAD, key, [parked]),
                # As if a person had moved it.
                ("job", JOBS, key, [parked]),
                ("raw", DEAD, key, [job]),
                ("job", RETURN, f"{key}.{step}", [job]),
            )
        )

    def _reported(self, rng: random.Random, kind: str, _: str, key: str) -> _Sane:
        state = rng.choice(STATES)
        place = rng.choice((RESULTS, RESULTS, RESULTS, LARGE_RESULTS))
        if rng.random() < 0.2:
            reports = [self._report(rng, kind, state=state) for _ in range(rng.randrange(2, 30))]
            return "reports", place, f"{key}.{state}", reports
        return "report", place, f"{key}.{state}", [self._report(rng, kind, state=state)]

    def _ordered(self, rng: random.Random, *_: str) -> _Sane:
        if rng.random() < 0.5:
            pauses = {"version": 1, "revision": rng.randrange(2**50), "pauses": [_NO_QUEUE] * 3}
            return "pauses", DEFAULT, PAUSED_STREAM, [pauses]
        of_job = {"job_id": self._id(rng, ours=False), "run": 1}
        of_batch = {"batch_id": str(uuid.UUID(int=rng.getrandbits(128)))}
        order = {"version": 1, **rng.choice((of_job, of_batch))}
        return "cancellation", DEFAULT, CANCELLED_STREAM, [order]

    def _place(self, rng: random.Random) -> tuple[str, str]:
        kind, lane = _kind(rng), rng.choice(LANES)
        return rng.choice(
            (
                (DEFAULT, f"jobs.{kind}.{lane}"),
                (DEFAULT, "jobs.check.bundles"),
                (DEFAULT, RECORDER_QUEUE),
                (DEFAULT, PARKED_QUEUE),
                (DEFAULT, CANCELLED_STREAM),
                (UNROUTED, "any.key"),
                (RESULTS, ""),
                (DEAD, "no.such.key"),
                (LARGE_RESULTS, "x"),
                (DELAY, f"{kind}.{lane}.7s"),
                (JOBS, "task.bulk"),
                (JOBS, "no_such_kind.bulk"),
                ("no.such.exchange", "x"),
            )
        )

    def _id(self, rng: random.Random, *, ours: bool) -> str:
        if ours and rng.random() < 0.3:
            return rng.choice(self._known_ids)
        # As time-ordered as ours are.
        return str(uuid.UUID(int=(0x01A2 << 112) | (7 << 76) | (2 << 62) | rng.getrandbits(60)))

    def _job(self, rng: random.Random, kind: str, lane: str, *, ours: bool = True) -> Json:
        job: Json = {
            "version": 1,
            "id": self._id(rng, ours=ours),
            "kind": kind,
            "lane": lane,
            "args": self._args(rng, kind),
            "retry": {
                "max_attempts": rng.randrange(1, 4),
                "first_delay_seconds": 1,
                "max_delay_seconds": 5,
                "factor": 1,
                "jitter": False,
            },
        }
        more: Json = {
            "run": 1,
            "attempt": rng.randrange(1, 4),
            "batch_id": str(uuid.UUID(int=rng.getrandbits(128))),
            "expires_at": rng.choice(("2026-01-01T00:00:00Z", "2199-01-01T00:00:00Z")),
            "token": "0" * 32,
            "ref": "a.md:7",
            "deferrals": rng.randrange(3),
            "returns": rng.randrange(5),
            "turn_at": "2026-01-01T00:00:00Z",
            "known": {"job_id": self._id(rng, ours=True), "etag": '"1"', "last_modified": "x"},
        }
        return {**job, **{name: value for name, value in more.items() if rng.random() < 0.25}}

    def _args(self, rng: random.Random, kind: str) -> Json:
        page = f"{self._site_url}/ok/{rng.randrange(1_000)}"
        match kind:
            case "check":
                assertions = {"contains": ["ok"], "regex": ["[a-z]+"], "json": [{"path": "a", "equals": 1}]}
                more: Json = {
                    "method": "GET",
                    "title": True,
                    "fragments": ["a", "b"],
                    "headers": {"X-A": "b"},
                    "assertions": assertions,
                    "timeout_seconds": 5,
                }
            case "fetch":
                page = rng.choice((page, f"{self._site_url}/api/items"))
                more = {
                    "extract": "items[].id",
                    "if_changed": True,
                    "timeout_seconds": 5,
                    "headers": {"X-A": {"secret": "key"}},
                }
                if rng.random() < 0.3:
                    more = {"pages": {"by": "page", "items": "items", "key": "id", "total": "total"}}
                if rng.random() < 0.1:
                    more = {"page": {"root": self._id(rng, ours=True), "index": 1}, **more}
            case "webhook":
                return {
                    "url": f"{self._site_url}/hooks/fuzz",
                    "type": "job.succeeded",
                    "timestamp": "2026-01-01T00:00:00Z",
                    "data": {"a": 1},
                }
            case _:
                return {"argv": ["true", "a"], "timeout_seconds": 5, "env": {"A": "b"}, "stdin": "text"}
        return {"url": page, **{name: value for name, value in more.items() if rng.random() < 0.5}}

    def _copy(self, rng: random.Random, kind: str, state: str) -> Json:
        job = self._job(rng, kind, rng.choice(LANES))
        report = self._report(rng, kind, state=state)
        report.pop("job", None)
        return {**job, "report": {**report, "job_id": job["id"], "attempt": job.get("attempt", 1)}}

    def _report(self, rng: random.Random, kind: str, *, state: str | None = None) -> Json:
        state = state or rng.choice(STATES)
        is_adopted = rng.random() < 0.6
        job = self._job(rng, kind, rng.choice(LANES), ours=not is_adopted)
        report: Json = {
            "version": 1,
            "job_id": job["id"],
            "kind": kind,
            "run": 1,
            "attempt": job.get("attempt", 1),
            "state": state,
            "started_at": "2026-01-01T00:00:00Z",
            "ended_at": "2026-01-01T00:00:01.5Z",
            "outcome": rng.choice(OUTCOMES),
            "worker": "w",
        }
        if is_adopted:
            report["job"] = {**job, "run": 1}
        body = b"the body"
        more: Json = {
            "reason": "http_503",
            "explanation": "The host answered 503.",
            "wait_seconds": 5.0,
            "due_at": "2026-01-01T00:00:05Z",
            "result": {
                "status": 200,
                "final_url": "http://a.example/",
                "hops": [],
                "total_seconds": 0.1,
                "data": [{"id": 1}],
                "etag": '"1"',
                "page": {"index": 0, "items": 1},
                "unchanged_since": self._id(rng, ours=True),
            },
            "body": {
                "content_type": "text/plain",
                "charset": "utf-8",
                "size": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "content": base64.b64encode(gzip.compress(body, mtime=0)).decode(),
            },
            "page": {
                "items": 1,
                "total": 3,
                "keys": base64.b64encode(b"8 octets").decode(),
                "following": {"index": 1, "last": 2, "size": 1, "total": 3},
            },
            "output": {"sequence": 1, "stdout": {"text": "out"}, "stderr": {"text": "err"}},
        }
        return {**report, **{name: value for name, value in more.items() if rng.random() < 0.4}}


def _kind(rng: random.Random) -> str:
    # A command takes a hundred times as long as the others.
    return rng.choices(KINDS, weights=(8, 8, 4, 1))[0]


def properties_of(rng: random.Random, sort: str) -> bytes:
    """Return flags and values of a content header: what we send ourselves, or what nobody should."""
    if rng.random() < 0.02:
        # Flags without values, or values of no kind.
        return rng.randbytes(2) + rng.randbytes(rng.randrange(40))
    texts = (
        b"",
        b"\xff",
        b"\0",
        b"\x1b[31m\r\nx",
        b"x" * 255,
        "é".encode(),
        str(uuid.UUID(int=7)).encode(),
    )
    spoil = rng.random() < 0.4
    values: dict[int, bytes] = {
        0x8000: _short(b"application/x-ndjson" if sort.endswith("s") else b"application/json"),
        0x1000: b"\x02",
        0x0020: _short(sort.encode()),
        0x0080: _short(rng.randbytes(8).hex().encode()),
    }
    if spoil:
        more: dict[int, bytes] = {
            0x8000: _short(rng.choice((b"text/plain", b"", b"\xff", b"application/json; charset=utf-16"))),
            0x4000: _short(rng.choice((b"gzip", b"identity", b"\xff"))),
            0x2000: _table(rng),
            0x1000: bytes((rng.choice((0, 1, 2, 3, 255)),)),
            0x0800: bytes((rng.randrange(256),)),
            0x0400: _short(rng.choice(texts)),
            0x0200: _short(rng.choice(texts)),
            0x0100: _short(rng.choice((b"1", b"100", b"0", b"86400000", b"x"))),
            0x0080: _short(rng.choice(texts)),
            0x0040: struct.pack(">Q", rng.choice((0, 1, 2**31, 2**32, 2**40, 2**63, 2**64 - 1))),
            0x0020: _short(rng.choice((b"job", b"jobs", b"report", b"reports", b"raw", b"nothing", b"\xff"))),
            0x0008: _short(rng.choice(texts)),
            0x0004: _short(rng.choice(texts)),
        }
        for flag in rng.sample(sorted(more), rng.randrange(1, 5)):
            values[flag] = more[flag]
    return packed(values)


def packed(values: Mapping[int, bytes]) -> bytes:
    """Return flags and values of a content header, as they go on the wire, by the flag of each."""
    return struct.pack(">H", sum(values)) + b"".join(values[flag] for flag in sorted(values, reverse=True))


def _table(rng: random.Random, depth: int = 0) -> bytes:
    names = (
        b"x-delivery-count",
        b"x-first-death-queue",
        b"x-last-death-reason",
        b"x-retriever-reason",
        b"x-retriever-walk",
        b"x-opt-deliveries",
        b"x-stream-offset",
        b"CC",
        b"x-cc\xff",
        b"",
        b"x" * 120,
    )
    entries = b"".join(_short(rng.choice(names)) + _field(rng, depth) for _ in range(rng.randrange(1, 5)))
    if depth == 0 and rng.random() < 0.2:
        entries += _short(b"x-death") + _deaths(rng)
    return struct.pack(">I", len(entries)) + entries


_STRINGS = (b"", b"expired", b"jobs.check.bulk", b"\xff\xfe", b"x" * 3_000)
_FIELDS: tuple[bytes, ...] = (
    *(b"S" + struct.pack(">I", len(text)) + text for text in _STRINGS),
    *(b"l" + struct.pack(">q", number) for number in (0, -1, 20, 2**63 - 1, -(2**63))),
    *(b"I" + struct.pack(">i", number) for number in (0, -1, 3, 2**31 - 1)),
    *(b"T" + struct.pack(">Q", number) for number in (0, 2**32, 2**63, 2**64 - 1)),
    *(b"D" + bytes((scale,)) + struct.pack(">i", -7) for scale in (0, 2, 255)),
    *(b"d" + struct.pack(">d", number) for number in (0.5, 1e308, float("nan"), float("inf"))),
    b"t\x01",
    b"V",
    b"x" + struct.pack(">I", 2) + b"\0\xff",
)
_DEPTH = 4


def _deaths(rng: random.Random) -> bytes:
    """Return what the broker notes of a message that has died, told by somebody else.

    Of the right form only: at any other RabbitMQ before 4.0 stops dead-lettering, for all who use the node.
    """
    fields = {
        b"count": b"l" + struct.pack(">q", rng.choice((0, 1, 20, 2**62))),
        b"exchange": b"S" + _long(rng.choice((b"", b"jobs", b"\xff"))),
        b"queue": b"S" + _long(rng.choice((b"jobs.check.bulk", b"jobs.delay.00001s", b"x" * 300))),
        b"reason": b"S" + _long(rng.choice((b"expired", b"rejected", b"delivery_limit", b"maxlen"))),
        b"routing-keys": b"A" + _long(b"S" + _long(rng.choice((b"check.bulk", b"\xff")))),
        b"time": b"T" + struct.pack(">Q", 1_790_000_000),
    }
    death = b"F" + _long(b"".join(_short(name) + value for name, value in fields.items()))
    return b"A" + _long(death)


def _field(rng: random.Random, depth: int) -> bytes:
    """Return a value of a table: mostly of one field, else a list or a table."""
    if depth == _DEPTH or rng.random() < 0.7:
        return rng.choice(_FIELDS)
    if rng.random() < 0.5:
        return b"A" + _long(b"".join(_field(rng, depth + 1) for _ in range(rng.randrange(4))))
    return b"F" + _table(rng, depth + 1)


def _short(octets: bytes) -> bytes:
    return bytes((min(len(octets), 255),)) + octets[:255]


def _long(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets
