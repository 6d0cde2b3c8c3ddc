"""Spoilt messages: none ends a process, is an error in a log, is lost, or holds up an innocent job."""

import asyncio
import functools
import hashlib
import operator
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import httpx
import pytest

from producer.ledger.parked_reconciler import parked_runs
from shared.broker.parked_queue import Choice, walk_parked
from shared.broker.topology import JOBS, LARGE_RESULTS_QUEUE, RECORDER_QUEUE, delay_queue, is_work_queue
from shared.errors import MessageUndecodable
from shared.messages import JobMessage
from tests.fuzz.messages import Message, MessageFuzzer
from tests.fuzz.service import FuzzedSystem
from tests.support.management import Management
from tests.support.raw_amqp import RawPublisher, Refused
from tests.support.waiting import eventually

MESSAGES = int(os.environ.get("FUZZ_MESSAGES", "150"))
INNOCENTS = 40
CONNECTIONS = 4
# The broker itself answers some with the end of the connection; most of them must come through.
MOST_REFUSED = 0.15
GROWTH_BYTES = 100 * 1_048_576
_WORK_KEY = re.compile(rb"(?:check|fetch|webhook|command)\.(?:interactive|bulk)(?:\.[^\xff]*)?", re.DOTALL)
# Those of short delays too: what stays there shows that the broker dead-letters no more.
_TAKEN = frozenset({RECORDER_QUEUE, LARGE_RESULTS_QUEUE, delay_queue(1), delay_queue(5)})
_DONE_SECONDS = 120.0 + MESSAGES / 20


@pytest.fixture
def management(system: FuzzedSystem) -> Iterator[Management]:
    client = Management(system.management_url)
    yield client
    client.close()


async def submit_innocents(http: httpx.AsyncClient, site_url: str, name: str) -> list[str]:
    lines = "".join(f"{site_url}/ok/{name}-{number}\n" for number in range(INNOCENTS))
    answer = await http.post("/batches", content=lines, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 202, answer.text
    return [str(answer.json()["id"])]


async def test_spoilt_messages_end_nothing_and_hold_up_no_innocent_job(
    system: FuzzedSystem, management: Management, seed: int
) -> None:
    async with httpx.AsyncClient(base_url=system.api_url, timeout=30) as http:
        batches = await submit_innocents(http, system.site_url, "before")
        known = (await http.get("/jobs", params={"limit": 40})).json()["items"]
        fuzzer = MessageFuzzer(seed=seed, site_url=system.site_url, known_ids=[each["id"] for each in known])

        published = await publish_all(system.amqp_url, fuzzer, range(MESSAGES // 2))
        middle = system.growing()
        batches += await submit_innocents(http, system.site_url, "between")
        published += await publish_all(system.amqp_url, fuzzer, range(MESSAGES // 2, MESSAGES))
        batches += await submit_innocents(http, system.site_url, "after")

        await eventually(lambda: all_done(http, batches), deadline_seconds=_DONE_SECONDS)
        await until_nothing_waits(management, system.vhost)
        assert await unreadable_documents(http) == []

    assert system.ended() == []
    assert system.errors() == []
    assert published.refused.total() <= MOST_REFUSED * MESSAGES, published.refused.most_common(5)
    grown = {name: octets - middle[name] for name, octets in system.growing().items()}
    assert max(grown.values()) < GROWTH_BYTES, grown
    assert set(system.end_in_order().values()) <= {0, -15, 143}
    assert system.errors() == []
    assert published.unreadable - await parked(system.amqp_url) == set()


@dataclass(frozen=True, slots=True)
class Published:
    """What became of messages: why the broker refused some, and digests of jobs that nobody can read."""

    refused: Counter[str] = field(default_factory=Counter)
    unreadable: set[bytes] = field(default_factory=set)

    def __add__(self, other: "Published") -> "Published":
        return Published(self.refused + other.refused, self.unreadable | other.unreadable)


async def publish_all(url: str, fuzzer: MessageFuzzer, numbers: range) -> Published:
    """Publish messages over several connections at once."""
    shares = [numbers[first::CONNECTIONS] for first in range(CONNECTIONS)]
    parts = await asyncio.gather(*(asyncio.to_thread(publish, url, fuzzer, share) for share in shares))
    return functools.reduce(operator.add, parts, Published())


def publish(url: str, fuzzer: MessageFuzzer, numbers: range) -> Published:
    """Publish messages, each confirmed before the next."""
    published = Published()
    with RawPublisher(url) as publisher:
        for number in numbers:
            message = fuzzer.message(number)
            try:
                publisher.publish(*message)
            except Refused as error:
                published.refused[str(error)[:60]] += 1
                continue
            if is_unreadable(message):
                published.unreadable.add(hashlib.sha256(message.body).digest())
    return published


def is_unreadable(message: Message) -> bool:
    """Return whether a worker gets it, and cannot read it as a job.

    What can be read line by line may be taken out of `jobs.parked` again, once all of its jobs have ended.
    """
    if message.exchange != JOBS.encode() or not _WORK_KEY.fullmatch(message.key):
        return False
    try:
        JobMessage.decode(message.body)
    except MessageUndecodable:
        return not parked_runs(message.body)
    return False


async def parked(url: str) -> set[bytes]:
    """Return the digests of all that is parked, and take it out."""
    found: set[bytes] = set()

    async def note(bodies: Sequence[bytes]) -> Choice:
        found.update(hashlib.sha256(body).digest() for body in bodies)
        return Choice(frozenset(range(len(bodies))))

    assert (await walk_parked(url, choose=note)).complete
    return found


async def all_done(http: httpx.AsyncClient, batches: list[str]) -> bool:
    """Return whether all jobs of all batches have succeeded."""
    counts = [(await http.get(f"/batches/{batch_id}")).json()["counts"] for batch_id in batches]
    return all(each["succeeded"] == INNOCENTS for each in counts)


async def unreadable_documents(http: httpx.AsyncClient) -> list[str]:
    """Return what the API cannot show of all that the messages have become; it looks at each page and job."""
    failed: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await http.get("/jobs", params={"limit": 100, **({"cursor": cursor} if cursor else {})})
        if page.status_code != HTTPStatus.OK:
            failed.append(f"the page at {cursor}: {page.text[:300]}")
            break
        for job in page.json()["items"]:
            for part in ("", "/output", "/body", "/pages"):
                answer = await http.get(f"/jobs/{job['id']}{part}")
                if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    failed.append(f"/jobs/{job['id']}{part}: {answer.text[:300]}")
        cursor = page.json()["next"]
    return failed


async def until_nothing_waits(management: Management, vhost: str) -> None:
    """Return when no message waits where somebody ought to have taken it."""
    waiting: dict[str, int] = {}

    async def is_empty() -> bool:
        queues = await asyncio.to_thread(management.queues, vhost)
        taken = [queue for queue in queues if is_work_queue(queue["name"]) or queue["name"] in _TAKEN]
        waiting.clear()
        waiting.update({queue["name"]: queue.get("messages", 0) for queue in taken})
        return bool(waiting) and not any(waiting.values())

    try:
        await eventually(is_empty, deadline_seconds=_DONE_SECONDS)
    except AssertionError:
        raise AssertionError(f"waiting: {waiting}") from None
