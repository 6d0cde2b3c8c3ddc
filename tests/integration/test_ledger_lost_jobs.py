"""The lost-job reconciler: what the broker has lost is sent again, and nothing that it still has."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from aio_pika.abc import AbstractChannel

from consumer.executor import Attempt
from consumer.settlement import decide, settlement_message
from producer.ledger.lost_jobs import LostJobReconciler
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.queue_watch import QueueWatch
from producer.ledger.recorder import Recorder
from producer.records import NewJob
from producer.store import events as store_events
from producer.store import outbox, queries, recording, submissions, unfinished
from producer.store import queues as store_queues
from producer.store.database import Database, RetryingStore
from shared.broker.publisher import Publisher
from shared.broker.topology import QueueDepth, bundle_queue, queues, work_queue
from shared.clock import utc_now
from shared.errors import StoreRefused
from shared.kinds.registry import KINDS, Lane
from shared.messages import JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import get_message, message_count, open_channel, running, running_publisher
from tests.support.factories import NOON, TOKENS, make_job, make_report
from tests.support.waiting import eventually

QUEUE = "jobs.check.interactive"
LOST_AFTER = 120.0


@dataclass
class Ledger:
    """A reconciler whose looks are told by the test, on a real store and broker."""

    store: Database
    settings: Settings
    publisher: Publisher
    channel: AbstractChannel
    metrics: LedgerMetrics = field(default_factory=LedgerMetrics)
    seconds: float = 0.0
    """What the reconciler's clock says."""

    def __post_init__(self) -> None:
        store = RetryingStore(self.store)
        self.watch = QueueWatch(store=store, settings=self.settings, clock=lambda: self.seconds)
        self.reconciler = LostJobReconciler(
            tokens=TOKENS,
            store=store,
            publisher=self.publisher,
            watch=self.watch,
            metrics=self.metrics,
            settings=self.settings,
            clock=lambda: self.seconds,
        )

    async def look(self, ready: Mapping[str, int] | None = None, *, consumers: int = 0) -> None:
        """Let the watch see all queues empty but these, and the reconciler search if it is time to."""
        names = [spec.name for spec in queues(KINDS)]
        self.watch.note(QueueDepth(name, (ready or {}).get(name, 0), consumers) for name in names)
        await self.reconciler.check()

    async def see_quiet(self, ready: Mapping[str, int] | None = None) -> None:
        """Look until a queue that is empty has been so for long enough."""
        for _ in range(5):
            await self.look(ready)
            self.seconds += LOST_AFTER / 4

    def store_queued(self, *jobs: NewJob) -> None:
        """Store jobs that the relay has published, at noon of a day long ago."""
        self.store.write(submissions.insert_jobs, jobs)
        self.store.write(outbox.mark_queued, [(job.id, 1) for job in jobs], now=NOON)

    async def sent(self) -> int:
        """Return how many messages wait in the work queue."""
        return await message_count(self.channel, QUEUE)

    async def take(self) -> JobMessage:
        """Take the message at the head of the work queue."""
        return JobMessage.decode((await get_message(self.channel, QUEUE)).body)


@pytest.fixture
async def ledger(store: Database, vhost_url: str) -> AsyncIterator[Ledger]:
    """Yield a reconciler that has seen nothing."""
    settings = Settings(amqp_url=vhost_url, lost_after_seconds=LOST_AFTER)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        yield Ledger(store, settings, publisher, channel)


async def test_a_queued_job_whose_message_is_gone_is_sent_again(ledger: Ledger) -> None:
    job = make_job()
    ledger.store_queued(job)

    await ledger.see_quiet()

    message = await ledger.take()
    assert (message.id, message.run, message.attempt, message.args) == (job.id, 1, 1, job.args)
    assert ledger.metrics.registry.get_sample_value("retriever_jobs_republished_total", {"why": "lost"}) == 1
    # It is only lost again after as long again.
    await ledger.see_quiet()
    assert await ledger.sent() == 0


async def test_nothing_is_sent_before_the_queues_were_empty_for_long_enough(ledger: Ledger) -> None:
    ledger.store_queued(make_job())

    for _ in range(4):
        await ledger.look()
        ledger.seconds += LOST_AFTER / 4
    before = await ledger.sent()
    await ledger.look()

    assert (before, await ledger.sent()) == (0, 1)


async def test_one_look_is_enough_for_a_job_that_is_silent_for_long(ledger: Ledger) -> None:
    long_silent, silent = make_job(), make_job()
    now = utc_now()
    ledger.store.write(submissions.insert_jobs, [long_silent, silent])
    for job, factor in ((long_silent, 3.1), (silent, 2.9)):
        queued_at = now - timedelta(seconds=LOST_AFTER * factor)
        ledger.store.write(outbox.mark_queued, [(job.id, 1)], now=queued_at)

    await ledger.look(consumers=1)

    assert (await ledger.take()).id == long_silent.id
    assert await ledger.sent() == 0


@pytest.mark.parametrize(
    ("waiting", "consumers"), [(QUEUE, 1), ("results.recorder", 1), ("results.large", 1), (None, 0)]
)
async def test_one_look_shows_nothing_while_a_message_may_wait_or_come_back(
    ledger: Ledger, waiting: str | None, consumers: int
) -> None:
    ledger.store_queued(make_job())

    await ledger.look({waiting: 1} if waiting else {}, consumers=consumers)

    assert await ledger.sent() == 0


@pytest.mark.parametrize("waiting", [QUEUE, "results.recorder", "results.large"])
async def test_nothing_is_sent_while_a_message_or_a_report_may_wait(ledger: Ledger, waiting: str) -> None:
    ledger.store_queued(make_job())

    await ledger.see_quiet({waiting: 1})
    while_it_waited = await ledger.sent()
    await ledger.see_quiet()

    assert (while_it_waited, await ledger.sent()) == (0, 1)


async def test_jobs_that_may_share_a_message_are_lost_when_neither_of_their_queues_holds_any(
    ledger: Ledger,
) -> None:
    ledger.store_queued(make_job(lane=Lane.BULK))
    bulk = work_queue("check", Lane.BULK)

    await ledger.see_quiet({bundle_queue("check"): 1})
    await ledger.see_quiet({bulk: 1})
    while_one_waited = await message_count(ledger.channel, bulk)
    await ledger.see_quiet()

    # Alone, whatever its message was: those beside it may have come through.
    assert (while_one_waited, await message_count(ledger.channel, bulk)) == (0, 1)


async def test_a_full_queue_does_not_hold_up_the_lost_jobs_of_another(ledger: Ledger) -> None:
    ledger.store_queued(make_job(), make_job(kind="fetch"))

    await ledger.see_quiet({"jobs.fetch.interactive": 7})

    assert await ledger.sent() == 1
    assert await message_count(ledger.channel, "jobs.fetch.interactive") == 0


async def test_nothing_is_sent_while_the_kind_is_paused(ledger: Ledger) -> None:
    ledger.store_queued(make_job())
    ledger.store.write(store_queues.pause, "check", "interactive", by="ann", note=None, now=utc_now())

    await ledger.see_quiet()
    while_paused = await ledger.sent()
    ledger.store.write(store_queues.resume, "check", "interactive", by="ann", note=None, now=utc_now())
    await ledger.see_quiet()

    assert (while_paused, await ledger.sent()) == (0, 1)


async def test_a_delayed_job_is_sent_again_when_it_is_overdue(ledger: Ledger) -> None:
    overdue, ahead = make_job(), make_job()
    ledger.store_queued(overdue, ahead)
    late = make_report(ahead.id, JobState.DELAYED, started_at=utc_now())
    ledger.store.write(
        recording.record_reports, [make_report(overdue.id, JobState.DELAYED, attempt=2), late], now=NOON
    )

    await ledger.see_quiet()

    message = await ledger.take()
    assert (message.id, message.attempt, await ledger.sent()) == (overdue.id, 3, 0)
    assert ledger.store.read(queries.get_job, overdue.id, project=None).state is JobState.DELAYED


async def test_a_running_job_is_sent_again_after_its_own_time_limit(ledger: Ledger) -> None:
    short, long = (
        make_job(args={"url": "http://a/", "timeout_seconds": 10}),
        make_job(args={"url": "http://a/"}),
    )
    ledger.store_queued(short, long)
    # An attempt need not be heard of within its 30 s, the 5 s after which it is stopped from outside, and the
    # 30 s that its worker may take to look at the answer.
    started_at = utc_now() - timedelta(seconds=LOST_AFTER + 50)
    reports = [make_report(job.id, JobState.RUNNING, attempt=2) for job in (short, long)]
    ledger.store.write(recording.record_reports, reports, now=started_at)

    await ledger.see_quiet()

    message = await ledger.take()
    assert (message.id, message.attempt, await ledger.sent()) == (short.id, 2, 0)


async def test_more_lost_jobs_than_a_page_are_sent_by_one_search(ledger: Ledger) -> None:
    ledger.store_queued(*(make_job() for _ in range(1_100)))

    await ledger.see_quiet()

    assert await ledger.sent() == 1_100


async def test_overdue_jobs_are_counted_whether_their_queue_is_empty_or_not(ledger: Ledger) -> None:
    ledger.store_queued(make_job(), make_job())

    await ledger.look({QUEUE: 2})

    overdue = ledger.metrics.registry.get_sample_value("retriever_jobs_overdue", {"state": "queued"})
    assert (overdue, await ledger.sent()) == (2, 0)


async def test_while_the_broker_takes_nothing_the_time_begins_anew(ledger: Ledger, unused_port: int) -> None:
    ledger.store_queued(make_job())
    url = f"amqp://127.0.0.1:{unused_port}/"
    blocked = Ledger(
        ledger.store, ledger.settings, Publisher(url, name="blocked", timeout_seconds=0.1), ledger.channel
    )

    await blocked.see_quiet()
    blocked.reconciler._republisher._publisher = ledger.publisher
    # Workers' reports were held up just as long, and are only now on their way.
    await blocked.look()
    at_once = await ledger.sent()
    await blocked.see_quiet()

    assert (at_once, await ledger.sent()) == (0, 1)


async def test_what_was_published_and_not_noted_is_sent_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.store_queued(make_job())

    def die(*_: object, **__: object) -> None:
        raise StoreRefused("the ledger died")

    with monkeypatch.context() as dying:
        dying.setattr(unfinished, "mark_sent", die)
        with pytest.raises(StoreRefused):
            await ledger.see_quiet()
    sent_before = (await ledger.take()).id
    ledger.seconds += LOST_AFTER
    await ledger.see_quiet()

    assert (await ledger.take()).id == sent_before
    assert await ledger.sent() == 0


async def test_a_ledger_that_leads_no_more_shows_nothing(ledger: Ledger) -> None:
    ledger.store_queued(make_job())

    def overdue() -> float | None:
        return ledger.metrics.registry.get_sample_value("retriever_jobs_overdue", {"state": "queued"})

    async with running(ledger.watch.run()), running(ledger.reconciler.run()):

        async def is_shown() -> bool:
            return overdue() == 1

        await eventually(is_shown)

    assert overdue() is None


async def test_a_purged_queue_heals_by_itself(store: Database, vhost_url: str) -> None:
    settings = Settings(amqp_url=vhost_url, lost_after_seconds=0.5)
    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        ledger = Ledger(store, settings, publisher, channel)
        ledger.watch._clock = ledger.reconciler._clock = asyncio.get_running_loop().time
        ledger.store_queued(make_job())
        async with running(ledger.watch.run()), running(ledger.reconciler.run()):
            message = await ledger.take()

    assert message.attempt == 1


async def test_a_job_that_was_sent_twice_after_all_ends_once(ledger: Ledger) -> None:
    job = make_job()
    ledger.store_queued(job)
    first = JobMessage(id=job.id, kind=job.kind, args=dict(job.args), token=TOKENS.of(job.id, 1))
    await ledger.see_quiet()
    second = await ledger.take()
    recorder = Recorder(
        tokens=TOKENS, store=RetryingStore(ledger.store), metrics=LedgerMetrics(), settings=ledger.settings
    )

    await settle(ledger, second, Succeeded({"verdict": "ok"}))
    # The first message turns up: a second end, and a retry of a job that has ended.
    await settle(ledger, first, Succeeded({"verdict": "broken"}))
    await settle(ledger, first, Failed("timeout", "No answer.", transient=True))
    await settle(
        ledger, first.model_copy(update={"attempt": 2}), Failed("http_404", "Gone.", transient=False)
    )
    async with running(recorder.run()):

        async def all_is_recorded() -> bool:
            attempts = (
                await asyncio.to_thread(ledger.store.read, queries.get_job, job.id, project=None)
            ).attempts
            return len(attempts) == 2

        await eventually(all_is_recorded)

    ended = ledger.store.read(queries.get_job, job.id, project=None)
    events = ledger.store.write(store_events.claim_events, limit=10, lease_seconds=60, now=utc_now())
    assert (ended.state, ended.result, ended.attempt) == (JobState.SUCCEEDED, {"verdict": "ok"}, 1)
    assert [event.body["state"] for event in events] == ["succeeded"]


async def settle(ledger: Ledger, job: JobMessage, outcome: Outcome) -> None:
    """Publish what a worker does after an attempt."""
    attempt = Attempt(NOON, NOON + timedelta(seconds=1), outcome)
    decision = decide(job, attempt, random=lambda: 0.0)
    await ledger.publisher.publish(settlement_message(job, attempt, decision, worker="w"))
