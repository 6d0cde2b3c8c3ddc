"""What the relay may count on: leases, crashes, redrives."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.records import JobRecord, NewJob
from producer.store import outbox, parking, queries, recording, submissions
from producer.store.database import Database
from producer.store.sql import POSTGRESQL, read_in_order
from shared.errors import JobNotFound, JobNotParked
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.states import JobState
from tests.support.factories import NOON, make_job, make_report

T = TypeVar("T")

LEASE = timedelta(seconds=60)


def test_the_oldest_jobs_are_claimed_first(store: Database) -> None:
    jobs = _store_jobs(store, 5)

    claimed = store.write(outbox.claim_accepted, limit=3, lease_seconds=60, now=NOON)

    assert [job.id for job in claimed] == [job.id for job in jobs[:3]]
    assert (claimed[0].args, claimed[0].retry, claimed[0].run) == (jobs[0].args, jobs[0].retry, 1)


def test_interactive_jobs_are_claimed_before_older_ones_of_the_bulk_lane(store: Database) -> None:
    bulk = _store_jobs(store, 4, lane=Lane.BULK)
    interactive = _store_jobs(store, 3)

    pages = [store.write(outbox.claim_accepted, limit=2, lease_seconds=60, now=NOON) for _ in range(5)]

    first, mixed, *rest = [[job.id for job in page] for page in pages]
    assert first == [job.id for job in interactive[:2]]
    assert mixed == [interactive[2].id, bulk[0].id]
    assert rest == [[bulk[1].id, bulk[2].id], [bulk[3].id], []]


def test_the_bulk_lane_is_claimed_while_interactive_jobs_are_leased(store: Database) -> None:
    bulk = _store_jobs(store, 2, lane=Lane.BULK)
    interactive = _store_jobs(store, 2)
    # One relay is publishing them, another was refused by the broker.
    store.write(outbox.claim_accepted, limit=2, lease_seconds=60, now=NOON)
    store.write(outbox.release_claims, [interactive[0].id], retry_at=NOON + timedelta(seconds=5))

    claimed = store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON)
    later = store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON + timedelta(seconds=6))

    assert [job.id for job in claimed] == [job.id for job in bulk]
    assert [job.id for job in later] == [interactive[0].id]


def test_an_interactive_job_that_is_accepted_again_is_claimed_first(store: Database) -> None:
    _store_jobs(store, 2, lane=Lane.BULK)
    parked = _store_parked_job(store)
    store.write(parking.redrive, parked.id, now=NOON, project=None)

    (first,) = store.write(outbox.claim_accepted, limit=1, lease_seconds=60, now=NOON)

    assert (first.id, first.run) == (parked.id, 2)


def test_both_claims_read_an_index_in_its_order_whatever_was_counted(store: Database) -> None:
    claims: list[tuple[str, Any]] = []
    # As counted right after a large batch, and then most of it was relayed.
    jobs = _store_jobs(store, 2_000, lane=Lane.BULK)
    with store.writing() as connection:
        connection.exec_driver_sql("ANALYZE jobs")
    store.write(outbox.mark_queued, [(job.id, 1) for job in jobs[:1_500]], now=NOON)

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT jobs.id") and "claimed_until" in statement:
            claims.append((statement, parameters))

    sa.event.listen(store._writer, "before_cursor_execute", note)
    store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON)
    sa.event.remove(store._writer, "before_cursor_execute", note)

    with store.writing() as connection:
        read_in_order(connection)
        explain = "EXPLAIN" if connection.dialect.name == POSTGRESQL else "EXPLAIN QUERY PLAN"
        plans = [str(connection.exec_driver_sql(f"{explain} {sql}", values).all()) for sql, values in claims]
    interactive, others = plans
    assert "ix_jobs_ready_interactive" in interactive
    assert "ix_jobs_ready_bulk" in others
    assert not any(sort in plan for plan in plans for sort in ("TEMP B-TREE", "Sort", "Bitmap"))


def test_no_page_of_a_new_large_batch_is_looked_for_in_the_whole_table(store: Database) -> None:
    # Nobody has counted it yet: PostgreSQL does so within a minute.
    _store_jobs(store, 5_000, lane=Lane.BULK)
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(store._writer, "before_cursor_execute", note)
    claimed = store.write(outbox.claim_accepted, limit=1_000, lease_seconds=60, now=NOON)
    claiming, statements = statements, []
    store.write(outbox.mark_queued, [(job.id, 1) for job in claimed], now=NOON)
    sa.event.remove(store._writer, "before_cursor_execute", note)

    plans = [plan for each in (claiming, statements) for plan in _plans(store, each)]
    assert len(claimed) == 1_000 and len(plans) >= 5
    assert [plan for plan in plans if "Seq Scan on jobs" in plan or "SCAN jobs'" in plan] == []


def _plans(store: Database, statements: list[tuple[str, Any]]) -> list[str]:
    """Return how a transaction of these statements finds its rows."""
    plans = []
    with store.writing() as connection:
        explain = "EXPLAIN" if connection.dialect.name == POSTGRESQL else "EXPLAIN QUERY PLAN"
        for sql, values in statements:
            if sql.startswith("SET"):
                connection.exec_driver_sql(sql)
            else:
                plans.append(str(connection.exec_driver_sql(f"{explain} {sql}", values).all()))
    return plans


def test_a_claimed_job_is_claimed_again_only_after_its_lease(store: Database) -> None:
    _store_jobs(store, 1)
    store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)

    # The relay has crashed between claim and publish.
    assert store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON + LEASE) == []
    assert len(store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON + LEASE * 1.1)) == 1


def test_a_queued_job_is_not_claimed_again(store: Database) -> None:
    (job,) = _store_jobs(store, 1)
    store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)

    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)

    assert store.read(queries.get_job, job.id, project=None).state is JobState.QUEUED
    assert store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON + LEASE * 2) == []


def test_a_job_whose_report_came_first_is_not_moved_back_to_queued(store: Database) -> None:
    (job,) = _store_jobs(store, 1)
    store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)
    store.write(recording.record_reports, [make_report(job.id, JobState.RUNNING)], now=NOON)

    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)

    assert store.read(queries.get_job, job.id, project=None).state is JobState.RUNNING


def test_marking_an_older_run_queued_leaves_the_new_run_accepted(store: Database) -> None:
    job = _store_parked_job(store)
    store.write(parking.redrive, job.id, now=NOON, project=None)

    store.write(outbox.mark_queued, [(job.id, 1), (new_id(), 1)], now=NOON)

    assert store.read(queries.get_job, job.id, project=None).state is JobState.ACCEPTED
    store.write(outbox.mark_queued, [(job.id, 2)], now=NOON)
    assert store.read(queries.get_job, job.id, project=None).state is JobState.QUEUED


def test_a_released_job_is_claimed_after_its_pause_and_a_queued_one_never(store: Database) -> None:
    released, queued = _store_jobs(store, 2)
    store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)
    store.write(outbox.mark_queued, [(queued.id, 1)], now=NOON)

    store.write(
        outbox.release_claims, [released.id, queued.id, new_id()], retry_at=NOON + timedelta(seconds=5)
    )

    assert (
        store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON + timedelta(seconds=5)) == []
    )
    (again,) = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON + timedelta(seconds=6))
    assert again.id == released.id


def test_empty_calls_do_nothing(store: Database) -> None:
    store.write(submissions.insert_jobs, [])
    store.write(outbox.mark_queued, [], now=NOON)
    store.write(outbox.release_claims, [], retry_at=NOON)
    store.write(parking.settle_redrives, [], now=NOON)

    assert store.write(outbox.claim_accepted, limit=1, lease_seconds=1, now=NOON) == []


def test_relays_that_claim_at_once_share_the_jobs(store: Database, database_url: str) -> None:
    jobs = [*_store_jobs(store, 300, lane=Lane.BULK), *_store_jobs(store, 100)]
    other = Database.open(database_url)

    def claim_all(relay: Database) -> list[UUID]:
        mine: list[UUID] = []
        while page := relay.write(outbox.claim_accepted, limit=7, lease_seconds=60, now=NOON):
            assert len(page) <= 7
            mine.extend(job.id for job in page)
        return mine

    claimed = _at_once(*[partial(claim_all, relay) for relay in (store, store, other, other)])
    other.close()

    # A relay may stop early when all that is free is being claimed by others; none is claimed twice.
    ids = [job_id for mine in claimed for job_id in mine]
    assert sorted(ids) == sorted(job.id for job in jobs)


def test_a_redriven_job_starts_over_and_keeps_its_attempts(store: Database) -> None:
    job = _store_parked_job(store)

    redriven = store.write(parking.redrive, job.id, now=NOON, project=None)

    assert (redriven.id, redriven.state, redriven.run, redriven.attempt) == (job.id, JobState.ACCEPTED, 2, 0)
    assert (redriven.reason, redriven.explanation, redriven.result) == (None, None, None)
    assert (redriven.due_at, redriven.finished_at) == (None, None)
    assert [(attempt.run, attempt.number) for attempt in redriven.attempts] == [(1, 1)]
    (claimed,) = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)
    assert (claimed.id, claimed.run) == (job.id, 2)
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED, run=2)], now=NOON)
    assert store.read(queries.get_job, job.id, project=None).state is JobState.SUCCEEDED


def test_only_a_parked_job_can_be_redriven(store: Database) -> None:
    (job,) = _store_jobs(store, 1)

    with pytest.raises(JobNotParked, match="accepted"):
        store.write(parking.redrive, job.id, now=NOON, project=None)
    with pytest.raises(JobNotFound):
        store.write(parking.redrive, new_id(), now=NOON, project=None)
    assert store.read(parking.pending_redrives, 10) == []


def test_of_two_redrives_at_once_one_wins(store: Database, database_url: str) -> None:
    job = _store_parked_job(store)
    other = Database.open(database_url)

    def try_redrive(caller: Database) -> JobRecord | None:
        try:
            return caller.write(parking.redrive, job.id, now=NOON, project=None)
        except JobNotParked:
            return None

    won = _at_once(*[partial(try_redrive, caller) for caller in (store, other, store, other)])
    other.close()

    assert sum(record is not None for record in won) == 1
    assert store.read(queries.get_job, job.id, project=None).run == 2
    assert store.read(parking.pending_redrives, 10) == [(job.id, 1)]


def test_a_redrive_is_pending_until_its_message_has_left_the_parking_lot(store: Database) -> None:
    first, second = _store_parked_job(store), _store_parked_job(store)
    store.write(parking.redrive, second.id, now=NOON, project=None)
    store.write(parking.redrive, first.id, now=NOON + timedelta(seconds=1), project=None)

    before = store.read(parking.pending_redrives, 10)
    store.write(parking.settle_redrives, [(second.id, 1), (second.id, 1), (new_id(), 1)], now=NOON)

    assert before == [(second.id, 1), (first.id, 1)]
    assert store.read(parking.pending_redrives, 10) == [(first.id, 1)]
    assert store.read(parking.pending_redrives, 0) == []


def _store_jobs(store: Database, count: int, *, lane: Lane = Lane.INTERACTIVE) -> list[NewJob]:
    jobs = [make_job(lane=lane) for _ in range(count)]
    store.write(submissions.insert_jobs, jobs)
    return jobs


def _store_parked_job(store: Database) -> NewJob:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(
        recording.record_reports, [make_report(job.id, JobState.PARKED, result={"status": 404})], now=NOON
    )
    return job


def _at_once(*calls: Callable[[], T]) -> list[T]:
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
