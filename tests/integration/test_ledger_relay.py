"""The relay on a real broker: what it publishes together, and what becomes of what is returned."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from aio_pika.abc import AbstractChannel

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.relay import InteractiveRelay, Relay
from producer.records import NewJob
from producer.store import queries, submissions
from producer.store.database import Database, Store
from producer.store.rows import first_id
from producer.store.wakeup import open_wakeup
from shared.broker.bundle import NDJSON, bodies_of
from shared.broker.publisher import Publisher
from shared.broker.topology import JOBS, RECORDER_QUEUE, bundle_key, bundle_queue, work_queue
from shared.clock import utc_now
from shared.hosts import MAX_CONCURRENCY
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import get_message, message_count, open_channel, running, running_publisher
from tests.support.factories import TOKENS, make_job
from tests.support.waiting import eventually


@dataclass(frozen=True, slots=True)
class Ledger:
    """A relay that can be run, the store it reads, and the broker it publishes to."""

    relay: Relay
    interactive: InteractiveRelay
    beside_it: Relay
    """Leaves interactive jobs to that one for a moment."""
    store: Database
    publisher: Publisher
    channel: AbstractChannel

    async def submit(
        self, count: int, *, kind: str = "check", lane: Lane = Lane.BULK, first: UUID | None = None
    ) -> list[NewJob]:
        """Store accepted jobs; the first with an id of its own."""
        ids = [first, *[None] * (count - 1)]
        jobs = [make_job(job_id=each, kind=kind, lane=lane, created_at=utc_now()) for each in ids]
        await asyncio.to_thread(self.store.write, submissions.insert_jobs, jobs)
        return jobs

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator[None]:
        """Run the relay while inside."""
        async with running(self.relay.run()):
            yield

    async def are_queued(self, jobs: Collection[NewJob]) -> None:
        """Return when all of the jobs are queued."""

        async def look() -> bool:
            states = [
                (await asyncio.to_thread(self.store.read, queries.get_job, job.id, project=None)).state
                for job in jobs
            ]
            return set(states) == {JobState.QUEUED}

        await eventually(look)

    async def take_bundle(self, kind: str) -> list[UUID]:
        """Take a message with several jobs off their queue, and return which jobs it carries."""
        message = await get_message(self.channel, bundle_queue(kind))
        assert (message.type, message.content_type, message.correlation_id) == ("jobs", NDJSON, None)
        return [JobMessage.decode(body).id for body in bodies_of(message.body)]


@pytest.fixture
async def ledger(store: Database, database_url: str, vhost_url: str) -> AsyncIterator[Ledger]:
    """Yield a ledger whose relay does not run yet."""
    wakeup = open_wakeup(database_url, poll_seconds=0.05)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        make = partial(
            Relay,
            tokens=TOKENS,
            store=Store(store),
            publisher=publisher,
            wakeup=wakeup,
            metrics=LedgerMetrics(),
            settings=Settings(
                amqp_url=vhost_url,
                database_url=database_url,
                bundle_jobs=10,
                host_concurrency=MAX_CONCURRENCY,
                host_rate_per_second=0,
            ),
        )
        yield Ledger(
            make(),
            InteractiveRelay(**make.keywords),
            make(leaves_interactive=True),
            store,
            publisher,
            channel,
        )
    await wakeup.aclose()


async def test_checks_of_the_bulk_lane_travel_ten_to_a_message_and_all_are_queued(ledger: Ledger) -> None:
    checks, one = await ledger.submit(25), await ledger.submit(1, lane=Lane.INTERACTIVE)
    fetches, webhooks = await ledger.submit(2, kind="fetch"), await ledger.submit(3, kind="webhook")

    async with ledger.relaying():
        await ledger.are_queued([*checks, *one, *fetches, *webhooks])

    taken = [job_id for _ in range(3) for job_id in await ledger.take_bundle("check")]
    assert taken == [job.id for job in checks]
    # Of these somebody would see what a crash repeats.
    assert await message_count(ledger.channel, work_queue("fetch", Lane.BULK)) == 2
    assert await message_count(ledger.channel, work_queue("webhook", Lane.BULK)) == 3
    assert await message_count(ledger.channel, work_queue("check", Lane.INTERACTIVE)) == 1
    # The recorder hears of none of it.
    assert await message_count(ledger.channel, RECORDER_QUEUE) == 0


async def test_one_job_of_the_bulk_lane_travels_alone(ledger: Ledger) -> None:
    (job,) = await ledger.submit(1)

    async with ledger.relaying():
        await ledger.are_queued([job])

    message = await get_message(ledger.channel, work_queue("check", Lane.BULK))
    assert (message.type, message.correlation_id) == ("job", str(job.id))


async def test_interactive_jobs_have_a_relay_of_their_own_that_takes_no_other(ledger: Ledger) -> None:
    batched, single = await ledger.submit(15), await ledger.submit(3, lane=Lane.INTERACTIVE)

    async with running(ledger.interactive.run()):
        await ledger.are_queued(single)
        # It hears of what comes later.
        await ledger.are_queued(await ledger.submit(1, lane=Lane.INTERACTIVE))

    assert await message_count(ledger.channel, work_queue("check", Lane.INTERACTIVE)) == 4
    assert {ledger.store.read(queries.get_job, job.id, project=None).state for job in batched} == {
        JobState.ACCEPTED
    }


async def test_the_relay_beside_it_takes_interactive_jobs_that_it_has_left(ledger: Ledger) -> None:
    (young,) = await ledger.submit(1, lane=Lane.INTERACTIVE, first=first_id(utc_now() + timedelta(hours=1)))
    left = await ledger.submit(1, lane=Lane.INTERACTIVE, first=first_id(utc_now() - timedelta(seconds=2)))
    batched = await ledger.submit(1)

    async with running(ledger.beside_it.run()):
        await ledger.are_queued([*left, *batched])

    assert ledger.store.read(queries.get_job, young.id, project=None).state is JobState.ACCEPTED


async def test_all_jobs_of_a_message_that_is_returned_are_published_again(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    jobs, others = await ledger.submit(15), await ledger.submit(2, lane=Lane.INTERACTIVE)
    queue = await ledger.channel.get_queue(bundle_queue("check"), ensure=False)
    await queue.unbind(JOBS, bundle_key("check"))

    async with ledger.relaying():
        # What another message carries is confirmed meanwhile; a new channel binds the queue again.
        await ledger.are_queued([*jobs, *others])

    taken = await ledger.take_bundle("check") + await ledger.take_bundle("check")
    assert sorted(taken) == [job.id for job in jobs]
    assert "message_unroutable" in caplog.messages
