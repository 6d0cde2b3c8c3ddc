"""Is it the same? Idempotency keys of requests, and jobs that ask for the same thing."""

from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.records import Admitted, How, IdempotencyKey, NewJob
from producer.store.engine import POSTGRESQL
from producer.store.schema import idempotency_keys, jobs
from shared.states import JobState

JOB_SCOPE = "job"
BATCH_SCOPE = "batch"

_FINAL = [state.value for state in JobState if state.is_final]


def take_key(
    connection: sa.Connection, scope: str, idempotency: IdempotencyKey, resource_id: UUID, now: datetime
) -> Admitted | None:
    """Take the key for a new resource and return None, or return what it was taken for before.

    Waits for a transaction that is taking the same key, so one request of many wins.
    """
    here = _is_key(scope, idempotency)
    connection.execute(idempotency_keys.delete().where(here, idempotency_keys.c.expires_at <= now))
    insert = (postgresql.insert if connection.dialect.name == POSTGRESQL else sqlite.insert)(idempotency_keys)
    taking = insert.on_conflict_do_nothing().values(
        scope=scope,
        key=idempotency.key,
        fingerprint=idempotency.fingerprint,
        resource_id=resource_id,
        expires_at=idempotency.expires_at,
    )
    # What is returned and not how many rows there were: psycopg's count is not to be had here.
    if connection.execute(taking.returning(idempotency_keys.c.key)).first():
        return None
    row = connection.execute(sa.select(idempotency_keys).where(here)).mappings().one()
    is_same = bytes(row["fingerprint"]) == idempotency.fingerprint
    return Admitted(row["resource_id"], How.REPLAYED if is_same else How.CONFLICT)


def point_key(connection: sa.Connection, scope: str, idempotency: IdempotencyKey, resource_id: UUID) -> None:
    """Let a key that was just taken lead to another resource."""
    connection.execute(
        idempotency_keys.update().where(_is_key(scope, idempotency)).values(resource_id=resource_id)
    )


def find_same_job(connection: sa.Connection, job: NewJob) -> UUID | None:
    """Return the newest job that asks for the same and is unfinished, or recent enough.

    Until the transaction ends nobody else looks for the same thing.
    """
    if job.unique_key is None or job.unique_for_seconds is None:
        return None
    if connection.dialect.name == POSTGRESQL:
        number = int.from_bytes(job.unique_key[:8], signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
    since = job.created_at - timedelta(seconds=job.unique_for_seconds)
    recent = sa.or_(jobs.c.created_at > since, jobs.c.finished_at > since, jobs.c.state.not_in(_FINAL))
    query = (
        sa.select(jobs.c.id)
        .where(jobs.c.unique_key == job.unique_key, recent)
        .order_by(jobs.c.id.desc())
        .limit(1)
    )
    return connection.scalar(query)


def forget_expired_keys(connection: sa.Connection, *, limit: int, now: datetime) -> int:
    """Delete up to `limit` keys whose time is over; return how many."""
    expired = (
        sa.select(idempotency_keys.c.scope, idempotency_keys.c.key)
        .where(idempotency_keys.c.expires_at <= now)
        .limit(limit)
    )
    here = sa.tuple_(idempotency_keys.c.scope, idempotency_keys.c.key)
    return connection.execute(idempotency_keys.delete().where(here.in_(expired))).rowcount


def _is_key(scope: str, idempotency: IdempotencyKey) -> sa.ColumnElement[bool]:
    return sa.and_(idempotency_keys.c.scope == scope, idempotency_keys.c.key == idempotency.key)
