"""Jobs with times, on both stores: held until they are due, parked when nobody started them in time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from producer.records import JobFilter
from producer.store.due import EXPIRY_GRACE
from producer.store.engine import open_engine
from producer.store.migrate import migrate
from producer.store.schema import CAN_EXPIRE, IS_SCHEDULED, jobs
from producer.store.store import JobStore
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

MINUTE = timedelta(minutes=1)
PAST_GRACE = NOON + EXPIRY_GRACE


def states(store: JobStore) -> list[JobState]:
    return [job.state for job in store.list_jobs(JobFilter(), limit=1_000, after=None)]


def claim(store: JobStore, now: datetime = NOON) -> list[datetime | None]:
    return [job.deadline_at for job in store.claim_accepted(limit=10, lease_seconds=60, now=now)]


def test_a_scheduled_job_is_held_back_until_it_is_due(store: JobStore) -> None:
    job = make_job(due_at=NOON + MINUTE)
    store.insert_jobs([job])

    early = store.release_due(limit=10, now=NOON + MINUTE - timedelta(microseconds=1))

    assert early == [] and claim(store) == []
    assert store.get_job(job.id).state is JobState.SCHEDULED
    assert (store.get_job(job.id).due_at, store.next_due_at()) == (NOON + MINUTE, NOON + MINUTE)


def test_a_due_job_is_accepted_and_then_like_any_other(store: JobStore) -> None:
    job = make_job(due_at=NOON)
    store.insert_jobs([job])

    (released,) = store.release_due(limit=10, now=NOON)

    assert (released.job_id, released.kind, released.state) == (job.id, "check", JobState.ACCEPTED)
    assert (store.get_job(job.id).state, store.get_job(job.id).due_at) == (JobState.ACCEPTED, None)
    assert len(claim(store)) == 1
    store.mark_queued([(job.id, 1)], now=NOON)
    assert store.get_job(job.id).state is JobState.QUEUED
    assert (store.release_due(limit=10, now=NOON), store.next_due_at()) == ([], None)


def test_the_longest_due_are_released_first_a_page_at_a_time(store: JobStore) -> None:
    later, sooner = make_job(due_at=NOON), make_job(due_at=NOON - MINUTE)
    store.insert_jobs([later, sooner])

    pages = [[each.job_id for each in store.release_due(limit=1, now=NOON)] for _ in range(3)]

    assert pages == [[sooner.id], [later.id], []]


def test_a_batch_waits_for_its_time_as_a_whole(store: JobStore) -> None:
    batch = make_batch()
    store.insert_batch(batch, (make_job(due_at=NOON) for _ in range(3)))

    assert store.get_batch(batch.id).counts == {JobState.SCHEDULED: 3}
    store.release_due(limit=10, now=NOON)
    assert store.get_batch(batch.id).counts == {JobState.ACCEPTED: 3}


def test_two_schedulers_release_and_expire_each_job_once(store: JobStore) -> None:
    due = [make_job(due_at=NOON) for _ in range(300)]
    late = [make_job(deadline_at=NOON) for _ in range(300)]
    store.insert_jobs([*due, *late])

    def work(_: int) -> list[object]:
        seen: list[object] = []
        for _ in range(100):
            seen += [each.job_id for each in store.release_due(limit=7, now=PAST_GRACE)]
            seen += [each.job_id for each in store.expire_jobs(limit=7, now=PAST_GRACE)]
        return seen

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))

    assert sorted(map(str, first + second)) == sorted(str(job.id) for job in (*due, *late))


def test_a_job_that_nobody_started_in_time_is_parked_as_expired(store: JobStore) -> None:
    scheduled = make_job(due_at=NOON + MINUTE, deadline_at=NOON)
    accepted, queued, delayed = (make_job(deadline_at=NOON) for _ in range(3))
    store.insert_jobs([scheduled, accepted, queued, delayed])
    store.mark_queued([(queued.id, 1)], now=NOON)
    store.record([make_report(delayed.id, JobState.DELAYED)], now=NOON)

    expired = store.expire_jobs(limit=10, now=PAST_GRACE)

    assert {(each.job_id, each.state, each.reason) for each in expired} == {
        (job.id, JobState.PARKED, "expired") for job in (scheduled, accepted, queued, delayed)
    }
    parked = store.get_job(delayed.id)
    assert (parked.state, parked.reason, parked.finished_at) == (JobState.PARKED, "expired", PAST_GRACE)
    assert (parked.attempt, [each.reason for each in parked.attempts]) == (1, ["http_503"])
    assert (store.expire_jobs(limit=10, now=PAST_GRACE), claim(store)) == ([], [])
    assert store.next_due_at() is None


def test_a_job_that_has_started_or_has_time_left_does_not_expire(store: JobStore) -> None:
    running, done, patient, plain = (
        make_job(deadline_at=NOON),
        make_job(deadline_at=NOON),
        make_job(deadline_at=NOON + MINUTE),
        make_job(),
    )
    store.insert_jobs([running, done, patient, plain])
    store.record(
        [make_report(running.id, JobState.RUNNING), make_report(done.id, JobState.SUCCEEDED)], now=NOON
    )

    assert store.expire_jobs(limit=10, now=PAST_GRACE) == []
    assert store.next_due_at() == NOON + MINUTE + EXPIRY_GRACE


def test_an_attempt_just_before_the_deadline_has_time_to_be_announced(store: JobStore) -> None:
    job = make_job(deadline_at=NOON)
    store.insert_jobs([job])

    assert store.expire_jobs(limit=10, now=NOON + EXPIRY_GRACE / 2) == []
    store.record([make_report(job.id, JobState.RUNNING)], now=NOON)
    assert store.expire_jobs(limit=10, now=NOON + MINUTE) == []


def test_a_late_report_does_not_bring_an_expired_job_back(store: JobStore) -> None:
    job = make_job(deadline_at=NOON)
    store.insert_jobs([job])
    store.expire_jobs(limit=10, now=PAST_GRACE)

    recorded = store.record([make_report(job.id, JobState.SUCCEEDED)], now=PAST_GRACE)

    assert recorded.transitions == []
    assert store.get_job(job.id).state is JobState.PARKED


def test_a_worker_that_declines_an_expired_delivery_made_no_attempt(store: JobStore) -> None:
    job = make_job(deadline_at=NOON)
    store.insert_jobs([job])
    store.record([make_report(job.id, JobState.DELAYED)], now=NOON)

    store.record([make_report(job.id, JobState.PARKED, attempt=2, reason="expired")], now=NOON)

    parked = store.get_job(job.id)
    assert (parked.state, parked.reason, parked.attempt) == (JobState.PARKED, "expired", 1)
    assert [(each.number, each.reason) for each in parked.attempts] == [(1, "http_503")]


def test_the_relay_is_told_the_deadline_and_a_redrive_lifts_it(store: JobStore) -> None:
    job = make_job(deadline_at=NOON)
    store.insert_jobs([job])
    assert claim(store) == [NOON]
    store.expire_jobs(limit=10, now=PAST_GRACE)

    store.redrive(job.id, now=PAST_GRACE)

    assert store.expire_jobs(limit=10, now=NOON + MINUTE) == []
    assert store.get_job(job.id).deadline_at is None
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
