"""Callbacks on both stores: one for each end, in the transaction that records it."""

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from producer.parking import NewOperation, OperationAction, ParkedFilter
from producer.records import JobFilter, JobRecord, NewJob
from producer.store.engine import open_engine
from producer.store.store import JobStore
from shared.errors import StoreRefused
from shared.identity import new_id
from shared.kinds.webhook import WEBHOOK
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

URL = "https://hooks.example.com/retriever"
LATER = NOON + timedelta(seconds=1)


def webhooks(store: JobStore) -> list[JobRecord]:
    """Return all webhook jobs, oldest first."""
    return store.list_jobs(JobFilter(kind=WEBHOOK), limit=1_000, after=None)[::-1]


def told(store: JobStore) -> list[str]:
    return [webhook.args["type"] for webhook in webhooks(store)]


def stored(store: JobStore, **fields: object) -> NewJob:
    job = make_job(callback_url=URL, **fields)  # type: ignore[arg-type]
    store.insert_jobs([job])
    return job


def succeed(store: JobStore, job: NewJob) -> None:
    store.record([make_report(job.id, JobState.SUCCEEDED, result={"verdict": "ok"})], now=LATER)


def park(store: JobStore, job: NewJob) -> None:
    store.record([make_report(job.id, JobState.PARKED)], now=LATER)


def cancel_at_once(store: JobStore, job: NewJob) -> None:
    store.cancel_job(job.id, now=LATER)


def cancel_running(store: JobStore, job: NewJob) -> None:
    store.record([make_report(job.id, JobState.RUNNING)], now=LATER)
    store.cancel_job(job.id, now=LATER)
    store.record([make_report(job.id, JobState.CANCELLED)], now=LATER)


@pytest.mark.parametrize(
    ("end", "event_type"),
    [
        (succeed, "job.succeeded"),
        (park, "job.parked"),
        (cancel_at_once, "job.cancelled"),
        (cancel_running, "job.cancelled"),
    ],
)
def test_an_end_is_told_once_however_often_it_is_reported(
    store: JobStore, end: Callable[[JobStore, NewJob], None], event_type: str
) -> None:
    job = stored(store)
    store.insert_jobs([make_job()])

    end(store, job)
    succeed(store, job)
    park(store, job)

    [webhook] = webhooks(store)
    assert (webhook.state, webhook.args["type"]) == (JobState.ACCEPTED, event_type)
    assert webhook.args["url"] == URL and webhook.args["data"]["job_id"] == str(job.id)
    assert webhook.labels == {"callback_of": f"job/{job.id}"} and webhook.callback_url is None
    claimed = store.claim_accepted(limit=10, lease_seconds=60, now=LATER)
    assert webhook.id in {claim.id for claim in claimed}


def test_a_job_that_expired_calls_back(store: JobStore) -> None:
    stored(store, deadline_at=LATER)

    store.expire_jobs(limit=10, now=LATER + timedelta(minutes=1))

    assert told(store) == ["job.parked"]
    assert webhooks(store)[0].args["data"]["reason"] == "expired"


def test_every_run_and_a_discard_are_told(store: JobStore) -> None:
    job = stored(store)
    park(store, job)

    store.redrive(job.id, now=LATER)
    store.record([make_report(job.id, JobState.PARKED, run=2)], now=LATER)
    store.parking.discard(job.id, now=LATER)

    assert told(store) == ["job.parked", "job.parked", "job.cancelled"]
    assert [webhook.args["data"]["run"] for webhook in webhooks(store)] == [1, 2, 3]


def test_jobs_that_an_operation_discards_call_back(store: JobStore) -> None:
    for job in (stored(store), stored(store)):
        park(store, job)
    new = NewOperation(new_id(), OperationAction.DISCARD, {}, 50, "ann", LATER)
    store.parking.start_operation(new, ParkedFilter(kind="check"))

    store.parking.make_page(now=LATER)

    assert told(store) == ["job.parked", "job.parked", "job.cancelled", "job.cancelled"]


def test_a_batch_calls_back_once_and_its_jobs_do_not(store: JobStore) -> None:
    batch, jobs = make_batch(callback_url=URL), [make_job() for _ in range(3)]
    store.insert_batch(batch, jobs)
    succeed(store, jobs[0])
    park(store, jobs[1])
    assert told(store) == []

    store.cancel_batch(batch.id, now=LATER)
    store.redrive(jobs[1].id, now=LATER)
    store.record([make_report(jobs[1].id, JobState.SUCCEEDED, run=2)], now=LATER)

    [webhook] = webhooks(store)
    assert webhook.args["type"] == "batch.completed" and webhook.batch_id is None
    assert webhook.args["data"]["id"] == str(batch.id)
    assert webhook.args["data"]["counts"] == {"succeeded": 1, "parked": 1, "cancelled": 1}
    assert store.get_batch(batch.id).callback_url == URL


def test_a_webhooks_own_end_calls_nobody(store: JobStore) -> None:
    succeed(store, stored(store))
    [webhook] = webhooks(store)

    store.record([make_report(webhook.id, JobState.SUCCEEDED, kind=WEBHOOK)], now=LATER)

    assert len(webhooks(store)) == 1


def test_an_end_whose_callback_cannot_be_stored_is_not_recorded(store: JobStore, database_url: str) -> None:
    job = stored(store)
    _run(database_url, sqlite=_REFUSE_ON_SQLITE, postgresql=_REFUSE_ON_POSTGRESQL)

    with pytest.raises(StoreRefused):
        succeed(store, job)

    assert store.get_job(job.id).state is JobState.ACCEPTED
    assert store.claim_events(limit=10, lease_seconds=60, now=LATER) == []
    _run(database_url, sqlite="DROP TRIGGER refuse", postgresql="ALTER TABLE jobs DROP CONSTRAINT refuse")
    succeed(store, job)
    assert store.get_job(job.id).state is JobState.SUCCEEDED and told(store) == ["job.succeeded"]


_REFUSE_ON_SQLITE = (
    "CREATE TRIGGER refuse BEFORE INSERT ON jobs WHEN NEW.kind = 'webhook' "
    "BEGIN SELECT RAISE(ABORT, 'as if it died here'); END"
)
_REFUSE_ON_POSTGRESQL = "ALTER TABLE jobs ADD CONSTRAINT refuse CHECK (kind <> 'webhook')"


def _run(database_url: str, *, sqlite: str, postgresql: str) -> None:
    engine = open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text(sqlite if engine.dialect.name == "sqlite" else postgresql))
    engine.dispose()
