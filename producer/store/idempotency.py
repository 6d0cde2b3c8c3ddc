"""What each idempotency key was used for, and what its request was answered."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.callers import scoped
from producer.records import IdempotencyKey, KeptAnswer, KeyScope, TakenKey
from producer.store.schema import idempotency_keys
from producer.store.sql import insert_absent


def take_key(
    connection: sa.Connection, idempotency: IdempotencyKey, resource_id: UUID, *, now: datetime
) -> TakenKey | None:
    """Take the key for a new resource and return None, or return what it was taken for before.

    Waits for a transaction that is taking the same key, so one request of many wins.
    """
    here = _is_key(idempotency.scope, idempotency.key, idempotency.project)
    connection.execute(idempotency_keys.delete().where(here, idempotency_keys.c.expires_at <= now))
    taking = insert_absent(connection, idempotency_keys).values(
        scope=scoped(idempotency.scope, idempotency.project),
        key=idempotency.key,
        fingerprint=idempotency.fingerprint,
        resource_id=resource_id,
        expires_at=idempotency.expires_at,
        **_answer_columns(idempotency.answer),
    )
    # By what is returned: psycopg does not count the rows here.
    if connection.execute(taking.returning(idempotency_keys.c.key)).first():
        return None
    return read_key(connection, idempotency)


def read_key(connection: sa.Connection, idempotency: IdempotencyKey) -> TakenKey:
    """Return what a key was taken for, in this transaction or before."""
    here = _is_key(idempotency.scope, idempotency.key, idempotency.project)
    return _taken(connection.execute(sa.select(idempotency_keys).where(here)).mappings().one())


def find_key(
    connection: sa.Connection, scope: KeyScope, key: str, *, project: str, now: datetime
) -> TakenKey | None:
    """Return what a key of a project was used for, or None when it is free."""
    is_valid = sa.and_(_is_key(scope, key, project), idempotency_keys.c.expires_at > now)
    row = connection.execute(sa.select(idempotency_keys).where(is_valid)).mappings().one_or_none()
    return _taken(row) if row else None


def point_key(connection: sa.Connection, idempotency: IdempotencyKey, duplicate_of: UUID) -> None:
    """Let a key that was just taken lead to the resource that was there before; its answer is kept later."""
    pointed = {"resource_id": duplicate_of, "is_duplicate": True, **_answer_columns(None)}
    here = _is_key(idempotency.scope, idempotency.key, idempotency.project)
    connection.execute(idempotency_keys.update().where(here).values(pointed))


def keep_answer(connection: sa.Connection, idempotency: IdempotencyKey, answer: KeptAnswer) -> KeptAnswer:
    """Keep the answer to the request that took the key, and return the one that is kept: the first."""
    here = _is_key(idempotency.scope, idempotency.key, idempotency.project)
    is_missing = idempotency_keys.c.answer.is_(None)
    connection.execute(idempotency_keys.update().where(here, is_missing).values(_answer_columns(answer)))
    row = connection.execute(sa.select(idempotency_keys).where(here)).mappings().one_or_none()
    # The key may have expired since.
    return (_taken(row).answer if row else None) or answer


def _answer_columns(answer: KeptAnswer | None) -> dict[str, Any]:
    return {
        "answer_status": answer.status if answer else None,
        "answer_location": answer.location if answer else None,
        "answer": answer.body if answer else None,
    }


def _taken(row: sa.RowMapping) -> TakenKey:
    answer = None
    if row["answer"] is not None:
        answer = KeptAnswer(row["answer_status"], row["answer_location"], bytes(row["answer"]))
    return TakenKey(row["resource_id"], bytes(row["fingerprint"]), row["is_duplicate"], answer)


def _is_key(scope: KeyScope, key: str, project: str) -> sa.ColumnElement[bool]:
    return sa.and_(idempotency_keys.c.scope == scoped(scope, project), idempotency_keys.c.key == key)
