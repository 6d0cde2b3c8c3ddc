"""The janitor on both stores: what it deletes in one go, in chunks, and what it leaves."""

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from producer.ledger.maintenance import Janitor
from producer.ledger.metrics import LedgerMetrics
from producer.records import IdempotencyKey, JobFilter, KeyScope, Rejected
from producer.store import queries, recording, submissions
from producer.store.database import Database, RetryingStore
from producer.store.schema import idempotency_keys, rejected_lines
from shared.clock import utc_now
from shared.errors import BatchNotFound
from shared.settings import Settings
from shared.states import JobState
from tests.support.amqp import running
from tests.support.factories import NOON, make_batch, make_job, make_report
from tests.support.waiting import eventually


async def test_old_ends_are_deleted_with_their_batches_and_parked_jobs_stay(store: Database) -> None:
    metrics, batch = LedgerMetrics(), make_batch()
    single, of_batch = [make_job() for _ in range(1_100)], [make_job() for _ in range(600)]
    parked = make_job()
    store.write(submissions.insert_jobs, [*single, parked])
    store.write(submissions.insert_batch, batch, of_batch)
    store.write(
        recording.record_reports,
        [make_report(job.id, JobState.SUCCEEDED) for job in [*single, *of_batch]],
        now=NOON,
    )
    store.write(recording.record_reports, [make_report(parked.id, JobState.PARKED)], now=NOON)
    janitor = Janitor(store=RetryingStore(store), metrics=metrics, settings=Settings())

    await janitor.clean(before=utc_now() + timedelta(hours=1))

    assert [
        job.id
        for job in store.read(queries.search_jobs, JobFilter(), limit=10, after=None, project=None).records
    ] == [parked.id]
    with pytest.raises(BatchNotFound):
        store.read(queries.get_batch, batch.id, project=None)
    assert metrics.registry.get_sample_value("retriever_jobs_deleted_total") == 1_700


async def test_rejected_lines_are_deleted_with_their_batch(store: Database) -> None:
    batch, job = make_batch(), make_job()
    store.write(
        submissions.insert_batch, batch, [job], (Rejected(n, f"/lines/{n}", "No") for n in range(1, 12_001))
    )
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=NOON)
    janitor = Janitor(store=RetryingStore(store), metrics=LedgerMetrics(), settings=Settings())

    await janitor.clean(before=utc_now() + timedelta(hours=1))

    with store.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(rejected_lines)) == 0


async def test_keys_are_forgotten_also_when_all_jobs_are_kept(store: Database) -> None:
    job, batch = make_job(), make_batch()
    expired = [IdempotencyKey(KeyScope.JOB, f"old-{n}", b"", NOON, project="default") for n in range(1_100)]
    lasting = IdempotencyKey(KeyScope.JOB, "new", b"", utc_now() + timedelta(hours=1), project="default")
    store.write(submissions.admit_jobs, [replace(make_job(), idempotency=key) for key in (*expired, lasting)])
    store.write(submissions.insert_jobs, [job])
    store.write(submissions.insert_batch, batch, [])
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=NOON)
    settings = Settings(retention_days=0)
    janitor = Janitor(store=RetryingStore(store), metrics=LedgerMetrics(), settings=settings)

    async def keys() -> list[str]:
        with store.reading() as connection:
            return list(connection.scalars(sa.select(idempotency_keys.c.key)))

    async def only_the_new_one_is_left() -> bool:
        return await keys() == ["new"]

    async with running(janitor.run()):
        await eventually(only_the_new_one_is_left)

    assert store.read(queries.get_job, job.id, project=None).state is JobState.SUCCEEDED
    assert store.read(queries.get_batch, batch.id, project=None).total == 0
