"""What the janitor may delete, on both stores: old ends, never what is parked, and no part of a batch."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from producer.records import NewJob
from producer.store import parking, queries, recording, retention, submissions
from producer.store.database import Database
from shared.clock import utc_now
from shared.errors import BatchNotFound, JobNotFound
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

# Ids are of today, so "old" is what ended before an hour from now.
BEFORE = utc_now() + timedelta(hours=1)
YOUNG = BEFORE + timedelta(days=1)


def end(store: Database, jobs: Sequence[NewJob], state: JobState, ended_at: datetime = NOON) -> None:
    store.write(
        recording.record_reports,
        [make_report(job.id, state, ended_at=ended_at) for job in jobs],
        now=ended_at,
    )


def exists(store: Database, job_id: UUID) -> bool:
    try:
        store.read(queries.get_job, job_id, project=None)
    except JobNotFound:
        return False
    return True


def delete_all(store: Database, state: JobState, *, limit: int = 2) -> int:
    """Delete page by page, as the janitor does, and return how many jobs went."""
    deleted, after = 0, None
    while True:
        page = store.write(retention.delete_single_jobs, state, before=BEFORE, after=after, limit=limit)
        deleted += page.deleted
        if (after := page.following) is None:
            return deleted


def test_only_old_jobs_that_succeeded_or_were_cancelled_are_deleted(store: Database) -> None:
    old, young, parked, unfinished, discarded = (
        [make_job() for _ in range(count)] for count in (5, 1, 1, 1, 1)
    )
    store.write(submissions.insert_jobs, [*old, *young, *parked, *unfinished, *discarded])
    end(store, old, JobState.SUCCEEDED)
    end(store, young, JobState.SUCCEEDED, YOUNG)
    end(store, [*parked, *discarded], JobState.PARKED)
    store.write(parking.discard, discarded[0].id, now=NOON, project=None)

    deleted = [delete_all(store, state) for state in (JobState.SUCCEEDED, JobState.CANCELLED)]

    assert deleted == [5, 1]
    assert not any(exists(store, job.id) for job in [*old, *discarded])
    assert all(exists(store, job.id) for job in [*young, *parked, *unfinished])
    assert store.read(parking.pending_redrives, 10) == []


def test_a_batch_is_hidden_and_deleted_as_a_whole(store: Database) -> None:
    batch, jobs = make_batch(), [make_job() for _ in range(5)]
    store.write(submissions.insert_batch, batch, jobs)
    end(store, jobs, JobState.SUCCEEDED)

    kept = delete_all(store, JobState.SUCCEEDED)
    counts = store.read(queries.get_batch, batch.id, project=None).counts
    following = store.write(retention.expire_batches, before=BEFORE, after=None, limit=10, now=NOON)

    assert (kept, counts, following) == (0, {JobState.SUCCEEDED: 5}, None)
    with pytest.raises(BatchNotFound):
        store.read(queries.get_batch, batch.id, project=None)
    assert store.read(retention.expired_batches) == [batch.id]
    assert [store.write(retention.delete_of_batch, batch.id, limit=2) for _ in range(3)] == [2, 2, 1]
    assert store.read(retention.expired_batches) == []
    assert not any(exists(store, job.id) for job in jobs)


@pytest.mark.parametrize("last", ["parked", "unfinished", "young"])
def test_a_batch_with_one_job_to_keep_is_kept_whole(store: Database, last: str) -> None:
    batch, jobs = make_batch(), [make_job() for _ in range(3)]
    store.write(submissions.insert_batch, batch, jobs)
    end(store, jobs[:2], JobState.SUCCEEDED)
    match last:
        case "parked":
            end(store, jobs[2:], JobState.PARKED)
        case "young":
            end(store, jobs[2:], JobState.SUCCEEDED, YOUNG)

    store.write(retention.expire_batches, before=BEFORE, after=None, limit=10, now=NOON)

    assert store.read(retention.expired_batches) == []
    assert sum(store.read(queries.get_batch, batch.id, project=None).counts.values()) == 3


def test_batches_are_looked_at_a_page_at_a_time(store: Database) -> None:
    batches = [make_batch() for _ in range(5)]
    for batch in batches:
        store.write(submissions.insert_batch, batch, [])

    pages, after = 0, None
    while True:
        pages += 1
        after = store.write(retention.expire_batches, before=BEFORE, after=after, limit=2, now=NOON)
        if after is None:
            break

    assert pages == 3
    assert store.read(retention.expired_batches) == sorted(batch.id for batch in batches)


def test_what_was_made_after_the_time_is_not_even_looked_at(store: Database) -> None:
    job = make_job(job_id=new_id())
    store.write(submissions.insert_jobs, [job])
    end(store, [job], JobState.SUCCEEDED)

    page = store.write(retention.delete_single_jobs, JobState.SUCCEEDED, before=NOON, after=None, limit=1)

    assert (page.deleted, page.following) == (0, None)
