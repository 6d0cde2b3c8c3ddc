"""Messages of a version to come, on a real broker: kept byte for byte, and they hold up nobody."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from aio_pika.abc import AbstractChannel

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.recorder import Recorder
from producer.records import JobRecord, NewJob
from producer.store import outbox, parking, queries, submissions
from producer.store.database import Database, RetryingStore
from shared.broker.outgoing import Outgoing
from shared.broker.topology import (
    CANCELLED_STREAM,
    DEFAULT,
    JOBS,
    LARGE_RESULTS,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    RESULTS,
    stored_key,
)
from shared.events import PAUSES_TYPE, Cancellation, PausedQueues, PauseSnapshot
from shared.kinds.registry import Lane
from shared.messages import JOB_TYPE, RAW_TYPE, REASON_HEADER, REPORT_TYPE, JobMessage, WireMessage
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import get_message, open_channel, running, running_publisher
from tests.support.factories import TOKENS, make_job, make_report
from tests.support.waiting import eventually
from tests.support.worker import Work, working

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
KEY = stored_key("check", Lane.BULK)


def newer(message: WireMessage, **fields: Any) -> bytes:
    """Return a message as a later version might write it; the spaces are not ours either."""
    return json.dumps(
        {**json.loads(message.encode()), "version": 2, "mood": "good", **fields}, indent=1
    ).encode()


def message_of(job: NewJob) -> JobMessage:
    token = TOKENS.of(job.id, 1)
    return JobMessage(id=job.id, kind=job.kind, lane=job.lane, args=dict(job.args), token=token)


def queued_job(store: Database) -> NewJob:
    job = make_job(lane=Lane.BULK)
    store.write(submissions.insert_jobs, [job])
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    return job


def recorder_of(store: Database, url: str) -> Recorder:
    return Recorder(
        tokens=TOKENS, store=RetryingStore(store), metrics=LedgerMetrics(), settings=Settings(amqp_url=url)
    )


async def job_in(store: Database, job_id: UUID, state: JobState) -> JobRecord:
    async def look() -> JobRecord | None:
        job = store.read(queries.get_job, job_id, project=None)
        return job if job.state is state else None

    return await eventually(look)


async def test_a_job_is_parked_raw_shown_as_such_and_can_be_redriven(store: Database, vhost_url: str) -> None:
    job, work = queued_job(store), Work()
    body = newer(message_of(job), args={"target": {"url": "https://example.com/"}})
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        async with working(vhost_url, work), running(recorder_of(store, vhost_url).run()):
            await client.publish(Outgoing(JOBS, KEY, body, JOB_TYPE, str(job.id)))
            shown = await job_in(store, job.id, JobState.PARKED)
        parked = await get_message(channel, PARKED_QUEUE)

    assert (parked.body, parked.type, parked.correlation_id) == (body, RAW_TYPE, str(job.id))
    assert "version" in str(parked.headers[REASON_HEADER])
    assert (shown.reason, shown.attempts, work.starts) == ("message_undecodable", [], 0)
    # The redrive is of this version's making, from what the store has.
    store.write(parking.redrive, job.id, now=NOON, project=None)
    [claim] = store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON)
    assert (claim.id, claim.run, claim.args) == (job.id, 2, job.args)


@pytest.mark.parametrize("exchange", [RESULTS, LARGE_RESULTS])
async def test_a_report_is_dead_lettered_as_it_came(store: Database, vhost_url: str, exchange: str) -> None:
    told, other = queued_job(store), queued_job(store)
    body = newer(make_report(told.id, JobState.SUCCEEDED), state="well_done")
    key = "check.bulk.succeeded"
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(Outgoing(exchange, key, body, REPORT_TYPE, str(told.id)))
        understood = make_report(other.id, JobState.SUCCEEDED).model_copy(update={"job": message_of(other)})
        await client.publish(Outgoing(exchange, key, understood.encode(), REPORT_TYPE, str(other.id)))

        async with running(recorder_of(store, vhost_url).run()):
            await job_in(store, other.id, JobState.SUCCEEDED)
            parked = await get_message(channel, PARKED_QUEUE)

    assert (parked.body, parked.type, parked.correlation_id) == (body, REPORT_TYPE, str(told.id))
    assert store.read(queries.get_job, told.id, project=None).state is JobState.QUEUED


async def test_what_a_worker_cannot_read_of_the_streams_holds_up_nothing(vhost_url: str) -> None:
    work = Work()
    job = message_of(make_job(lane=Lane.BULK))
    all_paused = PauseSnapshot(revision=9, pauses=(PausedQueues(kind="*", lane="*"),))
    cancelled = Cancellation(job_id=job.id, run=1)
    async with running_publisher(vhost_url) as client, open_channel(vhost_url) as channel:
        await client.publish(Outgoing(DEFAULT, PAUSED_STREAM, newer(all_paused), PAUSES_TYPE))
        await client.publish(Outgoing(DEFAULT, CANCELLED_STREAM, newer(cancelled), "cancellation"))
        await client.publish(Outgoing(JOBS, KEY, job.encode(), JOB_TYPE, str(job.id)))
        async with working(vhost_url, work):
            async with asyncio.timeout(20):
                await work.started.wait()

            await client.publish(Outgoing(DEFAULT, CANCELLED_STREAM, cancelled.encode(), "cancellation"))

            await _reports(channel, "cancelled")


async def _reports(channel: AbstractChannel, state: str) -> None:
    while json.loads((await get_message(channel, RECORDER_QUEUE)).body)["state"] != state:
        pass
