"""Jobs with times, on both stores: held until they are due, parked when nobody started them in time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from producer.records import JobFilter
from producer.store import endings, events, outbox, parking, queries, recording, schedules, submissions
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.store.migrate import migrate
from producer.store.schedules import EXPIRY_GRACE
from producer.store.schema import CAN_EXPIRE, IS_SCHEDULED, jobs
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

MINUTE = timedelta(minutes=1)
PAST_GRACE = NOON + EXPIRY_GRACE


def states(store: Database) -> list[JobState]:
    return [
        job.state
        for job in store.read(queries.search_jobs, JobFilter(), limit=1_000, after=None, project=None).records
    ]


def claim(store: Database, now: datetime = NOON) -> list[datetime | None]:
    return [
        job.deadline_at for job in store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=now)
    ]


def test_a_scheduled_job_is_held_back_until_it_is_due(store: Database) -> None:
    job = make_job(due_at=NOON + MINUTE)
    store.write(submissions.insert_jobs, [job])

    early = store.write(schedules.release_due, limit=10, now=NOON + MINUTE - timedelta(microseconds=1))

    assert early == [] and claim(store) == []
    assert store.read(queries.get_job, job.id, project=None).state is JobState.SCHEDULED
    assert (store.read(queries.get_job, job.id, project=None).due_at, store.read(schedules.next_due_at)) == (
        NOON + MINUTE,
        NOON + MINUTE,
    )


def test_a_due_job_is_accepted_and_then_like_any_other(store: Database) -> None:
    job = make_job(due_at=NOON)
    store.write(submissions.insert_jobs, [job])

    (released,) = store.write(schedules.release_due, limit=10, now=NOON)

    assert (released.job_id, released.kind, released.state) == (job.id, "check", JobState.ACCEPTED)
    assert (
        store.read(queries.get_job, job.id, project=None).state,
        store.read(queries.get_job, job.id, project=None).due_at,
    ) == (
        JobState.ACCEPTED,
        None,
    )
    assert len(claim(store)) == 1
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    assert store.read(queries.get_job, job.id, project=None).state is JobState.QUEUED
    assert (store.write(schedules.release_due, limit=10, now=NOON), store.read(schedules.next_due_at)) == (
        [],
        None,
    )


def test_the_longest_due_are_released_first_a_page_at_a_time(store: Database) -> None:
    later, sooner = make_job(due_at=NOON), make_job(due_at=NOON - MINUTE)
    store.write(submissions.insert_jobs, [later, sooner])

    pages = [
        [each.job_id for each in store.write(schedules.release_due, limit=1, now=NOON)] for _ in range(3)
    ]

    assert pages == [[sooner.id], [later.id], []]


def test_a_batch_waits_for_its_time_as_a_whole(store: Database) -> None:
    batch = make_batch()
    store.write(submissions.insert_batch, batch, (make_job(due_at=NOON) for _ in range(3)))

    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.SCHEDULED: 3}
    store.write(schedules.release_due, limit=10, now=NOON)
    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.ACCEPTED: 3}


def test_two_schedulers_release_and_expire_each_job_once(store: Database) -> None:
    due = [make_job(due_at=NOON) for _ in range(300)]
    late = [make_job(deadline_at=NOON) for _ in range(300)]
    store.write(submissions.insert_jobs, [*due, *late])

    def work(_: int) -> list[object]:
        seen: list[object] = []
        for _ in range(100):
            seen += [each.job_id for each in store.write(schedules.release_due, limit=7, now=PAST_GRACE)]
            seen += [each.job_id for each in store.write(schedules.expire_jobs, limit=7, now=PAST_GRACE)]
        return seen

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))

    assert sorted(map(str, first + second)) == sorted(str(job.id) for job in (*due, *late))


def test_a_job_that_nobody_started_in_time_is_parked_as_expired(store: Database) -> None:
    scheduled = make_job(due_at=NOON + MINUTE, deadline_at=NOON)
    accepted, queued, delayed = (make_job(deadline_at=NOON) for _ in range(3))
    store.write(submissions.insert_jobs, [scheduled, accepted, queued, delayed])
    store.write(outbox.mark_queued, [(queued.id, 1)], now=NOON)
    store.write(recording.record_reports, [make_report(delayed.id, JobState.DELAYED)], now=NOON)

    expired = store.write(schedules.expire_jobs, limit=10, now=PAST_GRACE)

    assert {(each.job_id, each.state, each.reason) for each in expired} == {
        (job.id, JobState.PARKED, "expired") for job in (scheduled, accepted, queued, delayed)
    }
    parked = store.read(queries.get_job, delayed.id, project=None)
    assert (parked.state, parked.reason, parked.finished_at) == (JobState.PARKED, "expired", PAST_GRACE)
    assert (parked.attempt, [each.reason for each in parked.attempts]) == (1, ["http_503"])
    assert (store.write(schedules.expire_jobs, limit=10, now=PAST_GRACE), claim(store)) == ([], [])
    assert store.read(schedules.next_due_at) is None


def test_a_job_that_has_started_or_has_time_left_does_not_expire(store: Database) -> None:
    running, done, patient, plain = (
        make_job(deadline_at=NOON),
        make_job(deadline_at=NOON),
        make_job(deadline_at=NOON + MINUTE),
        make_job(),
    )
    store.write(submissions.insert_jobs, [running, done, patient, plain])
    store.write(
        recording.record_reports,
        [make_report(running.id, JobState.RUNNING), make_report(done.id, JobState.SUCCEEDED)],
        now=NOON,
    )

    assert store.write(schedules.expire_jobs, limit=10, now=PAST_GRACE) == []
    assert store.read(schedules.next_due_at) == NOON + MINUTE + EXPIRY_GRACE


def test_an_attempt_just_before_the_deadline_has_time_to_be_announced(store: Database) -> None:
    job = make_job(deadline_at=NOON)
    store.write(submissions.insert_jobs, [job])

    assert store.write(schedules.expire_jobs, limit=10, now=NOON + EXPIRY_GRACE / 2) == []
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=NOON)
    assert store.write(schedules.expire_jobs, limit=10, now=NOON + MINUTE) == []


def test_a_late_report_does_not_bring_an_expired_job_back(store: Database) -> None:
    job = make_job(deadline_at=NOON)
    store.write(submissions.insert_jobs, [job])
    store.write(schedules.expire_jobs, limit=10, now=PAST_GRACE)

    recorded = store.write(
        recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=PAST_GRACE
    )

    assert recorded.transitions == []
    assert store.read(queries.get_job, job.id, project=None).state is JobState.PARKED


def test_a_worker_that_declines_an_expired_delivery_made_no_attempt(store: Database) -> None:
    job = make_job(deadline_at=NOON)
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.DELAYED)], now=NOON)

    store.write(
        recording.record_reports,
        [make_report(job.id, JobState.PARKED, attempt=2, reason="expired")],
        now=NOON,
    )

    parked = store.read(queries.get_job, job.id, project=None)
    assert (parked.state, parked.reason, parked.attempt) == (JobState.PARKED, "expired", 1)
    assert [(each.number, each.reason) for each in parked.attempts] == [(1, "http_503")]
    (told,) = store.write(events.claim_events, limit=9, lease_seconds=60, now=NOON)
    assert (told.body["reason"], told.body["attempt"]) == ("expired", 1)


def test_an_expiry_that_is_reported_twice_is_told_once(store: Database) -> None:
    job = make_job(deadline_at=NOON)
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.DELAYED)], now=NOON)
    expiry = make_report(job.id, JobState.PARKED, attempt=2, reason="expired")

    recorded = [store.write(recording.record_reports, [expiry], now=NOON) for _ in range(2)]

    assert [len(each.transitions) for each in recorded] == [1, 0]
    assert len(store.write(events.claim_events, limit=9, lease_seconds=60, now=NOON)) == 1


def test_the_relay_is_told_the_deadline_and_a_redrive_lifts_it(store: Database) -> None:
    job = make_job(deadline_at=NOON)
    store.write(submissions.insert_jobs, [job])
    assert claim(store) == [NOON]
    store.write(schedules.expire_jobs, limit=10, now=PAST_GRACE)

    store.write(parking.redrive, job.id, now=PAST_GRACE, project=None)

    assert store.write(schedules.expire_jobs, limit=10, now=NOON + MINUTE) == []
    assert store.read(queries.get_job, job.id, project=None).deadline_at is None
    assert claim(store, NOON + 2 * MINUTE) == [None]


def test_sqlite_looks_for_times_in_indexes_that_hold_nothing_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'retriever.db'}"
    migrate(url)
    engine = open_engine(url)

    with engine.connect() as connection:
        plans = [
            str(connection.execute(sa.text(f"EXPLAIN QUERY PLAN {query}")).all())
            for query in (
                sa.select(sa.func.min(jobs.c.due_at)).where(IS_SCHEDULED),
                sa.select(sa.func.min(jobs.c.deadline_at)).where(CAN_EXPIRE),
            )
        ]
    engine.dispose()

    assert "ix_jobs_scheduled_due_at" in plans[0]
    assert "ix_jobs_unstarted_deadline_at" in plans[1]


def test_no_explanation_denies_the_attempts_that_were_made(store: Database) -> None:
    expired, cancelled = make_job(deadline_at=NOON + MINUTE), make_job()
    store.write(submissions.insert_jobs, [expired, cancelled])
    failed = [make_report(job.id, JobState.DELAYED) for job in (expired, cancelled)]
    store.write(recording.record_reports, failed, now=NOON)

    store.write(schedules.expire_jobs, limit=9, now=PAST_GRACE + MINUTE)
    store.write(endings.cancel_job, cancelled.id, now=NOON, project=None)

    records = [store.read(queries.get_job, job.id, project=None) for job in (expired, cancelled)]
    assert [len(record.attempts) for record in records] == [1, 1]
    assert [record.explanation for record in records] == [
        "Its deadline passed while no attempt was known to run.",
        "Cancelled while no attempt was known to run.",
    ]
