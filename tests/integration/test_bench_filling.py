"""`bench.filling` on both stores: a store that is filled in bulk is as the service would have left it."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from bench.filling import copy_hour, write_hour
from bench.stock import HOUR, Hour, make_hour, moved_id
from producer.parking import ParkedFilter
from producer.records import JobRecord
from producer.store import batches, parking, queries
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.store.schema import events
from shared.states import JobState

START = datetime(2026, 1, 2, 12, tzinfo=UTC)
COPIES = 3


@pytest.fixture
def hour() -> Hour:
    return make_hour(START, 400)


def shown(record: JobRecord) -> tuple[object, ...]:
    """Return what a copy has in common with its original."""
    return (
        record.kind,
        record.args,
        record.state,
        record.reason,
        record.result,
        record.host,
        record.labels,
        record.due_at,
        [(attempt.number, attempt.outcome, attempt.worker) for attempt in record.attempts],
    )


def test_copies_are_the_same_jobs_in_earlier_hours(store: Database, database_url: str, hour: Hour) -> None:
    write_hour(store, hour)

    copy_hour(database_url, hour, copies=COPIES)

    for each in hour.submitted:
        job = each.jobs[-1]
        here, there = (
            store.read(queries.get_job, job.id, project=None),
            store.read(queries.get_job, moved_id(job.id, HOUR * COPIES), project=None),
        )
        assert here.state is hour.states[job.id]
        assert shown(there) == shown(here)
        assert here.created_at - there.created_at == HOUR * COPIES
        assert [end - start for start, end in zip(starts(there), starts(here), strict=True)] == [
            HOUR * COPIES for _ in here.attempts
        ]


def test_counts_of_batches_and_groups_are_those_of_their_jobs(
    store: Database, database_url: str, hour: Hour
) -> None:
    write_hour(store, hour)
    groups = store.read(parking.list_groups, ParkedFilter(), limit=1_000, project=None)

    copy_hour(database_url, hour, copies=COPIES)

    ids = [each.batch.id for each in hour.submitted if each.batch and each.batch.id != hour.biggest]
    every = [
        hour.biggest,
        *(moved_id(batch_id, HOUR * back) for batch_id in ids for back in range(COPIES + 1)),
    ]
    assert {batch_id: store.read(batches.wrong_counts, batch_id) for batch_id in every} == {
        each: {} for each in every
    }
    sizes = [len(each.jobs) for each in hour.submitted if each.batch and each.batch.id == hour.biggest]
    assert store.read(queries.get_batch, hour.biggest, project=None).total == sizes[0] * (COPIES + 1)
    after = store.read(parking.list_groups, ParkedFilter(), limit=1_000, project=None)
    assert after.total_jobs == groups.total_jobs * (COPIES + 1)
    assert after.total_groups == groups.total_groups
    unfinished = store.read(queries.count_unfinished)[JobState.QUEUED]
    assert unfinished == list(hour.states.values()).count(JobState.QUEUED) * (COPIES + 1)


def test_nothing_is_left_to_be_told_to_the_broker(store: Database, database_url: str, hour: Hour) -> None:
    write_hour(store, hour)

    engine = open_engine(database_url)
    with engine.connect() as connection:
        left = connection.scalar(sa.select(sa.func.count()).select_from(events))
    engine.dispose()
    assert left == 0


def starts(record: JobRecord) -> list[datetime]:
    return [attempt.started_at for attempt in record.attempts]
