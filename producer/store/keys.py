"""API keys: made, rotated, revoked, listed, and all that open something, for every API process to hold."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.callers import Scope
from producer.keys import HASH_KEY_BYTES, MAX_KEYS, ApiKey, KeySecret, KeyState, rotated
from producer.parking import AuditAction
from producer.records import Found
from producer.store.audit import key_target, write_audit
from producer.store.projects import visible
from producer.store.schema import api_key_secrets, api_keys
from producer.store.secret_keys import API_KEYS, find_key, keep_key
from producer.store.sql import count_under_lock
from shared.errors import KeyEnded, KeyNameTaken, KeyNotFound, QuotaReached

# The use of a key is noted at most so often.
USE_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What an API process holds of all keys.

    Attributes:
        hash_key: What their texts are hashed with; None before the first key is made.
        live: Those that open something.
    """

    hash_key: bytes | None
    live: tuple[ApiKey, ...]


def known_keys(connection: sa.Connection, *, now: datetime) -> KnownKeys:
    """Return all keys that open something at a time."""
    if (hash_key := find_key(connection, API_KEYS)) is None:
        return KnownKeys(None, ())
    return KnownKeys(hash_key, tuple(_keys(connection, sa.select(api_keys).where(_is_live(now)))))


def keep_hash_key(connection: sa.Connection) -> bytes:
    """Return what the texts of keys are hashed with. From the first time on the service asks for keys."""
    return keep_key(connection, API_KEYS, key_bytes=HASH_KEY_BYTES)


def insert_key(connection: sa.Connection, key: ApiKey) -> None:
    """Store a new key.

    Raises:
        KeyNameTaken: another key has its name, or had it.
        QuotaReached: there are as many as there may be.
    """
    if count_under_lock(connection, api_keys, _is_live(key.created_at)) >= MAX_KEYS:
        raise QuotaReached(f"There are {MAX_KEYS:,} API keys, which is the most. Revoke one of them first.")
    if connection.scalar(sa.select(sa.exists().where(api_keys.c.name == key.name))):
        raise KeyNameTaken(f"There is, or was, a key of the name {key.name!r}; names are never given twice.")
    connection.execute(
        api_keys.insert().values(
            id=key.id,
            name=key.name,
            project=key.project,
            scopes=sorted(key.scopes),
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.expires_at,
            rate_per_second=key.rate_per_second,
        )
    )
    _insert_secret(connection, key.id, key.secrets[0], now=key.created_at)
    details: dict[str, Any] = {"name": key.name, "project": key.project, "scopes": sorted(key.scopes)}
    if key.rate_per_second is not None:
        details["rate_per_second"] = key.rate_per_second
    _audit(connection, AuditAction.KEY_CREATED, key, details, by=key.created_by, now=key.created_at)


def get_key(connection: sa.Connection, key_id: UUID, *, project: str | None) -> ApiKey:
    """Return a key of a project; of any for None.

    Raises:
        KeyNotFound: the project has none of this id.
    """
    query = sa.select(api_keys).where(api_keys.c.id == key_id, *visible(api_keys, project))
    if not (found := _keys(connection, query)):
        raise KeyNotFound(f"no API key has the id {key_id}")
    return found[0]


def list_keys(
    connection: sa.Connection, *, project: str | None, limit: int, after: UUID | None
) -> Found[ApiKey]:
    """Return a page of a project's keys, of all for None, newest first, from below the id `after`."""
    query = (
        sa.select(api_keys).where(*visible(api_keys, project)).order_by(api_keys.c.id.desc()).limit(limit + 1)
    )
    if after is not None:
        query = query.where(api_keys.c.id < after)
    found = _keys(connection, query)
    page = found[:limit]
    return Found(page, page[-1].id if len(found) > limit else None)


def rotate_key(
    connection: sa.Connection,
    key_id: UUID,
    new: KeySecret,
    *,
    project: str | None,
    overlap: timedelta,
    by: str,
    now: datetime,
) -> ApiKey:
    """Give a key a new text and return it; the text before lives on for a while, older ones end.

    Raises:
        KeyNotFound: the project has none of this id.
        KeyEnded: it opens nothing any more.
    """
    # Two rotations at once: the second sees what the first has written.
    connection.execute(api_keys.update().where(api_keys.c.id == key_id).values(id=key_id))
    key = get_key(connection, key_id, project=project)
    if (state := key.state(now)) is not KeyState.LIVE:
        raise KeyEnded(f"The key is {state}; make a new one.")
    kept = {each.start: each.expires_at for each in rotated(key, new, overlap=overlap, now=now)}
    of_key = api_key_secrets.c.key_id == key_id
    connection.execute(api_key_secrets.delete().where(of_key, api_key_secrets.c.start.not_in(kept)))
    for start, expires_at in kept.items():
        connection.execute(
            api_key_secrets.update().where(api_key_secrets.c.start == start).values(expires_at=expires_at)
        )
    _insert_secret(connection, key_id, new, now=now)
    details = {"name": key.name, "overlap_seconds": int(overlap.total_seconds())}
    _audit(connection, AuditAction.KEY_ROTATED, key, details, by=by, now=now)
    return get_key(connection, key_id, project=project)


def revoke_key(
    connection: sa.Connection, key_id: UUID, *, project: str | None, by: str, now: datetime
) -> ApiKey:
    """End a key for good and return it; one that is revoked stays as it is.

    Raises:
        KeyNotFound: the project has none of this id.
    """
    key = get_key(connection, key_id, project=project)
    is_live = api_keys.c.revoked_at.is_(None)
    revoked = api_keys.update().where(api_keys.c.id == key_id, is_live).values(revoked_at=now)
    if connection.execute(revoked).rowcount:
        _audit(connection, AuditAction.KEY_REVOKED, key, {"name": key.name}, by=by, now=now)
    return get_key(connection, key_id, project=project)


def note_uses(connection: sa.Connection, uses: Mapping[UUID, datetime]) -> None:
    """Note when keys were used; a time that is known to the minute is not written again."""
    for key_id, used_at in uses.items():
        is_news = api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < used_at - USE_NOTED_EVERY)
        connection.execute(
            api_keys.update().where(api_keys.c.id == key_id, is_news).values(last_used_at=used_at)
        )


def _insert_secret(connection: sa.Connection, key_id: UUID, secret: KeySecret, *, now: datetime) -> None:
    connection.execute(
        api_key_secrets.insert().values(
            start=secret.start,
            key_id=key_id,
            digest=secret.digest,
            created_at=now,
            expires_at=secret.expires_at,
        )
    )


def _keys(connection: sa.Connection, query: sa.Select[Any]) -> list[ApiKey]:
    rows = connection.execute(query).mappings().all()
    ids = query.with_only_columns(api_keys.c.id).subquery()
    newest_first = api_key_secrets.c.created_at.desc(), api_key_secrets.c.expires_at.is_not(None)
    of_keys = (
        sa.select(api_key_secrets)
        .where(api_key_secrets.c.key_id.in_(sa.select(ids.c.id)))
        .order_by(*newest_first)
    )
    secrets: defaultdict[UUID, list[KeySecret]] = defaultdict(list)
    for row in connection.execute(of_keys).mappings() if rows else ():
        secrets[row["key_id"]].append(KeySecret(row["start"], bytes(row["digest"]), row["expires_at"]))
    return [
        ApiKey(
            **{name: value for name, value in row.items() if name != "scopes"},
            scopes=frozenset(_known_scopes(row["scopes"])),
            secrets=tuple(secrets[row["id"]]),
        )
        for row in rows
    ]


def _known_scopes(names: Collection[str]) -> Iterable[Scope]:
    # A later version may have more of them.
    return (scope for scope in Scope if scope in names)


def _is_live(now: datetime) -> sa.ColumnElement[bool]:
    ends = api_keys.c.expires_at
    return api_keys.c.revoked_at.is_(None) & (ends.is_(None) | (ends > now))


def _audit(
    connection: sa.Connection,
    action: AuditAction,
    key: ApiKey,
    details: Mapping[str, Any],
    *,
    by: str,
    now: datetime,
) -> None:
    target, project = key_target(key.id), key.project
    write_audit(connection, action, target=target, project=project, by=by, details=details, now=now)
