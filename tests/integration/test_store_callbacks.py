"""Callbacks on both stores: one for each end, in the transaction that records it."""

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa

from producer.batch_validation import batch_args
from producer.parking import NewOperation, OperationAction, ParkedFilter
from producer.records import JobFilter, JobRecord, NewJob
from producer.store import (
    bulk_actions,
    endings,
    events,
    outbox,
    parking,
    queries,
    recording,
    schedules,
    submissions,
)
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.submission import JobTemplate
from producer.submission_models import BatchSubmission
from shared.errors import StoreRefused
from shared.identity import new_id
from shared.kinds.webhook import WEBHOOK
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

URL = "https://hooks.example.com/retriever"
LATER = NOON + timedelta(seconds=1)


def webhooks(store: Database) -> Sequence[JobRecord]:
    """Return all webhook jobs, oldest first."""
    return store.read(
        queries.search_jobs, JobFilter(kind=WEBHOOK), limit=1_000, after=None, project=None
    ).records[::-1]


def told(store: Database) -> list[str]:
    return [webhook.args["type"] for webhook in webhooks(store)]


def stored(store: Database, **fields: object) -> NewJob:
    job = make_job(callback_url=URL, **fields)  # type: ignore[arg-type]
    store.write(submissions.insert_jobs, [job])
    return job


def succeed(store: Database, job: NewJob) -> None:
    store.write(
        recording.record_reports,
        [make_report(job.id, JobState.SUCCEEDED, result={"verdict": "ok"})],
        now=LATER,
    )


def park(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=LATER)


def cancel_at_once(store: Database, job: NewJob) -> None:
    store.write(endings.cancel_job, job.id, now=LATER, project=None)


def cancel_running(store: Database, job: NewJob) -> None:
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=LATER)
    store.write(endings.cancel_job, job.id, now=LATER, project=None)
    store.write(recording.record_reports, [make_report(job.id, JobState.CANCELLED)], now=LATER)


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
    store: Database, end: Callable[[Database, NewJob], None], event_type: str
) -> None:
    job = stored(store)
    store.write(submissions.insert_jobs, [make_job()])

    end(store, job)
    succeed(store, job)
    park(store, job)

    [webhook] = webhooks(store)
    assert (webhook.state, webhook.args["type"]) == (JobState.ACCEPTED, event_type)
    assert webhook.args["url"] == URL and webhook.args["data"]["job_id"] == str(job.id)
    assert webhook.labels == {"callback_of": f"job/{job.id}"} and webhook.callback_url is None
    claimed = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=LATER)
    assert webhook.id in {claim.id for claim in claimed}


@pytest.mark.parametrize("wanted", ["succeeded", "parked", "cancelled"])
@pytest.mark.parametrize("end", [succeed, park, cancel_at_once])
def test_a_job_tells_only_of_the_ends_that_were_chosen(
    store: Database, wanted: str, end: Callable[[Database, NewJob], None]
) -> None:
    job = stored(store, callback_events=[wanted])

    end(store, job)

    state = store.read(queries.get_job, job.id, project=None).state
    assert told(store) == ([f"job.{wanted}"] if state == wanted else [])
    assert store.read(queries.get_job, job.id, project=None).callback_events == [wanted]


def test_a_batch_tells_of_what_was_chosen_of_it_and_of_its_jobs(store: Database) -> None:
    for chosen, expected in (
        (["parked"], ["job.parked"]),
        (["batch.completed", "succeeded"], ["batch.completed", "job.succeeded"]),
        (["cancelled"], []),
    ):
        before = len(told(store))
        body = {"kind": "check", "items": [{"url": "http://a.example/"}] * 2}
        submission = BatchSubmission.model_validate({**body, "callback_url": URL, "callback_events": chosen})
        template = JobTemplate.of(submission, now=NOON, project="default")
        batch = template.batch(batch_id=new_id())
        valid, *_ = batch_args(submission, template)
        jobs = [template.job(each, job_id=new_id(), batch_id=batch.id) for each in valid]
        store.write(submissions.insert_batch, batch, jobs)

        park(store, jobs[0])
        succeed(store, jobs[1])

        assert sorted(told(store)[before:]) == expected
        assert store.read(queries.get_batch, batch.id, project=None).callback_events == chosen


def test_a_job_that_expired_calls_back(store: Database) -> None:
    stored(store, deadline_at=LATER)

    store.write(schedules.expire_jobs, limit=10, now=LATER + timedelta(minutes=1))

    assert told(store) == ["job.parked"]
    assert webhooks(store)[0].args["data"]["reason"] == "expired"


def test_every_run_and_a_discard_are_told(store: Database) -> None:
    job = stored(store)
    park(store, job)

    store.write(parking.redrive, job.id, now=LATER, project=None)
    store.write(recording.record_reports, [make_report(job.id, JobState.PARKED, run=2)], now=LATER)
    store.write(parking.discard, job.id, now=LATER, project=None)

    assert told(store) == ["job.parked", "job.parked", "job.cancelled"]
    assert [webhook.args["data"]["run"] for webhook in webhooks(store)] == [1, 2, 3]


def test_jobs_that_an_operation_discards_call_back(store: Database) -> None:
    for job in (stored(store), stored(store)):
        park(store, job)
    new = NewOperation(new_id(), OperationAction.DISCARD, {}, 50, "ann", LATER, project=None)
    store.write(bulk_actions.start_operation, new, ParkedFilter(kind="check"))

    store.write(bulk_actions.make_page, now=LATER)

    assert told(store) == ["job.parked", "job.parked", "job.cancelled", "job.cancelled"]


def test_a_batch_calls_back_once_and_its_jobs_do_not(store: Database) -> None:
    batch, jobs = make_batch(callback_url=URL), [make_job() for _ in range(3)]
    store.write(submissions.insert_batch, batch, jobs)
    succeed(store, jobs[0])
    park(store, jobs[1])
    assert told(store) == []

    endings.cancel_batch(store, batch.id, now=LATER, project=None)
    store.write(parking.redrive, jobs[1].id, now=LATER, project=None)
    store.write(recording.record_reports, [make_report(jobs[1].id, JobState.SUCCEEDED, run=2)], now=LATER)

    [webhook] = webhooks(store)
    assert webhook.args["type"] == "batch.completed" and webhook.batch_id is None
    assert webhook.args["data"]["id"] == str(batch.id)
    assert webhook.args["data"]["counts"] == {"succeeded": 1, "parked": 1, "cancelled": 1}
    assert store.read(queries.get_batch, batch.id, project=None).callback_url == URL


def test_a_webhooks_own_end_calls_nobody(store: Database) -> None:
    succeed(store, stored(store))
    [webhook] = webhooks(store)

    store.write(
        recording.record_reports, [make_report(webhook.id, JobState.SUCCEEDED, kind=WEBHOOK)], now=LATER
    )

    assert len(webhooks(store)) == 1


def test_an_end_whose_callback_cannot_be_stored_is_not_recorded(store: Database, database_url: str) -> None:
    job = stored(store)
    _run(database_url, sqlite=_REFUSE_ON_SQLITE, postgresql=_REFUSE_ON_POSTGRESQL)

    with pytest.raises(StoreRefused):
        succeed(store, job)

    assert store.read(queries.get_job, job.id, project=None).state is JobState.ACCEPTED
    assert store.write(events.claim_events, limit=10, lease_seconds=60, now=LATER) == []
    _run(database_url, sqlite="DROP TRIGGER refuse", postgresql="ALTER TABLE jobs DROP CONSTRAINT refuse")
    succeed(store, job)
    assert store.read(queries.get_job, job.id, project=None).state is JobState.SUCCEEDED and told(store) == [
        "job.succeeded"
    ]


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
