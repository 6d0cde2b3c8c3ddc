"""A batch's counts: how fast they change, and what mends them should they ever be wrong, on both stores."""

import logging
from datetime import timedelta

import pytest
import sqlalchemy as sa

from producer.ledger.maintenance import BatchReconciler
from producer.ledger.metrics import LedgerMetrics
from producer.progress import progress_of
from producer.records import NewBatch, NewJob
from producer.store import batches as store_batches
from producer.store import events, queries, recording, submissions
from producer.store.database import Database, RetryingStore
from producer.store.schema import batches
from shared.clock import utc_now
from shared.events import EventType
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report


def insert(store: Database, jobs: int) -> tuple[NewBatch, list[NewJob]]:
    batch, of_batch = make_batch(), [make_job() for _ in range(jobs)]
    store.write(submissions.insert_batch, batch, of_batch)
    return batch, of_batch


def break_counts(store: Database, batch: NewBatch, **values: object) -> None:
    with store.writing() as connection:
        connection.execute(batches.update().where(batches.c.id == batch.id).values(**values))


def completions(store: Database) -> int:
    claimed = store.write(events.claim_events, limit=1_000, lease_seconds=1, now=utc_now())
    store.write(events.forget_events, [event.id for event in claimed])
    return sum(event.type is EventType.BATCH for event in claimed)


def make_reconciler(store: Database, metrics: LedgerMetrics) -> BatchReconciler:
    return BatchReconciler(store=RetryingStore(store), metrics=metrics)


async def test_wrong_counts_are_mended_and_a_completion_that_they_hid_is_told_once(
    store: Database, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = LedgerMetrics()
    right, _ = insert(store, 2)
    batch, jobs = insert(store, 3)
    break_counts(store, batch, queued=5, accepted=2)
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED) for job in jobs], now=NOON)
    assert (
        store.read(store_batches.wrong_counts, batch.id) != {}
        and store.read(queries.get_batch, batch.id, project=None).finished_at is not None
    )
    assert completions(store) == 1
    # Complete, but nobody noticed: as if the last change had not reached the row.
    break_counts(store, batch, succeeded=1, finished_at=None, completed_at=None)
    reconciler = make_reconciler(store, metrics)

    with caplog.at_level(logging.ERROR):
        await reconciler.check_page()
        await reconciler.check_page()

    assert store.read(store_batches.wrong_counts, batch.id) == {}
    record = store.read(queries.get_batch, batch.id, project=None)
    assert (record.counts, record.finished_at is None) == ({JobState.SUCCEEDED: 3}, False)
    assert store.read(queries.get_batch, right.id, project=None).counts == {JobState.ACCEPTED: 2}
    assert completions(store) == 1
    assert [entry.message for entry in caplog.records] == ["batch_counts_wrong"]
    assert metrics.registry.get_sample_value("retriever_batch_counts_corrected_total") == 1


async def test_a_batch_that_was_not_finished_after_all_is_open_again(store: Database) -> None:
    batch, jobs = insert(store, 2)
    break_counts(store, batch, accepted=0, succeeded=2, finished_at=NOON)

    assert store.write(store_batches.correct_counts, batch.id, now=NOON) == {
        JobState.ACCEPTED: (0, 2),
        JobState.SUCCEEDED: (2, 0),
    }

    assert (store.read(queries.get_batch, batch.id, project=None).finished_at, completions(store)) == (
        None,
        0,
    )
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED) for job in jobs], now=NOON)
    assert (store.read(queries.get_batch, batch.id, project=None).finished_at, completions(store)) == (
        NOON,
        1,
    )


async def test_batches_are_checked_a_page_at_a_time_and_old_or_expired_ones_not_at_all(
    store: Database,
) -> None:
    made = [insert(store, 1)[0] for _ in range(5)]
    old, expired = insert(store, 1)[0], insert(store, 1)[0]
    break_counts(store, old, finished_at=NOON)
    break_counts(store, expired, expired_at=NOON)
    for batch in [*made, old, expired]:
        break_counts(store, batch, queued=7)
    metrics = LedgerMetrics()
    reconciler = make_reconciler(store, metrics)

    for _ in range(3):
        await reconciler.check_page(limit=2)

    assert [store.read(store_batches.wrong_counts, batch.id) for batch in made] == [{}] * 5
    assert store.read(store_batches.wrong_counts, old.id) != {}
    assert store.write(store_batches.correct_counts, expired.id, now=NOON) == {}
    assert metrics.registry.get_sample_value("retriever_batch_counts_corrected_total") == 5


def test_the_estimate_of_a_batch_follows_its_jobs_and_not_its_pauses(store: Database) -> None:
    batch, jobs = insert(store, 1_000)
    ended = iter(jobs)

    def told(seconds: float) -> tuple[float, float | None]:
        now = NOON + timedelta(seconds=seconds)
        progress = progress_of(store.read(queries.get_batch, batch.id, project=None), now=now)
        end_at = progress.estimated_end_at
        return progress.rate_per_second, (end_at - NOON).total_seconds() if end_at else None

    def end(seconds: float, *, ends: int) -> tuple[float, float | None]:
        began_at = NOON + timedelta(seconds=seconds - 10)
        reports = [make_report(next(ended).id, JobState.SUCCEEDED, started_at=began_at) for _ in range(ends)]
        store.write(recording.record_reports, reports, now=NOON + timedelta(seconds=seconds))
        return told(seconds)

    # Ten a second after an hour in the queue, then a long pause, then one a second.
    steady = [end(3_600 + seconds, ends=100) for seconds in (10, 20, 30, 40)]
    assert steady == [(10.0, 3_700)] * 4
    assert told(3_701)[0] == 0 and told(6_000)[1] == 6_060
    resumed = [end(9_000 + seconds, ends=10) for seconds in (10, 20, 30, 40)]
    assert resumed == [(1.0, 9_600)] * 4


def test_jobs_that_wait_for_another_attempt_hold_the_estimate_of_their_batch(store: Database) -> None:
    batch, jobs = insert(store, 100)
    delayed = make_report(jobs[0].id, JobState.DELAYED).model_copy(
        update={"due_at": NOON + timedelta(seconds=900)}
    )
    done = [make_report(job.id, JobState.SUCCEEDED) for job in jobs[1:]]
    store.write(recording.record_reports, [delayed, *done], now=NOON + timedelta(seconds=10))

    records = [
        store.read(queries.get_batch, batch.id, project=None),
        *store.read(queries.search_batches, [], limit=9, after=None, project=None).records,
    ]
    for record in records:
        for seconds in (10, 300, 899):
            now = NOON + timedelta(seconds=seconds)
            estimate = progress_of(record, now=now).estimated_end_at
            assert estimate == NOON + timedelta(seconds=900)


def test_counts_are_compared_at_one_moment(store: Database) -> None:
    batch, _ = insert(store, 3)
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if "SELECT" in statement:
            statements.append(statement)

    sa.event.listen(store._reader, "before_cursor_execute", note)
    assert store.read(store_batches.wrong_counts, batch.id) == {}
    sa.event.remove(store._reader, "before_cursor_execute", note)

    assert len(statements) == 1
