"""Secrets of projects: kept sealed, replaced, deleted, and put beside the jobs that name them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.parking import AuditAction
from producer.records import ClaimedJob, Found
from producer.secrets import (
    MAX_SECRETS,
    MAX_SIGNING,
    Named,
    NewValue,
    StoredSecret,
    named_in,
    receiver_of,
)
from producer.store.audit import secret_target, write_audit
from producer.store.projects import visible
from producer.store.schema import secrets
from producer.store.sql import count_under_lock
from shared.errors import QuotaReached, SecretNameTaken, SecretNotFound
from shared.sealed import SealedSecret, SecretUse

# The use of a secret is noted at most so often.
USE_NOTED_EVERY = timedelta(minutes=1)
_NAMES_AT_ONCE = 500


def insert_secret(connection: sa.Connection, secret: StoredSecret) -> None:
    """Store a new secret.

    Raises:
        SecretNameTaken: the project has one of this name.
        QuotaReached: the project has as many as there may be.
    """
    own = secrets.c.project == secret.project
    if count_under_lock(connection, secrets, own) >= MAX_SECRETS:
        raise QuotaReached(
            f"The project has {MAX_SECRETS:,} secrets, which is the most. Delete one of them first."
        )
    if connection.scalar(sa.select(sa.exists().where(own, secrets.c.name == secret.name))):
        raise SecretNameTaken(
            f"The project has a secret {secret.name!r}; replace it, or choose another name."
        )
    values = {column.name: getattr(secret, column.name) for column in secrets.c}
    connection.execute(secrets.insert().values({**values, "origins": list(secret.origins)}))
    _audit(connection, AuditAction.SECRET_CREATED, secret, by=secret.created_by, now=secret.created_at)


def get_secret(connection: sa.Connection, secret_id: UUID, *, project: str | None) -> StoredSecret:
    """Return a secret of a project; of any for None.

    Raises:
        SecretNotFound: the project has none of this id.
    """
    query = sa.select(secrets).where(secrets.c.id == secret_id, *visible(secrets, project))
    return _only(connection, query, f"no secret has the id {secret_id}")


def find_secret(connection: sa.Connection, project: str, name: str) -> StoredSecret:
    """Return the secret of a project that has a name.

    Raises:
        SecretNotFound: there is none.
    """
    query = sa.select(secrets).where(secrets.c.project == project, secrets.c.name == name)
    return _only(connection, query, f"The project {project} has no secret {name!r}")


def list_secrets(
    connection: sa.Connection, *, project: str | None, limit: int, after: UUID | None
) -> Found[StoredSecret]:
    """Return a page of a project's secrets, of all for None, newest first, from below the id `after`."""
    query = (
        sa.select(secrets).where(*visible(secrets, project)).order_by(secrets.c.id.desc()).limit(limit + 1)
    )
    if after is not None:
        query = query.where(secrets.c.id < after)
    found = list(_secrets(connection, query))
    page = found[:limit]
    return Found(page, page[-1].id if len(found) > limit else None)


def replace_value(
    connection: sa.Connection,
    secret: StoredSecret,
    new: NewValue,
    *,
    overlap: timedelta,
    by: str,
    now: datetime,
) -> StoredSecret:
    """Give a secret another value, maybe for other origins, and return it.

    Args:
        overlap: How long the value before goes on to sign webhooks. For other origins it never does.

    Raises:
        SecretNotFound: it was deleted, or changed, by somebody else meanwhile.
    """
    goes_on = secret.use is SecretUse.WEBHOOK and overlap and new.origins == secret.origins
    changed = connection.execute(
        secrets.update()
        .where(secrets.c.id == secret.id, secrets.c.box == secret.box)
        .values(
            origins=list(new.origins),
            box=new.box,
            digest=new.digest,
            previous_box=secret.box if goes_on else None,
            previous_until=now + overlap if goes_on else None,
            updated_at=now,
        )
    )
    if changed.rowcount != 1:
        raise SecretNotFound(f"the secret {secret.id} is gone, or was replaced at this moment")
    after = get_secret(connection, secret.id, project=None)
    more = {"overlap_seconds": int(overlap.total_seconds())} if goes_on else {}
    _audit(connection, AuditAction.SECRET_REPLACED, after, more, by=by, now=now)
    return after


def delete_secret(
    connection: sa.Connection, secret_id: UUID, *, project: str | None, by: str, now: datetime
) -> StoredSecret:
    """Delete a secret and return what it was.

    Raises:
        SecretNotFound: the project has none of this id.
    """
    secret = get_secret(connection, secret_id, project=project)
    connection.execute(secrets.delete().where(secrets.c.id == secret_id))
    _audit(connection, AuditAction.SECRET_DELETED, secret, by=by, now=now)
    return secret


def keep_resealed(connection: sa.Connection, before: StoredSecret, after: StoredSecret) -> bool:
    """Keep what was sealed anew; return False, and do nothing, if the secret is another by now."""
    changed = connection.execute(
        secrets.update()
        .where(secrets.c.id == before.id, secrets.c.box == before.box)
        .values(
            box=after.box,
            digest=after.digest,
            previous_box=after.previous_box,
            previous_until=after.previous_until,
        )
    )
    return changed.rowcount == 1


def with_secrets(connection: sa.Connection, claimed: list[ClaimedJob], *, now: datetime) -> list[ClaimedJob]:
    """Return the jobs; those that name secrets of their project, or call one's receiver, get them, sealed.

    What is not there is left out, and the worker says so: it may be a file there.
    """
    naming = {job.id: named for job in claimed if (named := named_in(job)) is not None}
    if not naming:
        return claimed
    by_project: defaultdict[str, list[StoredSecret]] = defaultdict(list)
    for query in _wanted([(job, naming[job.id]) for job in claimed if job.id in naming]):
        for secret in _secrets(connection, query):
            by_project[secret.project].append(secret)
    if not by_project:
        return claimed

    def sealed_for(job: ClaimedJob) -> tuple[SealedSecret, ...]:
        named = naming.get(job.id)
        known = by_project.get(job.project, ()) if named is not None else ()
        return tuple(each for secret in _needed(job, named, known) for each in secret.sealed(now))

    return [replace(job, sealed=sealed) if (sealed := sealed_for(job)) else job for job in claimed]


def note_use(connection: sa.Connection, sent: Iterable[ClaimedJob], *, now: datetime) -> None:
    """Note that the secrets which go along with some jobs are used, to about a minute."""
    used = sorted({(job.project, each.name) for job in sent for each in job.sealed})
    if not used:
        return
    noted = secrets.c.last_used_at
    stale = (
        sa.select(secrets.c.id)
        .where(
            sa.tuple_(secrets.c.project, secrets.c.name).in_(used),
            # Later than now: by a clock that was set back since.
            sa.or_(noted.is_(None), noted < now - USE_NOTED_EVERY, noted > now + USE_NOTED_EVERY),
        )
        .order_by(secrets.c.id)
        .with_for_update(skip_locked=True)
    )
    if ids := connection.scalars(stale).all():
        connection.execute(secrets.update().where(secrets.c.id.in_(ids)).values(last_used_at=now))


def _wanted(naming: Collection[tuple[ClaimedJob, Named]]) -> Iterator[sa.Select[Any]]:
    """Yield the queries for what some jobs name; each with a bounded number of parameters."""
    is_request, is_webhook = (secrets.c.use == use.value for use in SecretUse)
    names = sorted({(job.project, name) for job, named in naming for name in named.names})
    for first in range(0, len(names), _NAMES_AT_ONCE):
        some = names[first : first + _NAMES_AT_ONCE]
        yield sa.select(secrets).where(is_request, sa.tuple_(secrets.c.project, secrets.c.name).in_(some))
    if called := sorted({job.project for job, named in naming if named.is_webhook}):
        yield sa.select(secrets).where(is_webhook, secrets.c.project.in_(called))


def _needed(job: ClaimedJob, named: Named | None, known: Iterable[StoredSecret]) -> list[StoredSecret]:
    if named is None:
        return []
    if not named.is_webhook:
        return [secret for secret in known if secret.use is SecretUse.REQUEST and secret.name in named.names]
    signing = [secret for secret in known if secret.use is SecretUse.WEBHOOK]
    if not signing:
        return []
    receiver = receiver_of(job)
    theirs = [secret for secret in signing if receiver in secret.origins]
    return sorted(theirs, key=lambda each: each.updated_at, reverse=True)[:MAX_SIGNING]


def _only(connection: sa.Connection, query: sa.Select[Any], otherwise: str) -> StoredSecret:
    found = next(_secrets(connection, query), None)
    if found is None:
        raise SecretNotFound(otherwise)
    return found


def _secrets(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[StoredSecret]:
    for row in connection.execute(query).mappings().all():
        previous = row["previous_box"]
        yield StoredSecret(
            **{
                **row,
                "use": SecretUse(row["use"]),
                "origins": tuple(row["origins"]),
                "box": bytes(row["box"]),
                "previous_box": None if previous is None else bytes(previous),
            }
        )


def _audit(
    connection: sa.Connection,
    action: AuditAction,
    secret: StoredSecret,
    more: Mapping[str, Any] | None = None,
    *,
    by: str,
    now: datetime,
) -> None:
    details = {"name": secret.name, "use": secret.use.value, "origins": [*secret.origins], **(more or {})}
    target, project = secret_target(secret.id), secret.project
    write_audit(connection, action, target=target, project=project, by=by, details=details, now=now)
