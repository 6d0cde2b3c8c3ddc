"""A batch with a callback for each job, over two workers: its receiver is asked no faster than others."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from consumer.bootstrap import run_worker
from consumer.plan import Plan
from producer.batch_validation import batch_args
from producer.ledger.relay_messages import job_messages
from producer.run_tokens import KEY_BYTES, RunTokens
from producer.store import outbox, recording, submissions
from producer.store.database import Database
from producer.submission import JobTemplate
from producer.submission_models import BatchSubmission
from shared.broker.outgoing import Outgoing
from shared.clock import utc_now
from shared.identity import new_id
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import running_publisher
from tests.support.factories import NOON, make_report, make_webhook_secret
from tests.support.waiting import eventually

VICTIM = "127.0.0.1"
WORKERS = 2
CALLBACKS = 120
AT_ONCE, PER_SECOND = 3, 15


@dataclass
class Receiver:
    """Who is called back: it notes when, by what, and how many there are at once."""

    url: str = ""
    called_at: list[float] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    now: int = 0
    at_once: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        """Take one, after a moment."""
        self.called_at.append(time.monotonic())
        self.ids.add(request.headers["webhook-id"])
        self.now += 1
        self.at_once = max(self.at_once, self.now)
        await asyncio.sleep(0.05)
        self.now -= 1
        return web.Response()

    def most_within(self, seconds: float) -> int:
        """Return how many came within so long at most."""
        return max(sum(start <= at < start + seconds for at in self.called_at) for start in self.called_at)


@asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, VICTIM, 0).start()
    receiver.url = f"http://{VICTIM}:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(run_worker(settings, Plan(("webhook",)), stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await running


@pytest.fixture
def sqlite_store(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "retriever.db"
    shutil.copyfile(migrated_file, path)
    opened = Database.open(f"sqlite:///{path}")
    yield opened
    opened.close()


def callbacks_of_a_batch(store: Database, url: str) -> list[Outgoing]:
    """Return the messages that the relay sends once every job of a batch has succeeded."""
    items = [{"url": f"http://a.example/{number}"} for number in range(CALLBACKS)]
    submission = BatchSubmission.model_validate(
        {"kind": "check", "items": items, "callback_url": url, "callback_events": ["succeeded"]}
    )
    template = JobTemplate.of(submission, now=NOON, project="default")
    batch = template.batch(batch_id=new_id())
    valid, *_ = batch_args(submission, template)
    jobs = [template.job(each, job_id=new_id(), batch_id=batch.id) for each in valid]
    store.write(submissions.insert_batch, batch, jobs)
    reports = [make_report(job.id, JobState.SUCCEEDED, result={"verdict": "ok"}) for job in jobs]
    store.write(recording.record_reports, reports, now=NOON)
    claimed = store.write(outbox.claim_accepted, limit=2 * CALLBACKS, lease_seconds=60, now=utc_now())
    webhooks = [job for job in claimed if job.kind == "webhook"]
    tokens = RunTokens(bytes(KEY_BYTES))
    return [message for message, _ in job_messages(webhooks, tokens=tokens, bundle_jobs=10)]


async def test_callbacks_of_a_batch_come_no_faster_than_the_limits_of_their_receiver(
    vhost_url: str, sqlite_store: Database
) -> None:
    settings = Settings(
        amqp_url=vhost_url,
        egress_allow="127.0.0.0/8",  # type: ignore[arg-type]
        host_limits=f"{VICTIM}={AT_ONCE}:{PER_SECOND}",  # type: ignore[arg-type]
        webhook_secrets=make_webhook_secret(),  # type: ignore[arg-type]
    )
    async with (
        open_receiver() as receiver,
        running_publisher(vhost_url, timeout_seconds=60) as publisher,
        AsyncExitStack() as workers,
    ):
        for _ in range(WORKERS):
            await workers.enter_async_context(worker(settings))
        messages = callbacks_of_a_batch(sqlite_store, receiver.url)
        assert len(messages) == CALLBACKS
        await asyncio.gather(*(publisher.publish(message) for message in messages))

        async def all_came() -> bool:
            return len(receiver.ids) == CALLBACKS

        await eventually(all_came, deadline_seconds=90)

    # Limits are those of each worker. Some come late on a busy machine, and so fall together with later ones:
    # up to a second here. Without a limit they all come within half a second.
    assert receiver.at_once <= WORKERS * AT_ONCE
    assert receiver.most_within(2) <= WORKERS * PER_SECOND * (2 + 1)
