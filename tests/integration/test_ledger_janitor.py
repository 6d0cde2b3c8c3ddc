"""The janitor on both stores: what it deletes in one go, in chunks, and what it leaves."""

from datetime import timedelta

import pytest

from producer.ledger.janitor import Janitor
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.turns import Turns
from producer.records import JobFilter
from producer.store.store import JobStore
from shared.clock import utc_now
from shared.errors import BatchNotFound
from shared.settings import Settings
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report


async def test_old_ends_are_deleted_with_their_batches_and_parked_jobs_stay(store: JobStore) -> None:
    metrics, batch = LedgerMetrics(), make_batch()
    single, of_batch = [make_job() for _ in range(1_100)], [make_job() for _ in range(600)]
    parked = make_job()
    store.insert_jobs([*single, parked])
    store.insert_batch(batch, of_batch)
    store.record([make_report(job.id, JobState.SUCCEEDED) for job in [*single, *of_batch]], now=NOON)
    store.record([make_report(parked.id, JobState.PARKED)], now=NOON)
    janitor = Janitor(store=store, turns=Turns(store, "janitor"), metrics=metrics, settings=Settings())

    await janitor.clean(before=utc_now() + timedelta(hours=1))

    assert [job.id for job in store.list_jobs(JobFilter(), limit=10, after=None)] == [parked.id]
    with pytest.raises(BatchNotFound):
        store.get_batch(batch.id)
    assert metrics.registry.get_sample_value("retriever_jobs_deleted_total") == 1_700


async def test_a_retention_of_no_days_keeps_all(store: JobStore) -> None:
    settings = Settings(retention_days=0)

    # Returns at once: there is nothing that it would ever do.
    await Janitor(
        store=store, turns=Turns(store, "janitor"), metrics=LedgerMetrics(), settings=settings
    ).run()
