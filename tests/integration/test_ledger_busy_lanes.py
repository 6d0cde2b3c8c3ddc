"""Jobs whose message is lost while their queue is never empty: found by the order in which queues deliver."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from aio_pika.abc import AbstractChannel
from pydantic import BaseModel

from consumer.politeness.host_limiters import FirstPermit
from producer.ledger import lost_jobs
from producer.ledger.lost_jobs import LostJobReconciler
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.queue_watch import QueueWatch
from producer.ledger.recorder import Recorder
from producer.ledger.relay_messages import job_messages
from producer.records import NewJob
from producer.store import outbox, queries, recording, submissions
from producer.store import queues as store_queues
from producer.store.database import Database, RetryingStore
from shared.broker.publisher import Publisher
from shared.broker.topology import (
    LARGE_RESULTS_QUEUE,
    RECORDER_QUEUE,
    QueueDepth,
    bundle_queue,
    delay_queue,
    work_queue,
)
from shared.clock import utc_now
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from shared.retry import RetryPolicy
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import get_message, message_count, open_channel, running, running_publisher
from tests.support.factories import NOON, TOKENS, make_deferral, make_job, make_report
from tests.support.waiting import eventually
from tests.support.worker import working

FETCHES, BULK, BUNDLES = "jobs.fetch.bulk", work_queue("check", Lane.BULK), bundle_queue("check")
LOOK_SECONDS = 20.0
# How long an attempt may be silent; the looks below are counted for it.
ATTEMPT_SECONDS = 35.0
SILENT = timedelta(seconds=ATTEMPT_SECONDS + 20)


@dataclass
class Clock:
    """A clock of the wall, and one that only goes forward."""

    seconds: float = 0.0

    def wall(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)


@dataclass
class Ledger:
    """A reconciler whose looks and clocks are told by the test, on a real store and broker."""

    store: Database
    publisher: Publisher
    channel: AbstractChannel
    clock: Clock = field(default_factory=Clock)
    metrics: LedgerMetrics = field(default_factory=LedgerMetrics)
    made: int = 0

    def __post_init__(self) -> None:
        store, settings = RetryingStore(self.store), Settings()
        self.watch = QueueWatch(
            store=store, settings=settings, clock=lambda: self.clock.seconds, wall_clock=self.clock.wall
        )
        self.reconciler = LostJobReconciler(
            store=store,
            publisher=self.publisher,
            watch=self.watch,
            metrics=self.metrics,
            settings=settings,
            tokens=TOKENS,
            clock=lambda: self.clock.seconds,
        )

    def queued(self, count: int = 1, *, kind: str = "fetch", together: bool = False) -> list[UUID]:
        """Store jobs that were made, published and noted at this moment."""
        jobs = [self._job(kind) for _ in range(count)]
        self.store.write(submissions.insert_jobs, jobs)
        ids = [job.id for job in jobs]
        alone = () if together else ids
        self.store.write(outbox.mark_queued, [(each, 1) for each in ids], now=self.clock.wall(), alone=alone)
        return ids

    def report(self, state: JobState, *job_ids: UUID, attempt: int = 1) -> None:
        """Record reports of attempts at this moment."""
        now = self.clock.wall()
        reports = [
            make_report(each, state, attempt=attempt, kind="fetch", started_at=now, ended_at=now)
            for each in job_ids
        ]
        self.store.write(recording.record_reports, reports, now=now)

    async def look(self, ready: Mapping[str, int], *, consumers: int = 2) -> None:
        """Let the watch see these queues hold messages, and all others empty; then time goes on."""
        names = {FETCHES, BULK, BUNDLES, RECORDER_QUEUE, LARGE_RESULTS_QUEUE}
        self.watch.note(QueueDepth(name, ready.get(name, 0), consumers) for name in names)
        await self.reconciler.check()
        self.clock.seconds += LOOK_SECONDS

    async def looks(self, count: int, ready: Mapping[str, int]) -> None:
        for _ in range(count):
            await self.look(ready)

    async def sent(self) -> list[UUID]:
        """Take the messages that were sent again."""
        return [
            JobMessage.decode((await get_message(self.channel, queue)).body).id
            for queue in (FETCHES, BULK)
            for _ in range(await message_count(self.channel, queue))
        ]

    def _job(self, kind: str) -> NewJob:
        self.made += 1
        at = self.clock.wall()
        # A UUIDv7 of the test's time.
        high = (int(at.timestamp() * 1_000) << 16) | 0x7000
        job_id = UUID(int=high << 64 | 0b10 << 62 | self.made)
        return make_job(job_id=job_id, kind=kind, lane=Lane.BULK, created_at=at)


@pytest.fixture
async def ledger(store: Database, vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    """Yield a reconciler that has seen nothing, and whose clocks stand."""
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        made = Ledger(store, publisher, channel)
        monkeypatch.setattr(lost_jobs, "utc_now", made.clock.wall)
        monkeypatch.setattr(lost_jobs, "attempt_seconds", lambda *_: ATTEMPT_SECONDS)
        yield made


async def test_a_job_that_later_ones_have_overtaken_is_sent_again_and_no_other(ledger: Ledger) -> None:
    (lost,) = ledger.queued()
    ledger.clock.seconds += 10
    waiting = ledger.queued(8)
    await ledger.look({FETCHES: 8})
    # The queue is never empty; the one that was seen waiting starts.
    ledger.report(JobState.RUNNING, waiting[-1])
    later = ledger.queued(5)
    await ledger.look({FETCHES: 5})
    seen_at = ledger.clock.wall()
    while ledger.clock.wall() < seen_at + SILENT - timedelta(seconds=LOOK_SECONDS):
        await ledger.look({FETCHES: 5})
        assert await ledger.sent() == []
    await ledger.looks(2, {FETCHES: 5})

    # Those that waited with it had as long to be heard of; they were not taken out, they are lost as well.
    sent = await ledger.sent()
    assert lost in sent and not set(sent) & {waiting[-1], *later}


async def test_a_job_that_a_worker_keeps_while_it_runs_newer_ones_is_not_sent_again_until_it_is_silent(
    ledger: Ledger,
) -> None:
    (kept,) = ledger.queued()
    ledger.clock.seconds += 10
    waiting = ledger.queued(8)
    await ledger.look({FETCHES: 8})
    ledger.report(JobState.RUNNING, waiting[-1])
    for _ in range(6):
        # Less often than workers tell of it.
        put_off = make_deferral(kept, seconds=ledger.clock.seconds + 60)
        ledger.store.write(recording.record_reports, [put_off], now=ledger.clock.wall())
        await ledger.looks(2, {FETCHES: 5})
    while_it_was_told_of = await ledger.sent()

    # Now its worker has died, and the message is gone as well.
    await ledger.looks(4, {FETCHES: 5})
    newest = ledger.queued(2)
    await ledger.look({FETCHES: 5})
    ledger.report(JobState.RUNNING, newest[-1])
    await ledger.looks(6, {FETCHES: 5})

    assert kept not in while_it_was_told_of
    assert kept in await ledger.sent()


async def test_a_long_backlog_is_not_sent_again_and_a_job_taken_out_of_it_is(ledger: Ledger) -> None:
    backlog: list[UUID] = []
    lost = None
    for turn in range(135):
        backlog += ledger.queued()
        if turn == 20:
            lost = backlog[-1]
        # Half an hour long, it is worked off as fast as it grows.
        if turn >= 90 and (done := backlog.pop(0)) != lost:
            ledger.report(JobState.SUCCEEDED, done)
        await ledger.look({FETCHES: len(backlog)})
        if turn == 105:
            assert await ledger.sent() == []

    assert await ledger.sent() == [lost]


async def test_an_empty_look_proves_as_much_as_a_later_job(ledger: Ledger) -> None:
    (lost,) = ledger.queued()
    ledger.clock.seconds += 10
    await ledger.look({})
    # From now on there is always something in it.
    young = ledger.queued(3)
    await ledger.looks(5, {FETCHES: 3})

    assert await ledger.sent() == [lost]
    assert ledger.store.read(queries.get_job, young[0], project=None).state is JobState.QUEUED


@pytest.mark.parametrize("waiting", [RECORDER_QUEUE, LARGE_RESULTS_QUEUE])
async def test_nothing_is_sent_while_its_report_may_wait(ledger: Ledger, waiting: str) -> None:
    (lost,) = ledger.queued()
    ledger.clock.seconds += 10
    await ledger.look({waiting: 1})
    await ledger.looks(6, {FETCHES: 1, waiting: 1})
    while_it_waited = await ledger.sent()
    await ledger.look({FETCHES: 1})
    await ledger.looks(3, {FETCHES: 1, waiting: 1})

    assert (while_it_waited, await ledger.sent()) == ([], [lost])


async def test_a_queue_that_nobody_takes_from_proves_nothing(ledger: Ledger) -> None:
    # A queue whose leader does not answer shows no messages and no consumers either.
    ledger.queued()
    ledger.clock.seconds += 10
    await ledger.look({})
    for _ in range(6):
        await ledger.look({RECORDER_QUEUE: 1}, consumers=0)

    assert await ledger.sent() == []


async def test_a_pause_begins_the_time_anew(ledger: Ledger) -> None:
    (lost,) = ledger.queued()
    ledger.clock.seconds += 10
    await ledger.look({})
    ledger.store.write(store_queues.pause, "fetch", "bulk", by="ann", note=None, now=utc_now())
    await ledger.looks(6, {FETCHES: 3})
    ledger.store.write(store_queues.resume, "fetch", "bulk", by="ann", note=None, now=utc_now())
    await ledger.looks(6, {FETCHES: 3})
    before = await ledger.sent()
    await ledger.look({})
    await ledger.looks(5, {FETCHES: 3})

    assert (before, await ledger.sent()) == ([], [lost])


async def test_a_delayed_job_is_lost_when_the_work_queue_has_passed_its_due_time(ledger: Ledger) -> None:
    lost, waits = ledger.queued(2)
    ledger.report(JobState.DELAYED, lost, waits)
    # Both are due in 5 s; the next attempt of the second is seen to wait, then to run.
    ledger.clock.seconds += 30
    await ledger.look({FETCHES: 2})
    others = ledger.queued(2)
    ledger.report(JobState.DELAYED, *others)
    ledger.clock.seconds += 10
    await ledger.look({FETCHES: 2})
    ledger.report(JobState.RUNNING, *others, attempt=2)
    ledger.report(JobState.SUCCEEDED, waits, attempt=2)
    await ledger.looks(5, {FETCHES: 2})

    assert await ledger.sent() == [lost]


async def test_bundles_prove_nothing_of_jobs_that_may_wait_alone(ledger: Ledger) -> None:
    (lost,) = ledger.queued(kind="check", together=True)
    ledger.clock.seconds += 10
    together = ledger.queued(3, kind="check", together=True)
    await ledger.look({BUNDLES: 1, BULK: 1})
    ledger.report(JobState.RUNNING, *together)
    await ledger.looks(5, {BUNDLES: 1, BULK: 1})
    while_the_other_queue_was_busy = await ledger.sent()
    await ledger.look({BUNDLES: 1})
    await ledger.looks(4, {BUNDLES: 1, BULK: 1})

    assert (while_the_other_queue_was_busy, (await ledger.sent())[:1]) == ([], [lost])


async def test_a_job_that_was_sent_again_is_lost_only_when_it_was_overtaken_again(ledger: Ledger) -> None:
    (lost,) = ledger.queued()
    ledger.clock.seconds += 10
    await ledger.look({})
    await ledger.looks(5, {FETCHES: 3})
    first = await ledger.sent()
    await ledger.looks(10, {FETCHES: 3})
    second = await ledger.sent()
    await ledger.look({})
    await ledger.looks(5, {FETCHES: 3})

    assert (first, second, await ledger.sent()) == ([lost], [], [lost])


class Target:
    """A handler that takes a moment, and fails each job's first attempt if told so."""

    def __init__(self, *, fails_first: bool) -> None:
        self.starts = 0
        self._fails_first = fails_first

    async def __call__(self, _: BaseModel, job: JobMessage, __: FirstPermit) -> Outcome:
        self.starts += 1
        await asyncio.sleep(0.2)
        if self._fails_first and job.attempt == 1:
            return Failed("http_503", "The host answered 503.", transient=True)
        return Succeeded({})


@asynccontextmanager
async def steady_load(store: Database, publisher: Publisher, target: Target) -> AsyncIterator[list[UUID]]:
    """Publish checks while inside, so that some always wait for the worker; yield their ids."""
    ids: list[UUID] = []

    async def publish() -> None:
        retry = RetryPolicy(first_delay_seconds=1, factor=1, jitter=False)
        while True:
            if len(ids) - target.starts < 60:
                jobs = [make_job(lane=Lane.INTERACTIVE, retry=retry, created_at=utc_now()) for _ in range(20)]
                await asyncio.to_thread(store.write, submissions.insert_jobs, jobs)
                claimed = await asyncio.to_thread(
                    store.write, outbox.claim_accepted, limit=100, lease_seconds=60, now=utc_now()
                )
                await asyncio.gather(
                    *(
                        publisher.publish(message)
                        for message, _ in job_messages(claimed, tokens=TOKENS, bundle_jobs=1)
                    )
                )
                claims = [(job.id, job.run) for job in claimed]
                await asyncio.to_thread(store.write, outbox.mark_queued, claims, now=utc_now(), alone=())
                ids.extend(job.id for job in claimed)
            await asyncio.sleep(0.05)

    async with running(publish()):
        yield ids


# Each store once: what differs between them is in the tests above.
@pytest.mark.parametrize(
    ("database_url", "place"),
    [("sqlite", "work queue"), ("postgresql", "delay queue")],
    indirect=["database_url"],
)
async def test_what_is_taken_out_of_a_queue_under_steady_load_ends(
    store: Database, vhost_url: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_jobs, "attempt_seconds", lambda *_: 1.0)
    settings, metrics = Settings(amqp_url=vhost_url, lost_after_seconds=6.0), LedgerMetrics()
    retrying, target = RetryingStore(store), Target(fails_first=place == "delay queue")
    watch = QueueWatch(store=retrying, settings=settings)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        reconciler = LostJobReconciler(
            store=retrying,
            publisher=publisher,
            watch=watch,
            metrics=metrics,
            settings=settings,
            tokens=TOKENS,
        )
        recorder = Recorder(store=retrying, metrics=metrics, settings=settings, tokens=TOKENS)
        async with (
            running(watch.run()),
            running(recorder.run()),
            running(reconciler.run()),
            working(vhost_url, target, grace_seconds=10),
            steady_load(store, publisher, target),
        ):
            queue = work_queue("check", Lane.INTERACTIVE) if place == "work queue" else delay_queue(1)
            taken = [JobMessage.decode((await get_message(channel, queue)).body).id for _ in range(10)]

            async def all_have_ended() -> bool:
                jobs = [
                    await asyncio.to_thread(store.read, queries.get_job, each, project=None) for each in taken
                ]
                return all(job.state is JobState.SUCCEEDED for job in jobs)

            await eventually(all_have_ended, deadline_seconds=60)

    republished = metrics.registry.get_sample_value("retriever_jobs_republished_total", {"why": "lost"})
    assert (republished or 0) >= len(taken)
