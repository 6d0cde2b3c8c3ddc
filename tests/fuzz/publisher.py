"""What a third party with a login of its own publishes, or tries to: it says that it is somebody else."""

import random
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.compose.make_secrets import BROKER_USERS, LEDGER_USER, PUBLISHER_USER
from shared.broker.topology import (
    CANCELLED_STREAM,
    DEAD,
    DEFAULT,
    DELAY,
    JOBS,
    LARGE_RESULTS,
    MARKS,
    OUTCOMES,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    RESULTS,
    RETURN,
    UNROUTED,
)
from tests.fuzz.messages import LANES, STATES, Json, Message, MessageFuzzer, packed, properties_of
from tests.fuzz.mutation import encoded, spoiled, written

PUBLISHERS_PROJECT = "acme"
_HEADERS, _PRIORITY, _REPLY_TO, _EXPIRATION, _TYPE, _USER = 0x2000, 0x0800, 0x0200, 0x0100, 0x0020, 0x0010
_MANY_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Others:
    """What others have, as far as somebody could know it.

    Attributes:
        jobs: Their ids.
        batches: Their ids.
        projects: Their names.
    """

    jobs: Sequence[str]
    batches: Sequence[str]
    projects: Sequence[str]


class PublisherFuzzer(MessageFuzzer):
    """Makes messages of `retriever-publisher`: jobs, spoilt jobs, and jobs and reports that are others'."""

    def __init__(self, *, seed: int, site_url: str, others: Others) -> None:
        """Take where jobs may lead, and what is not the publisher's."""
        super().__init__(seed=seed, site_url=site_url, known_ids=others.jobs)
        self._others = others

    def message(self, number: int) -> Message:
        """Return the message of a number: the same each time."""
        rng = random.Random(f"publisher-{self._seed}-{number}")
        kind, lane = rng.choice(("check", "fetch")), rng.choice(LANES)
        documents = [self._claimed(each, rng) for each in self._said(rng, kind, lane)]
        if rng.random() < 0.4:
            documents = [spoiled(each, rng) for each in documents]
        body = b"\n".join(encoded(each, rng) if len(documents) == 1 else written(each) for each in documents)
        exchange, key = self._aim(rng, kind, lane)
        return Message(exchange.encode(), key.encode(), body, _noted(rng))

    def _said(self, rng: random.Random, kind: str, lane: str) -> list[Json]:
        match rng.randrange(10):
            case 0:
                return [self._report(rng, kind, state=rng.choice(STATES))]
            case 1:
                return [self._copy(rng, kind, rng.choice(("parked", "delayed", "succeeded")))]
            case 2:
                return [self._job(rng, kind, lane) for _ in range(rng.randrange(2, 20))]
            case 3:
                return [{"version": 1, "job_id": self._other(rng), "run": 1}]
            case _:
                return [self._job(rng, kind, lane)]

    def _claimed(self, document: Json, rng: random.Random) -> Json:
        """Return a document that says in some places that it is somebody else's."""
        claims: Json = {
            "id": self._other(rng),
            "job_id": self._other(rng),
            "batch_id": rng.choice(self._others.batches),
            "project": rng.choice((*self._others.projects, "default", "no-such-project")),
            "publisher": rng.choice((LEDGER_USER, PUBLISHER_USER, "guest")),
            "token": rng.choice(("0" * 32, "", "x" * 200, rng.randbytes(16).hex())),
            "run": rng.choice((1, 2, 3, 1_000_000)),
            "attempt": rng.choice((1, 2, 1_000)),
            "known": {"job_id": self._other(rng), "etag": '"1"'},
            "report": self._report(rng, "check", state=rng.choice(STATES)) | {"job_id": self._other(rng)},
            "expires_at": "2026-01-01T00:00:00Z",
            "same_as": self._other(rng),
        }
        made = {name: value for name, value in claims.items() if rng.random() < 0.2}
        if isinstance(document.get("args"), dict) and rng.random() < 0.1:
            # Pages join the batch of the job that asked for the first.
            place = {"root": self._other(rng), "index": rng.randrange(3)}
            made["args"] = {**document["args"], "page": place, "pages": {"by": "page", "items": "items"}}
        return {**document, **made}

    def _other(self, rng: random.Random) -> str:
        return rng.choice(self._others.jobs)

    def _aim(self, rng: random.Random, kind: str, lane: str) -> tuple[str, str]:
        if rng.random() < 0.9:
            return JOBS, f"{kind}.{lane}"
        return rng.choice(
            (
                *((JOBS, key) for key in ("command.bulk", "webhook.bulk", "check.bulk.stored", "#", "")),
                *((JOBS, key) for key in ("check.bundles", "check.bulk.1s", "task.bulk", "check.bulk\n")),
                *((exchange, f"{kind}.{lane}") for exchange in (DEAD, RETURN, OUTCOMES, UNROUTED)),
                *((exchange, f"{kind}.{lane}.succeeded") for exchange in (RESULTS, LARGE_RESULTS)),
                *((exchange, CANCELLED_STREAM) for exchange in (DEFAULT, MARKS)),
                *((DEFAULT, queue) for queue in (f"jobs.{kind}.{lane}", RECORDER_QUEUE, PARKED_QUEUE)),
                (DEFAULT, PAUSED_STREAM),
                (DELAY, f"{kind}.{lane}.1s"),
                ("amq.topic", f"{kind}.{lane}"),
                ("no.such.exchange", "x"),
            )
        )


_PUBLISHER = next(user for user in BROKER_USERS if user.name == PUBLISHER_USER)


def is_within_rights(message: Message) -> bool:
    """Return whether the login may publish to where a message is to go."""
    exchange, key = message.exchange.decode(), message.key.decode()
    return exchange in _PUBLISHER.keys and re.search(_PUBLISHER.keys[exchange], key) is not None


def _noted(rng: random.Random) -> bytes:
    """Return the properties of a message: ours, spoilt ones, or such as only a stranger would think of."""
    if rng.random() < 0.6:
        return properties_of(rng, rng.choice(("job", "jobs", "report", "raw")))
    copies = [key for key in ("command.bulk", "webhook.bulk", "check.bulk.stored") if rng.random() < 0.5]
    tables: tuple[bytes, ...] = (
        _entry(rng.choice(("CC", "BCC")), _list(copies)),
        _entry("a", _nested(rng.choice((3, 120, 400, 1_000, 8_000)))),
        _entry("a", b"A" + _long(b"V" * rng.choice((1_000, 60_000, _MANY_BYTES)))),
        b"".join(_entry(f"k{number}", b"V") for number in range(5_000)),
        _entry("a", b"S" + _long(b"x" * _MANY_BYTES)),
        _entry("x-retriever-reason", b"t\x01") + _entry("x-retriever-walk", b"A" + _long(b"")),
        _entry("x-delivery-count", rng.choice((b"V", b"t\x01", b"l" + b"\x7f" * 8, b"S" + _long(b"20")))),
        _entry("x-stream-offset", b"l" + bytes(8)) + _entry("x-exchange", b"S" + _long(JOBS.encode())),
        _entry("user_id", b"S" + _long(LEDGER_USER.encode())),
    )
    values: dict[int, bytes] = {
        _HEADERS: _long(rng.choice(tables)),
        _PRIORITY: bytes((rng.choice((0, 9, 255)),)),
        _REPLY_TO: _short(rng.choice((b"amq.rabbitmq.reply-to", RECORDER_QUEUE.encode(), b"\xff"))),
        _EXPIRATION: _short(rng.choice((b"0", b"1", b"86400000", b"-1", b"1e3", b"9" * 30, b" 1"))),
        _TYPE: _short(rng.choice((b"job", b"report", b"raw", b"cancellation"))),
        _USER: _short(rng.choice((PUBLISHER_USER, PUBLISHER_USER, LEDGER_USER, "guest", "")).encode()),
    }
    return packed({flag: values[flag] for flag in rng.sample(sorted(values), rng.randrange(1, 4))})


def _entry(name: str, value: bytes) -> bytes:
    return _short(name.encode()) + value


def _list(texts: Sequence[str]) -> bytes:
    return b"A" + _long(b"".join(b"S" + _long(text.encode()) for text in texts))


def _nested(depth: int) -> bytes:
    """Return a table in a table in a table."""
    value: Any = b"V"
    for _ in range(depth):
        value = b"F" + _long(_entry("a", value))
    return bytes(value)


def _short(octets: bytes) -> bytes:
    return bytes((min(len(octets), 255),)) + octets[:255]


def _long(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets
