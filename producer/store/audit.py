"""The audit log: what operators and the scheduler did, written in the transaction that did it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.parking import AuditAction, AuditEntry
from producer.records import Found
from producer.store.page_bytes import read_page
from producer.store.projects import visible
from producer.store.schema import audit
from producer.store.sql import stored
from shared.events import EVERY
from shared.identity import new_id

_COLUMNS = [stored(column) if column.name == "details" else column for column in audit.c]
# An edited redrive keeps all arguments, old and new.
_LARGE = (audit.c.details, audit.c.by)


def write_audit(
    connection: sa.Connection,
    action: AuditAction,
    *,
    target: str,
    project: str | None,
    by: str,
    details: Mapping[str, Any],
    now: datetime,
) -> None:
    """Note one action.

    Args:
        target: To what it was done.
        project: Whose that is; None for the installation.
    """
    entry = {"at": now, "by": by, "action": action, "target": target, "details": dict(details)}
    connection.execute(audit.insert().values(id=new_id(), project=project, **entry))


def write_audits(
    connection: sa.Connection,
    actions: Iterable[tuple[AuditAction, str, str, Mapping[str, Any]]],
    *,
    by: str,
    now: datetime,
) -> None:
    """Note many actions of one actor: each with its target, whose that is, and its details."""
    rows = [
        {
            "id": new_id(),
            "at": now,
            "by": by,
            "action": action,
            "target": target,
            "details": dict(details),
            "project": project,
        }
        for action, target, project, details in actions
    ]
    if rows:
        connection.execute(audit.insert(), rows)


def list_audit(
    connection: sa.Connection, *, project: str | None, target: str | None, limit: int, after: UUID | None
) -> Found[AuditEntry]:
    """Return a page of entries, newest first, from below the id `after`: as many as fit."""
    rows = sa.select(audit.c.id).where(*visible(audit, project)).order_by(audit.c.id.desc())
    if target is not None:
        rows = rows.where(audit.c.target == target)
    if after is not None:
        rows = rows.where(audit.c.id < after)
    query = rows.with_only_columns(*_COLUMNS)
    found, following = read_page(connection, query, audit.c.id, _LARGE, limit=limit)
    return Found([AuditEntry(**row) for row in found], following)


def job_target(job_id: UUID) -> str:
    """Return how the log names a job."""
    return f"job/{job_id}"


def batch_target(batch_id: UUID) -> str:
    """Return how the log names a batch."""
    return f"batch/{batch_id}"


def schedule_target(schedule_id: UUID) -> str:
    """Return how the log names a schedule."""
    return f"schedule/{schedule_id}"


def operation_target(operation_id: UUID) -> str:
    """Return how the log names an operation."""
    return f"operation/{operation_id}"


def key_target(key_id: UUID) -> str:
    """Return how the log names an API key."""
    return f"key/{key_id}"


def secret_target(secret_id: UUID) -> str:
    """Return how the log names a secret."""
    return f"secret/{secret_id}"


def project_target(project: str) -> str:
    """Return how the log names a project."""
    return f"project/{project}"


def host_target(name: str) -> str:
    """Return the target of what was done to a host."""
    return f"host/{name}"


def queue_target(kind: str, lane: str) -> str:
    """Return how the log names a kind, or a lane over all kinds."""
    return f"lane/{lane}" if kind == EVERY else f"kind/{kind}"
