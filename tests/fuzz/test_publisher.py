"""Messages of a third party with the rights of the stack's publisher: nobody else's jobs change."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aio_pika
import httpx
import pytest
import sqlalchemy as sa
from aio_pika.abc import AbstractIncomingMessage

from deploy.compose.make_secrets import PUBLISHER_USER
from producer.callers import DEFAULT_PROJECT
from producer.store.database import Database
from producer.store.feed import ENDS
from producer.store.schema import audit, batches, jobs, metadata, revisions
from shared.broker.topology import JOBS, OUTCOMES
from shared.identity import new_id
from shared.messages import JobMessage
from tests.fuzz.publisher import PUBLISHERS_PROJECT, Others, PublisherFuzzer, is_within_rights
from tests.fuzz.service import FuzzedSystem
from tests.fuzz.test_messages import all_done, submit_innocents, unreadable_documents, until_nothing_waits
from tests.support.amqp import open_channel
from tests.support.keys import bearer, make_key
from tests.support.logins import broker_logins
from tests.support.management import Management
from tests.support.raw_amqp import RawPublisher, Refused
from tests.support.waiting import eventually

PUBLISHED = int(os.environ.get("FUZZ_PUBLISHED", "150"))
CONNECTIONS = 4
HONEST = 10
THEIRS = "zeta"
GROWTH_BYTES = 100 * 1_048_576
_DONE_SECONDS = 120.0 + PUBLISHED / 20
_SETTLED = {"succeeded", "parked", "delayed", "scheduled", "queued"}
# They change whatever anybody publishes: leases, looks at the queues, events under way, when keys were used,
# and what a ledger counts every few seconds.
_MOVING = {
    *("api_keys", "api_key_secrets", "events", "leases", "queues", "rate_demands"),
    *("job_counts", "parked_counts", "delay_depths", "ended_minutes", "ended_hours", "figures"),
}


@dataclass(slots=True)
class Seen:
    """What became of the messages: how many the broker took, and why it refused the others."""

    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    taken_beyond_rights: list[str] = field(default_factory=list)


@pytest.fixture
def management(system: FuzzedSystem) -> Iterator[Management]:
    client = Management(system.management_url)
    yield client
    client.close()


@pytest.fixture
def store(system: FuzzedSystem) -> Iterator[Database]:
    database = Database.open(system.database_url)
    yield database
    database.close()


async def test_what_a_publisher_sends_changes_no_job_batch_or_event_of_others(
    system: FuzzedSystem, store: Database, management: Management, vhost_logins: dict[str, str], seed: int
) -> None:
    async with AsyncExitStack() as stack:
        theirs, default, own = [
            await stack.enter_async_context(caller(system, store, project))
            for project in (THEIRS, DEFAULT_PROJECT, PUBLISHERS_PROJECT)
        ]
        for http in (theirs, default):
            await hand_in(http, system.site_url)
        others = await eventually(lambda: settled(store), deadline_seconds=_DONE_SECONDS)
        before, listed = belongings(store, others), await documents(theirs)
        told = await stack.enter_async_context(outcomes(system.amqp_url))
        fuzzer = PublisherFuzzer(seed=seed, site_url=system.site_url, others=others)

        seen = Seen()
        await publish_all(vhost_logins[PUBLISHER_USER], fuzzer, range(PUBLISHED // 2), seen)
        middle = system.growing()
        innocent = await submit_innocents(own, system.site_url, "between")
        await publish_all(vhost_logins[PUBLISHER_USER], fuzzer, range(PUBLISHED // 2, PUBLISHED), seen)
        honest = await publish_honestly(vhost_logins[PUBLISHER_USER], system.site_url)

        await eventually(lambda: all_done(own, innocent), deadline_seconds=_DONE_SECONDS)
        await eventually(lambda: have_succeeded(own, honest), deadline_seconds=_DONE_SECONDS)
        await until_nothing_waits(management, system.vhost)
        assert belongings(store, others) == before
        assert await documents(theirs) == listed
        assert await unreadable_documents(own) == []
        assert [event for event in told if is_about(event, others)] == []

    assert kinds_in(store) == {"check", "fetch", "task"}
    assert system.ended() == []
    assert system.errors() == []
    assert seen.taken_beyond_rights == []
    # Both happen: most come through, and there are such as may not.
    assert seen.taken > PUBLISHED / 2 and seen.refused.total() > 0, seen
    grown = {name: octets - middle[name] for name, octets in system.growing().items()}
    assert max(grown.values()) < GROWTH_BYTES, grown
    assert set(system.end_in_order().values()) <= {0, -15, 143}
    assert system.errors() == []


@pytest.fixture
def vhost_logins(system: FuzzedSystem, management: Management) -> Iterator[dict[str, str]]:
    """Yield the address of the system's virtual host for each user of the stack."""
    with broker_logins(management, system.vhost, system.amqp_url) as addresses:
        yield addresses


@asynccontextmanager
async def caller(system: FuzzedSystem, store: Database, project: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client with a key of a project."""
    headers = bearer(make_key(store, f"of-{project}", project=project))
    async with httpx.AsyncClient(base_url=system.api_url, headers=headers, timeout=30) as http:

        async def is_known() -> bool:
            return (await http.get("/jobs")).status_code == 200

        await eventually(is_known)
        yield http


async def hand_in(http: httpx.AsyncClient, site_url: str) -> None:
    """Submit something of every sort, in every state that lasts."""
    retry = {"max_attempts": 3, "first_delay_seconds": 3_600, "max_delay_seconds": 3_600}
    pages = {"by": "page", "items": "items", "total": "total"}
    submitted: list[dict[str, Any]] = [
        {"kind": "check", "args": {"url": f"{site_url}/ok/1"}, "ref": "row 1", "labels": {"team": "theirs"}},
        {"kind": "fetch", "args": {"url": f"{site_url}/api/items", "if_changed": True}},
        {"kind": "fetch", "args": {"url": f"{site_url}/api/items", "pages": pages}},
        {"kind": "fetch", "args": {"url": f"{site_url}/missing"}},
        {"kind": "fetch", "args": {"url": f"{site_url}/broken"}, "retry": retry},
        {"kind": "check", "args": {"url": f"{site_url}/ok/2"}, "delay_seconds": 86_400},
    ]
    items = [{"url": f"{site_url}/ok/{number}"} for number in range(3)]
    every_day = {"every_seconds": 86_400, "job": {"kind": "check", "args": {"url": f"{site_url}/ok/3"}}}
    for path, document in (
        *(("/jobs", each) for each in submitted),
        ("/batches", {"kind": "check", "items": [*items, {"ref": "no url"}]}),
        ("/schedules", every_day),
        ("/tasks", {"payload": {"a": 1}, "queue": "theirs"}),
    ):
        answer = await http.post(path, json=document)
        assert answer.is_success, answer.text


async def settled(store: Database) -> Others | None:
    """Return what others have, once nothing of it is on its way."""
    with store.reading() as connection:
        found = connection.execute(sa.select(jobs.c.id, jobs.c.state)).all()
        theirs = connection.execute(sa.select(batches.c.id)).scalars().all()
    states = Counter(str(row.state) for row in found)
    # Each has one that is delayed, one that is parked and a task; all pages have ended.
    lasting = [states[state] for state in ("delayed", "parked", "queued")]
    if states.keys() != _SETTLED or lasting != [2, 2, 2]:
        return None
    names = (THEIRS, DEFAULT_PROJECT)
    return Others([str(row.id) for row in found], [str(batch_id) for batch_id in theirs], names)


def belongings(store: Database, others: Others) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of what others have, and all of project `zeta`, and all that is of no job."""
    ids = {jobs: others.jobs, batches: others.batches}
    # A publisher's own jobs may be of the default project, too, and what is done to them is noted.
    known = [*(f"job/{each}" for each in others.jobs), *(f"batch/{each}" for each in others.batches)]
    noted = audit.c.target.in_(known)
    found = {}
    with store.reading() as connection:
        for table in metadata.sorted_tables:
            if table.name in _MOVING:
                continue
            rows = sa.select(table)
            if table in ids:
                is_known = table.c.id.in_([UUID(each) for each in ids[table]])
                rows = rows.where(is_known | (table.c.project == THEIRS))
            elif table is audit:
                rows = rows.where(noted | (audit.c.project == THEIRS) | audit.c.project.is_(None))
            elif table is revisions:
                # The publisher's own jobs end, too, and ends are numbered over all.
                rows = rows.where(revisions.c.name != ENDS)
            elif "job_id" in table.c:
                rows = rows.where(table.c.job_id.in_([UUID(each) for each in others.jobs]))
            found[table.name] = sorted((tuple(row) for row in connection.execute(rows)), key=repr)
    return found


async def documents(http: httpx.AsyncClient) -> dict[str, Any]:
    """Return what somebody is shown of what he has, but for what is worked out anew each time."""
    found: dict[str, Any] = {}
    for path in ("/jobs", "/batches", "/schedules", "/parked"):
        answer = await http.get(path, params={"limit": 100})
        assert answer.status_code == 200, answer.text
        found[path] = [
            {name: value for name, value in item.items() if name != "explanation"}
            for item in answer.json()["items"]
        ]
    for job in found["/jobs"]:
        for part in ("body", "pages", "output"):
            answer = await http.get(f"/jobs/{job['id']}/{part}")
            found[f"{job['id']}/{part}"] = (answer.status_code, answer.content)
    return found


@asynccontextmanager
async def outcomes(url: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield all events that are published while inside, as they come."""
    told: list[dict[str, Any]] = []

    async def note(message: AbstractIncomingMessage) -> None:
        told.append(json.loads(message.body))

    async with open_channel(url) as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(OUTCOMES, "#")
        await queue.consume(note, no_ack=True)
        yield told


def is_about(event: dict[str, Any], others: Others) -> bool:
    """Return whether an event tells of something that others have."""
    about = {event.get("job_id"), event.get("id")}
    return bool(about & {*others.jobs, *others.batches}) or event.get("project") == THEIRS


async def publish_all(url: str, fuzzer: PublisherFuzzer, numbers: range, seen: Seen) -> None:
    """Publish messages over several connections at once."""
    shares = [numbers[first::CONNECTIONS] for first in range(CONNECTIONS)]
    for part in await asyncio.gather(*(asyncio.to_thread(publish, url, fuzzer, share) for share in shares)):
        seen.taken += part.taken
        seen.refused += part.refused
        seen.taken_beyond_rights += part.taken_beyond_rights


def publish(url: str, fuzzer: PublisherFuzzer, numbers: range) -> Seen:
    """Publish messages, each confirmed before the next."""
    seen = Seen()
    with RawPublisher(url) as publisher:
        for number in numbers:
            message = fuzzer.message(number)
            try:
                publisher.publish(*message)
            except Refused as error:
                seen.refused[str(error)[:60]] += 1
                continue
            seen.taken += 1
            if not is_within_rights(message):
                seen.taken_beyond_rights.append(f"{message.exchange!r} {message.key!r}")
    return seen


async def publish_honestly(url: str, site_url: str) -> list[UUID]:
    """Publish jobs as they should be; return their ids."""
    sent = [
        JobMessage(id=new_id(), kind="check", args={"url": f"{site_url}/ok/honest-{number}"})
        for number in range(HONEST)
    ]
    async with open_channel(url) as channel:
        exchange = aio_pika.Exchange(channel, JOBS)
        for job in sent:
            message = aio_pika.Message(job.encode(), user_id=PUBLISHER_USER, type="job")
            await exchange.publish(message, "check.interactive")
    return [job.id for job in sent]


async def have_succeeded(http: httpx.AsyncClient, ids: Collection[UUID]) -> bool:
    """Return whether all of some jobs have succeeded, in the project of whoever asks."""
    answers = [await http.get(f"/jobs/{job_id}") for job_id in ids]
    return all(each.status_code == 200 and each.json()["state"] == "succeeded" for each in answers)


def kinds_in(store: Database) -> set[str]:
    """Return the kinds of all stored jobs."""
    with store.reading() as connection:
        return set(connection.execute(sa.select(jobs.c.kind).distinct()).scalars())
