"""The parking lot with a real broker: bulk operations and the reconciler; queue and store agree."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from aio_pika.abc import AbstractChannel

from producer.ledger.bulk_operations import BulkOperationRunner
from producer.ledger.leader import Lease
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.parked_reconciler import PARKED_WALK, ParkedReconciler
from producer.records import NewJob, UnreadableJob
from producer.store import endings, outbox, parking, queries, recording, submissions
from producer.store.database import Database, RetryingStore, Store
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import DEFAULT, PARKED_QUEUE
from shared.errors import BrokerUnavailable
from shared.messages import JOB_TYPE, JOBS_TYPE, RAW_TYPE, JobMessage
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import message_count, open_channel, running, running_publisher
from tests.support.api import RunningApi, running_api
from tests.support.factories import NOON, TOKENS, make_job, make_report
from tests.support.waiting import eventually

GROUPS = [(f"host-{number}.example", "http_503" if number % 2 else "timeout") for number in range(7)]
GROUP_JOBS = [200, 30, 30, 30, 30, 20, 20]
ALL_JOBS = sum(GROUP_JOBS)
RATE = 50


@dataclass(frozen=True, slots=True)
class Lot:
    """A parking lot: its store, a publisher and a channel of the broker."""

    store: Database
    settings: Settings
    publisher: Publisher
    channel: AbstractChannel

    async def park(self, count: int, *, host: str, reason: str) -> list[NewJob]:
        """Store jobs as parked, and put a message of each into the parking queue."""
        jobs = [make_job(host=host) for _ in range(count)]
        reports = [make_report(job.id, JobState.PARKED, reason=reason) for job in jobs]
        await asyncio.to_thread(self.store.write, submissions.insert_jobs, jobs)
        await asyncio.to_thread(self.store.write, recording.record_reports, reports, now=NOON)
        await self.publish(jobs)
        return jobs

    async def publish(self, jobs: Sequence[NewJob], *, run: int = 1) -> None:
        """Put a message of each job into the parking queue."""
        await asyncio.gather(*(self.publisher.publish(parked_message(job, run=run)) for job in jobs))

    async def publish_together(self, jobs: Sequence[NewJob]) -> None:
        """Put one message with all of the jobs into the parking queue, as the broker does."""
        body = bundled(parked_message(job).body for job in jobs)
        await self.publisher.publish(Outgoing(DEFAULT, PARKED_QUEUE, body, JOBS_TYPE, content_type=NDJSON))

    async def length(self) -> int:
        """Return how many messages are in the parking queue."""
        return await message_count(self.channel, PARKED_QUEUE)

    def lease(self) -> Lease:
        return Lease(Store(self.store), PARKED_WALK, seconds=60)

    def reconciler(self, lease: Lease | None = None) -> ParkedReconciler:
        return ParkedReconciler(
            tokens=TOKENS,
            store=RetryingStore(self.store),
            publisher=self.publisher,
            lease=lease or self.lease(),
            metrics=LedgerMetrics(),
            settings=self.settings,
        )

    def services(self, ledgers: int) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yield what so many ledgers run."""
        for _ in range(ledgers):
            yield BulkOperationRunner(store=RetryingStore(self.store), metrics=LedgerMetrics()).run
            yield self.reconciler().run


def parked_message(job: NewJob, *, run: int = 1) -> Outgoing:
    message = JobMessage(id=job.id, kind=job.kind, lane=job.lane, args=dict(job.args), run=run)
    return Outgoing(DEFAULT, PARKED_QUEUE, message.encode(), JOB_TYPE, str(job.id))


@pytest.fixture
async def lot(store: Database, vhost_url: str) -> AsyncIterator[Lot]:
    """Yield an empty parking lot."""
    settings = Settings(amqp_url=vhost_url, publish_timeout_seconds=30)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        yield Lot(store, settings, publisher, channel)


@pytest.fixture
def api(database_url: str) -> Iterator[RunningApi]:
    """Yield an API on the store of the parking lot."""
    with running_api(Settings(database_url=database_url), migrated=False) as running:
        yield running


@asynccontextmanager
async def ledgers(lot: Lot, count: int) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for service in lot.services(count):
            await stack.enter_async_context(running(service()))  # type: ignore[arg-type]
        yield


async def test_one_group_of_seven_is_redriven_at_its_rate_and_cancelled_half_way(
    lot: Lot, api: RunningApi
) -> None:
    client = api.client
    for (host, reason), count in zip(GROUPS, GROUP_JOBS, strict=True):
        await lot.park(count, host=host, reason=reason)
    groups = client.get("/parked").json()
    assert (groups["total_groups"], groups["total_jobs"], await lot.length()) == (7, ALL_JOBS, ALL_JOBS)
    largest = groups["items"][0]
    asked = {"filter": {"group": largest["group"]}, "rate_per_second": RATE}
    dry = client.post("/parked/redrive", json={**asked, "dry_run": True})
    assert (dry.status_code, dry.json()) == (200, {"matching": 200})

    async with ledgers(lot, 2):
        started = time.monotonic()
        operation = client.post("/parked/redrive", json=asked, headers={"Retriever-Actor": "ann"})
        assert operation.status_code == 202
        path = operation.headers["location"]

        async def half_way() -> dict[str, int] | None:
            seen = (await asyncio.to_thread(client.get, path)).json()
            return seen if seen["done"] >= 100 else None

        seen = await eventually(half_way)
        seconds = time.monotonic() - started
        # A ledger may be ahead by the page that it makes at once, and nobody by more.
        assert seen["done"] <= RATE * (seconds + 0.5) + 1
        assert 1.4 <= seconds <= 4.0
        cancelled = client.post(f"{path}/cancel", headers={"Retriever-Actor": "bob"}).json()
        done = cancelled["done"]

        async def swept() -> bool:
            return await asyncio.to_thread(lot.store.read, parking.pending_redrives, 1) == []

        await eventually(swept, deadline_seconds=60)

    assert (cancelled["state"], cancelled["total"], cancelled["skipped"]) == ("cancelled", 200, 0)
    assert client.get(path).json() == cancelled
    after = client.get("/parked").json()
    by_host = {group["host"]: group["count"] for group in after["items"]}
    assert by_host[largest["host"]] == 200 - done
    assert after["total_jobs"] == ALL_JOBS - done
    assert await lot.length() == ALL_JOBS - done
    assert lot.store.read(queries.count_unfinished) == {
        JobState.PARKED: ALL_JOBS - done,
        JobState.ACCEPTED: done,
    }
    actions = [(entry["action"], entry["by"]) for entry in client.get("/audit").json()["items"]]
    assert actions == [("operation_cancelled", "anonymous (bob)"), ("redrive_started", "anonymous (ann)")]


async def test_a_mass_discard_empties_queue_and_store(lot: Lot, api: RunningApi) -> None:
    jobs = await lot.park(450, host="gone.example", reason="http_404")
    stays = await lot.park(3, host="other.example", reason="http_404")
    body = {"filter": {"host": "gone.example"}, "rate_per_second": 1_000}

    async with ledgers(lot, 1):
        path = api.client.post("/parked/discard", json=body).headers["location"]

        async def is_swept() -> bool:
            return await lot.length() == len(stays)

        await eventually(is_swept, deadline_seconds=60)

    assert api.client.get(path).json()["done"] == 450
    assert lot.store.read(queries.get_job, jobs[0].id, project=None).state is JobState.CANCELLED
    assert lot.store.read(queries.count_unfinished) == {JobState.PARKED: 3}


async def test_the_reconciler_makes_the_queue_agree_with_the_store(lot: Lot) -> None:
    await lot.park(5, host="a.example", reason="timeout")
    doubled, *_ = await lot.park(2, host="b.example", reason="timeout")
    await lot.publish([doubled])
    gone_on, succeeded, unrecorded = (make_job() for _ in range(3))
    lot.store.write(submissions.insert_jobs, [gone_on, succeeded, unrecorded])
    lot.store.write(recording.record_reports, [make_report(gone_on.id, JobState.PARKED)], now=NOON)
    lot.store.write(parking.redrive, gone_on.id, now=NOON, project=None)
    lot.store.write(parking.settle_redrives, [(gone_on.id, 1)], now=NOON)
    lot.store.write(recording.record_reports, [make_report(succeeded.id, JobState.SUCCEEDED)], now=NOON)
    await lot.publish([gone_on, succeeded, unrecorded, make_job()])
    await lot.publisher.publish(Outgoing(DEFAULT, PARKED_QUEUE, b"?", RAW_TYPE))
    missing = make_job()
    lot.store.write(submissions.insert_jobs, [missing])
    lot.store.write(recording.record_reports, [make_report(missing.id, JobState.PARKED, attempt=3)], now=NOON)
    just_parked = make_job()
    lot.store.write(submissions.insert_jobs, [just_parked])
    lot.store.write(
        recording.record_reports, [make_report(just_parked.id, JobState.PARKED)], now=datetime.now(UTC)
    )
    reconciler = lot.reconciler()

    differed = await reconciler.differs()
    await reconciler.mend()

    assert differed
    # Seven that are right, one that was missing, one the recorder has yet to see, a stranger's and a raw one.
    assert sorted(await _parked_ids(lot)) == sorted(
        [*await _stored_parked(lot, but=just_parked), str(unrecorded.id), "stranger", "raw"]
    )


async def test_a_message_with_several_jobs_makes_way_for_one_of_each_when_all_of_them_are_recorded(
    lot: Lot,
) -> None:
    parked, late, gone_on = (make_job() for _ in range(3))
    await lot.publish_together([parked, late, gone_on])
    lot.store.write(submissions.insert_jobs, [parked, late, gone_on])
    lot.store.write(outbox.mark_queued, [(late.id, 1)], now=NOON)
    lot.store.write(recording.record_reports, [make_report(parked.id, JobState.PARKED)], now=NOON)
    lot.store.write(recording.record_reports, [make_report(gone_on.id, JobState.PARKED)], now=NOON)
    lot.store.write(parking.redrive, gone_on.id, now=NOON, project=None)
    lot.store.write(parking.settle_redrives, [(gone_on.id, 1)], now=NOON)
    reconciler = lot.reconciler()

    await reconciler.mend()
    # The recorder has yet to hear of one; what is parked is there already, and looked at again.
    while_it_waits = (await lot.length(), await reconciler.differs())
    lot.store.write(recording.record_reports, [make_report(late.id, JobState.PARKED)], now=NOON)
    await reconciler.mend()

    assert while_it_waits == (2, True)
    assert await reconciler.differs() is False
    assert sorted(await _parked_ids(lot)) == sorted([str(parked.id), str(late.id)])


async def test_a_message_with_several_jobs_of_which_one_is_unknown_is_expected_from_then_on(lot: Lot) -> None:
    known = make_job()
    lot.store.write(submissions.insert_jobs, [known])
    lot.store.write(recording.record_reports, [make_report(known.id, JobState.PARKED)], now=NOON)
    await lot.publish_together([known, make_job()])
    reconciler = lot.reconciler()

    await reconciler.mend()

    assert (await reconciler.differs(), await lot.length()) == (False, 2)


async def test_a_sweep_takes_a_message_of_several_jobs_for_that_of_a_redriven_one(lot: Lot) -> None:
    jobs = [make_job(), make_job()]
    await lot.publish_together(jobs)
    lot.store.write(submissions.insert_jobs, jobs)
    lot.store.write(
        recording.record_reports, [make_report(job.id, JobState.PARKED) for job in jobs], now=NOON
    )
    lot.store.write(parking.redrive, jobs[0].id, now=NOON, project=None)

    async with running(lot.reconciler().run()):

        async def is_swept() -> bool:
            return not await asyncio.to_thread(lot.store.read, parking.pending_redrives, 1)

        await eventually(is_swept)

    assert await lot.length() == 0
    # The other's message is missing now, which the reconciler sees and mends.
    assert await lot.reconciler().differs()


async def test_the_reconciler_does_not_walk_when_the_counts_agree(lot: Lot) -> None:
    await lot.park(3, host="a.example", reason="timeout")
    await lot.publisher.publish(Outgoing(DEFAULT, PARKED_QUEUE, b"?", RAW_TYPE))
    reconciler = lot.reconciler()

    before = await reconciler.differs()
    await reconciler.mend(settled=timedelta())

    # The raw message is for a person; once met, it is expected.
    assert (before, await reconciler.differs(), await lot.length()) == (True, False, 4)


async def test_the_raw_message_of_a_parked_job_counts_as_its_own_until_the_job_is_redriven(lot: Lot) -> None:
    job = make_job()
    lot.store.write(submissions.insert_jobs, [job])
    lot.store.write(endings.park_unreadable, [UnreadableJob(job.id, 1, "version: 2")], now=NOON)
    await lot.publisher.publish(Outgoing(DEFAULT, PARKED_QUEUE, b"{}", RAW_TYPE, str(job.id)))
    reconciler = lot.reconciler()

    while_parked = await reconciler.differs()
    lot.store.write(parking.redrive, job.id, now=NOON, project=None)
    lot.store.write(parking.settle_redrives, [(job.id, 1)], now=NOON)
    redriven = await reconciler.differs()
    await reconciler.mend()

    # Nothing in the message itself says whose it is, so it stays for a person, and is expected from then on.
    assert (while_parked, redriven, await reconciler.differs(), await lot.length()) == (False, True, False, 1)


class LostLease(Lease):
    """A lease that somebody else takes in the middle of a walk."""

    is_held = True

    async def hold(self) -> bool:
        was_held, self.is_held = self.is_held, False
        return was_held


async def test_a_walk_whose_lease_is_lost_settles_nothing_and_loses_nothing(lot: Lot) -> None:
    jobs = await lot.park(250, host="a.example", reason="timeout")
    lot.store.write(parking.redrive, jobs[-1].id, now=NOON, project=None)
    reconciler = lot.reconciler(LostLease(Store(lot.store), PARKED_WALK, seconds=60))

    await reconciler.sweep({(jobs[-1].id, 1)})

    assert lot.store.read(parking.pending_redrives, 5) == [(jobs[-1].id, 1)]

    async def are_all_back() -> bool:
        # The broker takes a page back when it has seen the channel close.
        return await lot.length() == 250

    await eventually(are_all_back)


async def test_nobody_walks_while_another_does(lot: Lot) -> None:
    jobs = await lot.park(2, host="a.example", reason="timeout")
    lot.store.write(parking.redrive, jobs[-1].id, now=NOON, project=None)
    other = lot.lease()
    assert await other.hold()

    with pytest.raises(BrokerUnavailable, match="is walking"):
        await lot.reconciler().sweep({(jobs[-1].id, 1)})
    while_it_walked = await lot.length()
    await other.release()
    await lot.reconciler().sweep({(jobs[-1].id, 1)})

    assert (while_it_walked, await lot.length()) == (2, 1)


async def _parked_ids(lot: Lot) -> list[str]:
    """Take all messages out of the queue and return the ids of their jobs."""
    queue = await lot.channel.declare_queue(PARKED_QUEUE, passive=True)
    ids = []
    while (message := await queue.get(fail=False)) is not None:
        await message.ack()
        if message.type == RAW_TYPE:
            ids.append("raw")
            continue
        job = JobMessage.decode(message.body)
        known = await asyncio.to_thread(lot.store.read, parking.runs_of, [job.id])
        ids.append(str(job.id) if known else "stranger")
    return ids


async def _stored_parked(lot: Lot, *, but: NewJob) -> list[str]:
    page = await asyncio.to_thread(
        lot.store.read, parking.parked_page, recorded_before=datetime.now(UTC), after=None, limit=1_000
    )
    return [str(job.id) for job in page if job.id != but.id]
