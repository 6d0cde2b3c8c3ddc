"""A recorder on a real broker and store, beside it those who publish: a worker, and third parties."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel

from consumer.executor import Attempt
from consumer.settlement import decide, settlement_message
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.recorder import Copies, InteractiveRecorder, Recorder
from producer.records import JobFilter, JobRecord
from producer.store import outbox, queries, submissions
from producer.store.database import Database, RetryingStore
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import JOBS, RESULTS
from shared.errors import JobNotFound
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.messages import REPORTS_TYPE, JobMessage
from shared.outcomes import Outcome
from shared.retry import RetryPolicy
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import open_channel, running, running_publisher
from tests.support.factories import TOKENS, make_job
from tests.support.waiting import eventually

STARTED_AT = datetime(2026, 1, 2, 12, tzinfo=UTC)
URL = "https://Third.example/"


@dataclass(frozen=True, slots=True)
class Ledger:
    """A recorder that can be run, the store it writes to, and a broker to publish to.

    The recorder of the interactive lane runs in tests of it alone; `beside_it` leaves that its reports.
    """

    recorder: Recorder
    interactive: InteractiveRecorder
    beside_it: Recorder
    store: Database
    publisher: Publisher
    channel: AbstractChannel
    metrics: LedgerMetrics

    async def publish(self, body: bytes, key: str = "check.bulk", *, user_id: str | None = None) -> None:
        """Publish as a third party does, with nothing of ours."""
        message = aio_pika.Message(body, user_id=user_id)
        await aio_pika.Exchange(self.channel, JOBS).publish(message, key, mandatory=True)

    async def settle(self, job: JobMessage, outcome: Outcome) -> None:
        """Publish what a worker does after an attempt."""
        await self.publisher.publish(settled(job, outcome))

    async def report(self, *bodies: bytes) -> None:
        """Publish several reports in one message."""
        message = Outgoing(
            RESULTS, "check.bulk.succeeded", bundled(bodies), REPORTS_TYPE, content_type=NDJSON
        )
        await self.publisher.publish(message)

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Run the recorder while inside."""
        async with running(self.recorder.run()):
            yield

    async def job_in(self, job_id: UUID, *states: JobState) -> JobRecord:
        """Return the job once it is in one of the states."""

        async def look() -> JobRecord | None:
            try:
                job = self.store.read(queries.get_job, job_id, project=None)
            except JobNotFound:
                return None
            return job if job.state in states else None

        return await eventually(look)

    async def all_recorded(self) -> bytes:
        """Return a last message once the recorder has acked all before it; itself it may not be acked yet."""
        last = make_message()
        body = last.encode()
        await self.publish(body)
        # A worker, if there is one, may have run it by now.
        await self.job_in(last.id, JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)
        return body

    def submit(self, *, lane: Lane = Lane.BULK) -> JobMessage:
        """Store a job that is queued, and return the message that the relay has published."""
        new = make_job(lane=lane)
        self.store.write(submissions.insert_jobs, [new])
        self.store.write(outbox.mark_queued, [(new.id, 1)], now=STARTED_AT)
        token = TOKENS.of(new.id, 1)
        return JobMessage(
            id=new.id, kind=new.kind, lane=lane, args=dict(new.args), retry=new.retry, token=token
        )

    def job(self, job_id: UUID) -> JobRecord:
        """Return a stored job as it is now."""
        return self.store.read(queries.get_job, job_id, project=None)

    async def have_put_aside(self, messages: int, *, reason: str) -> None:
        """Return once the recorder has put so many messages aside for this reason."""
        counter = self.metrics.reports_put_aside.labels(reason)

        async def look() -> bool:
            return bool(counter._value.get() == messages)

        await eventually(look)

    def stored(self) -> int:
        """Return how many jobs there are."""
        return len(
            self.store.read(queries.search_jobs, JobFilter(), limit=100, after=None, project=None).records
        )


@asynccontextmanager
async def open_ledger(
    store: Database, url: str, *, publisher_projects: Mapping[str, str] | None = None
) -> AsyncIterator[Ledger]:
    """Yield a ledger whose recorder does not run yet."""
    metrics = LedgerMetrics()
    make = partial(
        Recorder,
        store=RetryingStore(store),
        metrics=metrics,
        settings=Settings(amqp_url=url, publisher_projects=publisher_projects or {}),
        tokens=TOKENS,
    )
    copies = Copies(most_held=10)
    interactive = InteractiveRecorder(**make.keywords, copies=copies)
    async with running_publisher(url) as publisher, open_channel(url) as channel:
        yield Ledger(make(), interactive, make(copies=copies), store, publisher, channel, metrics)


def make_message(*, args: dict[str, object] | None = None, attempt: int = 1) -> JobMessage:
    """Return a job as a third party makes it."""
    retry = RetryPolicy(max_attempts=4, first_delay_seconds=60, jitter=False)
    return JobMessage(id=new_id(), kind="check", args=args or {"url": URL}, retry=retry, attempt=attempt)


def settled(job: JobMessage, outcome: Outcome) -> Outgoing:
    """Return what a worker publishes after an attempt."""
    attempt = Attempt(STARTED_AT, STARTED_AT + timedelta(seconds=1), outcome)
    return settlement_message(job, attempt, decide(job, attempt, random=lambda: 0.0), worker="w")
