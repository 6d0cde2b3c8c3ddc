"""The two drills of docs/operations.md: the store is lost, or the broker is; every job comes to its end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from consumer.executor import Attempt
from consumer.settlement import decide, report_message, settlement_message
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.recorder import Recorder
from producer.ledger.recovery import REASON_LOST
from producer.ledger.relay import Relay
from producer.records import NewJob
from producer.run_tokens import KEY_BYTES, RunTokens
from producer.store import events, parking, queries, submissions
from producer.store.database import Database, RetryingStore, Store
from producer.store.migrate import migrate
from producer.store.schema import metadata
from producer.store.secret_keys import RUN_TOKENS, keep_key
from producer.store.wakeup import open_wakeup
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import DEFAULT, PARKED_QUEUE
from shared.clock import utc_now
from shared.errors import JobNotFound
from shared.identity import new_id
from shared.messages import JOBS_TYPE, JobMessage, Report
from shared.outcomes import Failed, Outcome, Succeeded
from shared.retry import RetryPolicy
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import get_message, message_count, open_channel, running, running_publisher
from tests.support.commands import run_producer
from tests.support.factories import make_job
from tests.support.management import Management
from tests.support.waiting import eventually

QUEUE = "jobs.check.interactive"
# Back within a second or two.
RETRY = RetryPolicy(first_delay_seconds=1, max_delay_seconds=1, jitter=False)
DONE = Succeeded({"verdict": "ok"})
MAY_PASS = Failed("http_503", "The server answered 503.", transient=True)
GONE = Failed("http_404", "The server answered 404.", transient=False)


@dataclass(frozen=True, slots=True)
class Drill:
    """A ledger's parts and what a worker does, on a store and a broker that get lost."""

    store: Database
    settings: Settings
    publisher: Publisher

    @property
    def tokens(self) -> RunTokens:
        """Those of this store; another one has others."""
        return RunTokens(self.store.write(keep_key, RUN_TOKENS, key_bytes=KEY_BYTES))

    async def submit(self, count: int) -> list[UUID]:
        """Store jobs and relay them."""
        jobs: list[NewJob] = [make_job(retry=RETRY, created_at=utc_now()) for _ in range(count)]
        await asyncio.to_thread(self.store.write, submissions.insert_jobs, jobs)
        wakeup = open_wakeup(self.settings.database_url, poll_seconds=0.05)
        relay = Relay(
            tokens=self.tokens,
            store=Store(self.store),
            publisher=self.publisher,
            wakeup=wakeup,
            metrics=LedgerMetrics(),
            settings=self.settings,
        )
        async with running(relay.run()):
            await self.reach({job.id: JobState.QUEUED for job in jobs})
        await wakeup.aclose()
        return [job.id for job in jobs]

    async def take(self, count: int) -> list[JobMessage]:
        """Take messages off the work queue, as a worker does."""
        async with open_channel(self.settings.amqp_url) as channel:
            bodies = [(await get_message(channel, QUEUE)).body for _ in range(count)]
        return [JobMessage.decode(body) for body in bodies]

    async def settle(self, jobs: Sequence[JobMessage], outcome: Outcome) -> None:
        """Publish what a worker does after an attempt."""
        for job in jobs:
            attempt = Attempt(utc_now() - timedelta(seconds=1), utc_now(), outcome)
            decision = decide(job, attempt, random=lambda: 0.0)
            await self.publisher.publish(settlement_message(job, attempt, decision, worker="w"))

    async def announce(self, jobs: Sequence[JobMessage]) -> None:
        """Report that attempts are being made."""
        for job in jobs:
            report = Report(
                job_id=job.id,
                kind=job.kind,
                run=job.run,
                attempt=job.attempt,
                state=JobState.RUNNING,
                started_at=utc_now(),
                worker="w",
            )
            await self.publisher.publish(report_message(job, report))

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Run the recorder while inside."""
        recorder = Recorder(
            tokens=self.tokens,
            store=RetryingStore(self.store),
            metrics=LedgerMetrics(),
            settings=self.settings,
        )
        async with running(recorder.run()):
            yield

    async def reach(self, states: dict[UUID, JobState]) -> None:
        """Return when each job is in its state."""

        async def are_reached() -> bool:
            return await asyncio.to_thread(self._states, list(states)) == states

        await eventually(are_reached, deadline_seconds=60)

    def _states(self, job_ids: Sequence[UUID]) -> dict[UUID, JobState]:
        found = {}
        for job_id in job_ids:
            try:
                found[job_id] = self.store.read(queries.get_job, job_id, project=None).state
            except JobNotFound:
                continue
        return found


@asynccontextmanager
async def drill(store: Database, database_url: str, amqp_url: str) -> AsyncIterator[Drill]:
    # All jobs are of one host, which is not to hold any of them.
    settings = Settings(
        amqp_url=amqp_url, database_url=database_url, host_concurrency=1_000, host_rate_per_second=0
    )
    async with running_publisher(amqp_url, timeout_seconds=30) as publisher:
        yield Drill(store, settings, publisher)


def lose(store: Database, database_url: str) -> None:
    """Drop all tables, and make them again."""
    with store.writing() as connection:
        metadata.drop_all(connection)
        connection.execute(sa.text("DROP TABLE alembic_version"))
    migrate(database_url)


async def test_jobs_come_back_from_the_broker_when_the_store_was_lost(
    store: Database, database_url: str, vhost_url: str
) -> None:
    async with drill(store, database_url, vhost_url) as ours:
        everything = await ours.submit(10)
        parked, done, retried, being_made = [await ours.take(2) for _ in range(4)]
        async with ours.recording():
            await ours.settle(parked, GONE)
            await ours.reach({job.id: JobState.PARKED for job in parked})
        await ours.settle(done, DONE)
        await ours.settle(retried, MAY_PASS)

        await asyncio.to_thread(lose, store, database_url)
        said = await asyncio.to_thread(run_producer, database_url, vhost_url, "adopt-parked")
        async with ours.recording():
            # What was in hand ends, and what waited or was delayed is taken: by workers that noticed nothing.
            await ours.settle(being_made, DONE)
            await ours.settle(await ours.take(4), DONE)
            states = dict.fromkeys(everything, JobState.SUCCEEDED)
            await ours.reach({**states, **dict.fromkeys((job.id for job in parked), JobState.PARKED)})

    assert (said.returncode, said.stdout.splitlines()[-1]) == (0, "adopted: 2 jobs of 2 parked messages")
    one = store.read(queries.get_job, parked[0].id, project=None)
    assert (one.reason, one.explanation, len(one.attempts)) == (GONE.reason, GONE.explanation, 1)
    assert [each.number for each in store.read(queries.get_job, retried[0].id, project=None).attempts] == [
        1,
        2,
    ]
    assert store.write(parking.redrive, one.id, now=utc_now(), project=None).run == 2


async def test_parked_jobs_are_adopted_once_and_their_messages_stay(
    store: Database, database_url: str, vhost_url: str
) -> None:
    async with drill(store, database_url, vhost_url) as ours:
        await ours.submit(1)
        parked = await ours.take(1)
        await ours.settle(parked, GONE)
        await asyncio.to_thread(lose, store, database_url)

        ran = [await asyncio.to_thread(run_producer, database_url, vhost_url, "adopt-parked") for _ in "12"]
        async with open_channel(vhost_url) as channel:
            left = await message_count(channel, "jobs.parked")

    last = [ended.stdout.splitlines()[-1] for ended in ran]
    assert last == ["adopted: 1 jobs of 1 parked messages", "adopted: 0 jobs of 1 parked messages"]
    assert left == 1
    assert len(store.write(events.claim_events, limit=5, lease_seconds=60, now=utc_now())) == 1


async def test_every_parked_job_of_a_message_with_several_is_adopted(
    store: Database, database_url: str, vhost_url: str
) -> None:
    jobs = [JobMessage(id=new_id(), kind="check", args={"url": "https://example.com/"}) for _ in range(3)]
    body = bundled([jobs[0].encode(), b"garbage", *(job.encode() for job in jobs[1:])])
    async with drill(store, database_url, vhost_url) as ours:
        await ours.publisher.publish(Outgoing(DEFAULT, PARKED_QUEUE, body, JOBS_TYPE, content_type=NDJSON))

        ran = await asyncio.to_thread(run_producer, database_url, vhost_url, "adopt-parked")

    assert ran.stdout.splitlines()[-1] == "adopted: 3 jobs of 1 parked messages"
    found = [store.read(queries.get_job, job.id, project=None) for job in jobs]
    assert {(job.state, job.reason) for job in found} == {(JobState.PARKED, REASON_LOST)}


async def test_jobs_are_sent_again_from_the_store_when_the_broker_was_lost(
    store: Database, database_url: str, vhost_url: str, vhost: str, management: Management
) -> None:
    async with drill(store, database_url, vhost_url) as ours:
        everything = await ours.submit(8)
        retried, being_made = await ours.take(2), await ours.take(2)
        async with ours.recording():
            await ours.settle(retried, Failed("http_503", "503", transient=True, retry_after_seconds=1))
            await ours.announce(being_made)
            await ours.reach(
                {
                    **dict.fromkeys((job.id for job in retried), JobState.DELAYED),
                    **dict.fromkeys((job.id for job in being_made), JobState.RUNNING),
                }
            )

            management.delete_vhost(vhost)
            management.create_vhost(vhost)
            said = await asyncio.to_thread(run_producer, database_url, vhost_url, "republish")
            await ours.publisher.wait_ready()
            taken = await ours.take(8)
            await ours.settle(taken, DONE)
            await ours.reach(dict.fromkeys(everything, JobState.SUCCEEDED))

    assert said.stdout.splitlines()[-1] == "republished: 4 queued, 2 delayed, 2 running"
    assert sorted(job.id for job in taken) == sorted(everything)
    attempts = {job.id: job.attempt for job in taken}
    assert [attempts[job.id] for job in retried] == [2, 2]
    assert [attempts[job.id] for job in being_made] == [1, 1]
