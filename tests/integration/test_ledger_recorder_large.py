"""A recorder and large reports: few in hand at once, none lost, and those that nobody can read are parked."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.recorder import Recorder
from producer.store import bodies, queries, submissions
from producer.store.database import Database, RetryingStore
from producer.store.migrate import migrate
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.topology import LARGE_RESULTS, LARGE_RESULTS_QUEUE, PARKED_QUEUE
from shared.messages import REPORT_TYPE, JobMessage
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import message_count, open_channel, running, running_publisher
from tests.support.bodies import compress_body
from tests.support.factories import TOKENS, make_job, make_report
from tests.support.waiting import eventually

REPORTS = 20
IN_HAND = 8
KEY = "fetch.interactive.succeeded"


async def test_few_large_reports_are_in_hand_at_once_and_all_are_recorded(
    vhost_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "retriever.db"
    migrate(f"sqlite:///{file}")
    store = Database.open(f"sqlite:///{file}")
    recorder = Recorder(
        tokens=TOKENS,
        store=RetryingStore(store),
        metrics=LedgerMetrics(),
        settings=Settings(amqp_url=vhost_url, recorder_prefetch=500),
    )
    jobs = [make_job(kind="fetch") for _ in range(REPORTS)]
    store.write(submissions.insert_jobs, jobs)
    body = compress_body(os.urandom(300_000), content_type=None, charset=None)

    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        for job in jobs:
            report = make_report(job.id, JobState.SUCCEEDED, kind="fetch", result={})
            asked = JobMessage(id=job.id, kind="fetch", args={}, token=TOKENS.of(job.id, 1))
            await _publish(publisher, report.model_copy(update={"body": body, "job": asked}).encode())
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            # While another writes, the store takes nothing, so what the recorder has stays in its hand.
            other.execute("BEGIN IMMEDIATE")
            async with running(recorder.run()):

                async def waits() -> bool:
                    return await message_count(channel, LARGE_RESULTS_QUEUE) == REPORTS - IN_HAND

                await eventually(waits)
                other.execute("ROLLBACK")

                async def are_recorded() -> bool:
                    return all(
                        store.read(queries.get_job, job.id, project=None).state is JobState.SUCCEEDED
                        for job in jobs
                    )

                await eventually(are_recorded)
    assert all(store.read(bodies.find_body, job.id) for job in jobs)
    store.close()


async def test_a_large_report_that_nobody_can_read_is_parked(vhost_url: str, tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path / 'retriever.db'}"
    migrate(database_url)
    store = Database.open(database_url)
    recorder = Recorder(
        tokens=TOKENS,
        store=RetryingStore(store),
        metrics=LedgerMetrics(),
        settings=Settings(amqp_url=vhost_url),
    )

    async with running_publisher(vhost_url) as publisher, open_channel(vhost_url) as channel:
        await _publish(publisher, b"no report")
        async with running(recorder.run()):

            async def is_parked() -> bool:
                return await message_count(channel, PARKED_QUEUE) == 1

            await eventually(is_parked)
    store.close()


async def _publish(publisher: Publisher, body: bytes) -> None:
    await publisher.publish(Outgoing(LARGE_RESULTS, KEY, body, REPORT_TYPE))
