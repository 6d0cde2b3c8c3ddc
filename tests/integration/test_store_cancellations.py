"""Counts, cancellations and the events that tell of them, on both stores."""

from datetime import timedelta

import pytest

from producer.store import (
    audit,
    batches,
    endings,
    outbox,
    parking,
    queries,
    recording,
    schedules,
    submissions,
)
from producer.store import events as store_events
from producer.store.database import Database
from shared.errors import BatchNotFound, JobEndedAlready, JobNotFound
from shared.events import EventType
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

LATER = NOON + timedelta(seconds=1)


def events(store: Database) -> list[tuple[EventType, str]]:
    """Take all events out of the store, as (type, state or id)."""
    claimed = store.write(store_events.claim_events, limit=1_000, lease_seconds=60, now=LATER)
    store.write(store_events.forget_events, [event.id for event in claimed])
    return [(event.type, str(event.body.get("state") or event.body.get("id"))) for event in claimed]


def test_counts_follow_every_move_of_a_batchs_jobs(store: Database) -> None:
    batch, jobs = make_batch(), [make_job() for _ in range(4)]
    store.write(submissions.insert_batch, batch, jobs)
    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.ACCEPTED: 4}

    store.write(outbox.mark_queued, [(job.id, 1) for job in jobs[:3]], now=LATER)
    store.write(recording.record_reports, [make_report(jobs[0].id, JobState.RUNNING)], now=LATER)
    store.write(
        recording.record_reports,
        [make_report(jobs[1].id, JobState.DELAYED), make_report(jobs[2].id, JobState.PARKED)],
        now=LATER,
    )

    assert store.read(queries.get_batch, batch.id, project=None).counts == dict.fromkeys(
        [JobState.ACCEPTED, JobState.RUNNING, JobState.DELAYED, JobState.PARKED], 1
    )
    store.write(parking.redrive, jobs[2].id, now=LATER, project=None)
    assert store.read(queries.get_batch, batch.id, project=None).counts == {
        JobState.ACCEPTED: 2,
        JobState.RUNNING: 1,
        JobState.DELAYED: 1,
    }
    assert store.read(batches.wrong_counts, batch.id) == {}


def test_a_batch_is_complete_once_however_often_it_ends(store: Database) -> None:
    batch, job = make_batch(), make_job()
    store.write(submissions.insert_batch, batch, [job])

    store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=LATER)
    assert (EventType.BATCH, str(batch.id)) in events(store)
    assert store.read(queries.get_batch, batch.id, project=None).finished_at == LATER

    store.write(parking.redrive, job.id, now=LATER, project=None)
    assert store.read(queries.get_batch, batch.id, project=None).finished_at is None
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED, run=2)], now=LATER)

    assert events(store) == [(EventType.OUTCOME, "succeeded")]
    assert store.read(queries.get_batch, batch.id, project=None).finished_at == LATER


@pytest.mark.parametrize("state", [JobState.ACCEPTED, JobState.QUEUED, JobState.DELAYED])
def test_a_job_that_waits_is_cancelled_at_once(store: Database, state: JobState) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    if state is JobState.QUEUED:
        store.write(outbox.mark_queued, [(job.id, 1)], now=LATER)
    if state is JobState.DELAYED:
        store.write(recording.record_reports, [make_report(job.id, JobState.DELAYED)], now=LATER)

    record = store.write(endings.cancel_job, job.id, now=LATER, project=None)

    assert (record.state, record.reason, record.finished_at) == (JobState.CANCELLED, "cancelled", LATER)
    assert [kind for kind, _ in events(store)] == [EventType.CANCELLATION, EventType.OUTCOME]
    assert store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=LATER) == []


def test_a_running_job_is_ended_by_its_worker(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=LATER)

    record = store.write(endings.cancel_job, job.id, now=LATER, project=None)

    assert (record.state, record.cancel_requested_at) == (JobState.RUNNING, LATER)
    assert events(store) == [(EventType.CANCELLATION, "None")]
    store.write(recording.record_reports, [make_report(job.id, JobState.CANCELLED)], now=LATER)
    assert store.read(queries.get_job, job.id, project=None).state is JobState.CANCELLED
    assert events(store) == [(EventType.OUTCOME, "cancelled")]


def test_a_report_that_comes_after_the_cancellation_changes_nothing(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(endings.cancel_job, job.id, now=LATER, project=None)
    events(store)

    recorded = store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=LATER)

    assert recorded.transitions == []
    assert store.read(queries.get_job, job.id, project=None).state is JobState.CANCELLED
    assert events(store) == []


def test_cancelling_twice_tells_once(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])

    store.write(endings.cancel_job, job.id, now=LATER, project=None)
    events(store)
    store.write(endings.cancel_job, job.id, now=LATER, project=None)

    assert events(store) == []


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.PARKED])
def test_a_job_that_has_ended_cannot_be_cancelled(store: Database, state: JobState) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [make_report(job.id, state)], now=LATER)

    with pytest.raises(JobEndedAlready):
        store.write(endings.cancel_job, job.id, now=LATER, project=None)


def test_unknown_ids_are_told(store: Database) -> None:
    with pytest.raises(JobNotFound):
        store.write(endings.cancel_job, new_id(), now=LATER, project=None)
    with pytest.raises(BatchNotFound):
        endings.cancel_batch(store, new_id(), now=LATER, project=None)


def test_a_cancelled_batch_ends_what_waits_and_leaves_what_has_ended(store: Database) -> None:
    batch, jobs = make_batch(), [make_job() for _ in range(2_500)]
    store.write(submissions.insert_batch, batch, jobs)
    store.write(
        recording.record_reports,
        [make_report(jobs[0].id, JobState.SUCCEEDED), make_report(jobs[1].id, JobState.RUNNING)],
        now=LATER,
    )
    events(store)

    record = endings.cancel_batch(store, batch.id, now=LATER, project=None)

    assert record.counts == {JobState.SUCCEEDED: 1, JobState.RUNNING: 1, JobState.CANCELLED: 2_498}
    assert (record.cancelled_at, record.finished_at) == (LATER, None)
    assert store.read(batches.wrong_counts, batch.id) == {}
    store.write(recording.record_reports, [make_report(jobs[1].id, JobState.CANCELLED)], now=LATER)
    assert store.read(queries.get_batch, batch.id, project=None).finished_at == LATER


def cancellations(store: Database) -> list[tuple[object, object, object]]:
    """Take all events out of the store; return what the cancellations are of."""
    claimed = store.write(store_events.claim_events, limit=1_000, lease_seconds=60, now=LATER)
    store.write(store_events.forget_events, [event.id for event in claimed])
    bodies = [event.body for event in claimed if event.type is EventType.CANCELLATION]
    return [(body.get("batch_id"), body.get("job_id"), body.get("run")) for body in bodies]


def test_a_cancelled_batch_ends_the_runs_of_now_and_a_redriven_job_runs_and_counts(store: Database) -> None:
    batch, jobs = make_batch(), [make_job() for _ in range(3)]
    store.write(submissions.insert_batch, batch, jobs)
    store.write(
        recording.record_reports, [make_report(job.id, JobState.PARKED) for job in jobs[:2]], now=LATER
    )
    store.write(parking.redrive, jobs[0].id, now=LATER, project=None)

    endings.cancel_batch(store, batch.id, now=LATER, project=None)

    # Run 1 is covered by the batch; what was redriven is told of singly.
    assert cancellations(store) == [(str(batch.id), None, None), (None, str(jobs[0].id), 2)]
    redriven = store.write(parking.redrive, jobs[1].id, now=LATER + timedelta(seconds=1), project=None)
    [claimed] = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=LATER)
    assert (redriven.state, claimed.id, claimed.run) == (JobState.ACCEPTED, jobs[1].id, 2)
    record = store.read(queries.get_batch, batch.id, project=None)
    assert (record.counts, record.finished_at) == ({JobState.CANCELLED: 2, JobState.ACCEPTED: 1}, None)

    done = make_report(jobs[1].id, JobState.SUCCEEDED, run=2)
    store.write(recording.record_reports, [done], now=LATER + timedelta(seconds=2))

    record = store.read(queries.get_batch, batch.id, project=None)
    assert record.counts == {JobState.CANCELLED: 2, JobState.SUCCEEDED: 1}
    assert (record.cancelled_at, record.finished_at) == (LATER, LATER + timedelta(seconds=2))
    assert store.read(batches.wrong_counts, batch.id) == {}


def test_a_batch_that_is_cancelled_again_ends_what_was_redriven_since(store: Database) -> None:
    batch, job = make_batch(), make_job()
    store.write(submissions.insert_batch, batch, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=LATER)
    endings.cancel_batch(store, batch.id, now=LATER, project=None)
    endings.cancel_batch(store, batch.id, now=LATER + timedelta(seconds=1), project=None)
    assert store.read(queries.get_batch, batch.id, project=None).cancelled_at == LATER
    store.write(parking.redrive, job.id, now=LATER, project=None)
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING, run=2)], now=LATER)
    cancellations(store)

    record = endings.cancel_batch(store, batch.id, now=LATER + timedelta(seconds=2), project=None)

    assert (record.cancelled_at, record.counts) == (LATER + timedelta(seconds=2), {JobState.RUNNING: 1})
    assert (None, str(job.id), 2) in cancellations(store)
    assert store.read(queries.get_job, job.id, project=None).cancel_requested_at == LATER + timedelta(
        seconds=2
    )


def test_the_audit_log_says_who_cancelled_what_once(store: Database) -> None:
    job, batch = make_job(), make_batch()
    store.write(submissions.insert_jobs, [job])
    store.write(submissions.insert_batch, batch, [make_job() for _ in range(3)])

    for _ in range(2):
        store.write(endings.cancel_job, job.id, by="ann", now=LATER, project=None)
        endings.cancel_batch(store, batch.id, by="bob", now=LATER, project=None)

    entries = store.read(audit.list_audit, target=None, limit=10, after=None, project=None).records
    assert [(entry.action, entry.target, entry.by, entry.details) for entry in entries] == [
        ("batch_cancelled", f"batch/{batch.id}", "bob", {"kind": "check", "total": 3}),
        ("job_cancelled", f"job/{job.id}", "ann", {"kind": "check", "run": 1, "state": "accepted"}),
    ]


def test_an_attempt_that_never_started_is_not_listed(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    report = make_report(job.id, JobState.CANCELLED).model_copy(update={"started_at": None})

    store.write(recording.record_reports, [report], now=LATER)

    assert (
        store.read(queries.get_job, job.id, project=None).state,
        store.read(queries.get_job, job.id, project=None).attempts,
    ) == (
        JobState.CANCELLED,
        [],
    )


def test_an_event_that_was_not_published_is_claimed_again(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=LATER)
    [event] = store.write(store_events.claim_events, limit=10, lease_seconds=60, now=LATER)
    assert store.write(store_events.claim_events, limit=10, lease_seconds=60, now=LATER) == []

    store.write(store_events.release_events, [event.id], retry_at=LATER)

    assert store.write(
        store_events.claim_events, limit=10, lease_seconds=60, now=LATER + timedelta(seconds=1)
    ) == [event]


def test_a_discarded_job_of_a_batch_is_counted_and_told(store: Database) -> None:
    batch, job = make_batch(), make_job()
    store.write(submissions.insert_batch, batch, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=LATER)
    events(store)

    store.write(parking.discard, job.id, now=LATER, project=None)

    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.CANCELLED: 1}
    assert store.read(batches.wrong_counts, batch.id) == {}
    assert events(store) == [(EventType.OUTCOME, "cancelled")]


def test_times_move_the_counts_of_a_batch_too(store: Database) -> None:
    batch = make_batch()
    due, late = make_job(due_at=LATER), make_job(due_at=LATER, deadline_at=LATER)
    store.write(submissions.insert_batch, batch, [due, late])
    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.SCHEDULED: 2}

    store.write(schedules.expire_jobs, limit=10, now=LATER + timedelta(minutes=1))
    store.write(schedules.release_due, limit=10, now=LATER + timedelta(minutes=1))

    assert store.read(queries.get_batch, batch.id, project=None).counts == {
        JobState.ACCEPTED: 1,
        JobState.PARKED: 1,
    }
    assert store.read(batches.wrong_counts, batch.id) == {}
