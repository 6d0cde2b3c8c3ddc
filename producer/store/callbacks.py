"""Callbacks are jobs, stored in the transaction that records what they tell of: one for each end, or none."""

from collections.abc import Sequence

import sqlalchemy as sa

from producer.records import NewJob
from producer.store.rows import new_job_row
from producer.store.schema import jobs
from producer.store.wakeup import announce_jobs


def insert_callbacks(connection: sa.Connection, webhooks: Sequence[NewJob]) -> None:
    """Store webhook jobs, and wake the relay."""
    if webhooks:
        connection.execute(jobs.insert(), [new_job_row(webhook, batch_id=None) for webhook in webhooks])
        announce_jobs(connection)
