"""The outbox of events: what the broker will be told, written in the transaction that makes it true."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.callbacks import batch_callback, job_callback
from producer.callers import wire_project
from producer.records import CallbackEvent, ClaimedEvent, NewJob
from producer.store.page_bytes import lock_fitting
from producer.store.quotas import Stored
from producer.store.rows import new_job_row
from producer.store.schema import events, jobs
from producer.store.sql import is_free, is_one_of, json_rowset, read_in_order, rows_parameter
from producer.store.wakeup import announce_ends, announce_jobs
from shared.events import BatchCompleted, Cancellation, EventType, JobEnded
from shared.identity import new_id
from shared.messages import WireMessage
from shared.states import JobState


def announce_outcomes(
    connection: sa.Connection, ends: Sequence[JobEnded], callback_urls: Mapping[UUID, str], *, now: datetime
) -> Stored:
    """Tell the broker of jobs that have ended, and store a webhook job for each that has a callback URL.

    Returns:
        The webhooks, which have to be counted.
    """
    _insert(connection, EventType.OUTCOME, ends, now)
    calls = [(end, callback_urls[end.job_id]) for end in ends if end.job_id in callback_urls]
    return _insert_callbacks(connection, [job_callback(end, url, now=now) for end, url in calls])


def announce_batch(connection: sa.Connection, row: sa.RowMapping, *, now: datetime) -> Stored:
    """Tell of a batch all of whose jobs have ended; return its webhook, which has to be counted."""
    completed = BatchCompleted(
        id=row["id"],
        kind=row["kind"],
        total=row["total"],
        counts={state: row[state.value] for state in JobState if row[state.value]},
        labels=row["labels"],
        project=wire_project(row["project"]),
        created_at=row["created_at"],
        completed_at=now,
    )
    _insert(connection, EventType.BATCH, [completed], now)
    events_wanted = row["callback_events"]
    is_wanted = events_wanted is None or CallbackEvent.BATCH_COMPLETED in events_wanted
    if is_wanted and (url := row["callback_url"]) is not None:
        return _insert_callbacks(connection, [batch_callback(completed, url, now=now)])
    return Counter()


def announce_cancellations(
    connection: sa.Connection, cancellations: Iterable[Cancellation], *, now: datetime
) -> None:
    """Tell the workers what they must not run."""
    _insert(connection, EventType.CANCELLATION, cancellations, now)


def claim_events(
    connection: sa.Connection, *, limit: int, lease_seconds: float, now: datetime
) -> list[ClaimedEvent]:
    """Lease the oldest events that nobody holds a lease on, and return them, oldest first.

    As many as fit into a page.
    """
    read_in_order(connection)
    free = (
        sa.select(events.c.id)
        .where(is_free(events.c.claimed_until, seconds=lease_seconds, now=now))
        .order_by(events.c.id)
        .limit(limit)
    )
    ids = lock_fitting(connection, free, [events.c.body])
    if not ids:
        return []
    lease = (
        events.update()
        .where(is_one_of(connection, events.c.id, ids))
        .values(claimed_until=now + timedelta(seconds=lease_seconds))
        .returning(events.c.id, events.c.type, sa.cast(events.c.body, sa.Text))
    )
    rows = connection.execute(lease).all()
    return sorted((ClaimedEvent(*row) for row in rows), key=lambda event: event.id.int)


def forget_events(connection: sa.Connection, event_ids: Sequence[UUID]) -> None:
    """Delete events that the broker has confirmed."""
    connection.execute(events.delete().where(is_one_of(connection, events.c.id, event_ids)))


def release_events(connection: sa.Connection, event_ids: Sequence[UUID], *, retry_at: datetime) -> None:
    """Let events that could not be published be claimed again after `retry_at`."""
    here = is_one_of(connection, events.c.id, event_ids)
    connection.execute(events.update().where(here).values(claimed_until=retry_at))


def _insert_callbacks(connection: sa.Connection, webhooks: Sequence[NewJob]) -> Stored:
    """Store webhook jobs, and wake the relay."""
    if webhooks:
        connection.execute(jobs.insert(), [new_job_row(webhook, batch_id=None) for webhook in webhooks])
        announce_jobs(connection)
    # Never refused: the job that they tell of was let in, and they are of it.
    return Counter((webhook.project, webhook.kind) for webhook in webhooks)


def _insert(
    connection: sa.Connection, event_type: EventType, bodies: Iterable[WireMessage], now: datetime
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": new_id(),
            "type": event_type,
            "body": body.model_dump(mode="json", exclude_none=True),
            "created_at": now,
        }
        for body in bodies
    ]
    if rows:
        connection.execute(
            _inserting(connection.dialect.name, tuple(rows[0])), rows_parameter(connection, rows)
        )
        (announce_jobs if event_type is EventType.CANCELLATION else announce_ends)(connection)


@cache
def _inserting(dialect: str, names: tuple[str, ...]) -> sa.Insert:
    return events.insert().from_select(names, sa.select(json_rowset(dialect, events, names)))
