"""One row that a part of the ledger cannot work on is put aside; the others go on, on both stores."""

import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.ledger.bulk_operations import BulkOperationRunner
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.scheduler import Scheduler
from producer.parking import NewOperation, OperationAction, ParkedFilter
from producer.records import NewJob
from producer.store import bulk_actions, outbox, parking, queries, recording, schedules, submissions
from producer.store.database import Database, RetryingStore
from producer.store.schema import jobs
from shared.errors import RunsExhausted
from shared.identity import new_id
from shared.messages import MAX_RUN
from shared.states import JobState
from tests.support.factories import NOON, make_job, make_report

LATER = NOON + timedelta(minutes=1)
LAST_DAY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
# No message can carry it, so the end of such a job cannot be announced.
IMPOSSIBLE_RUN = 2_000_000


def insert(store: Database, *new: NewJob) -> None:
    store.write(submissions.insert_jobs, list(new))


def spoil(store: Database, job_id: UUID, **columns: object) -> None:
    """Leave a row as no code of ours writes it."""
    with store.writing() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**columns))


def state(store: Database, job_id: UUID) -> JobState:
    return store.read(queries.get_job, job_id, project=None).state


def park(store: Database, count: int) -> list[NewJob]:
    parked = [make_job() for _ in range(count)]
    insert(store, *parked)
    reports = [make_report(job.id, JobState.PARKED) for job in parked]
    store.write(recording.record_reports, reports, now=NOON)
    return parked


def test_a_deadline_on_the_last_day_of_the_calendar_is_no_trap(store: Database) -> None:
    last = make_job(deadline_at=LAST_DAY)
    insert(store, last)

    due_at = store.read(schedules.next_due_at)

    assert due_at is not None and due_at >= LAST_DAY
    assert store.write(schedules.expire_jobs, limit=10, now=LATER) == []


async def test_a_scheduler_survives_rows_that_an_older_version_stored(
    store: Database, caplog: pytest.LogCaptureFixture
) -> None:
    eternal = make_job(deadline_at=LAST_DAY)
    poison, late = make_job(deadline_at=NOON), make_job(deadline_at=NOON)
    due = make_job(due_at=NOON)
    insert(store, eternal, poison, late, due)
    spoil(store, poison.id, run=IMPOSSIBLE_RUN)
    metrics = LedgerMetrics()
    scheduler = Scheduler(store=RetryingStore(store), metrics=metrics)

    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            await scheduler.tick(LATER)

    assert [state(store, job.id) for job in (eternal, poison, late, due)] == [
        JobState.ACCEPTED,
        JobState.ACCEPTED,
        JobState.PARKED,
        JobState.ACCEPTED,
    ]
    # Named and counted, and not tried again and again.
    put_aside = [entry for entry in caplog.records if entry.message == "row_put_aside"]
    assert [vars(entry)["job_id"] for entry in put_aside] == [str(poison.id)]
    assert metrics.rows_put_aside.labels("Scheduler")._value.get() == 1


@pytest.mark.parametrize("action", [parking.redrive, parking.discard])
def test_a_job_in_its_last_run_says_so_and_stays_parked(store: Database, action: object) -> None:
    (job,) = park(store, 1)
    spoil(store, job.id, run=MAX_RUN)

    with pytest.raises(RunsExhausted, match="run 1,000,000, the last"):
        store.write(action, job.id, now=LATER, project=None)  # type: ignore[arg-type]

    assert state(store, job.id) is JobState.PARKED


async def test_an_operation_skips_a_job_in_its_last_run_and_one_that_nobody_can_end(store: Database) -> None:
    last, poison, *others = park(store, 4)
    spoil(store, last.id, run=MAX_RUN)
    spoil(store, poison.id, kind="No kind", run=1)
    operation = NewOperation(new_id(), OperationAction.DISCARD, {}, 1_000, "somebody", NOON, project=None)
    store.write(bulk_actions.start_operation, operation, ParkedFilter())
    metrics = LedgerMetrics()

    runner = BulkOperationRunner(store=RetryingStore(store), metrics=metrics)
    await runner.make_page()
    await runner.make_page()

    done = store.read(bulk_actions.get_operation, operation.id, project=None)
    assert (done.state, done.total, done.done, done.skipped) == ("done", 4, 2, 2)
    assert [state(store, job.id) for job in (last, poison, *others)] == [
        *[JobState.PARKED] * 2,
        *[JobState.CANCELLED] * 2,
    ]
    assert metrics.rows_put_aside.labels("BulkOperationRunner")._value.get() == 1


def test_arguments_that_cannot_be_read_keep_no_page_from_being_relayed(store: Database) -> None:
    args = {"url": "https://example.com/\ud800", "if_changed": True}
    job, beside = make_job(kind="fetch", args=args), make_job()
    insert(store, job, beside)

    claimed = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)

    assert {each.id for each in claimed} == {job.id, beside.id}
