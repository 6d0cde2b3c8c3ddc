"""Delete what is over: jobs that ended long ago and expired keys. Batches go whole, so that no count lies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.parking import DELETED_STATES, RUN_ACTIONS, SCHEDULER
from producer.quotas import EVERY_PROJECT_LIMITS, LimitName
from producer.records import DeletedPage
from producer.store.quotas import count_stored, limits_in_force, read_limits
from producer.store.rows import first_id
from producer.store.schema import audit, batches, idempotency_keys, jobs, rejected_lines
from shared.states import JobState

_KEPT = [state for state in JobState if state not in DELETED_STATES]


def delete_single_jobs(
    connection: sa.Connection, state: JobState, *, before: datetime, after: UUID | None, limit: int
) -> DeletedPage:
    """Look at up to `limit` jobs of a final state, oldest first from above `after`; delete those due.

    Due are jobs of no batch that ended before the time. Their attempts and redrives go with them. Ids are
    UUIDv7, so the index on (state, id) is in the order of age and nothing else is needed.
    """
    query = (
        sa.select(jobs.c.id, jobs.c.batch_id, jobs.c.finished_at)
        .where(jobs.c.state == state, jobs.c.id < first_id(before))
        .order_by(jobs.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(jobs.c.id > after)
    rows = connection.execute(query).all()
    due = [job_id for job_id, batch_id, ended_at in rows if batch_id is None and ended_at <= before]
    return DeletedPage(_delete_jobs(connection, due), rows[-1].id if len(rows) == limit else None)


def expire_batches(
    connection: sa.Connection, *, before: datetime, after: UUID | None, limit: int, now: datetime
) -> UUID | None:
    """Hide, of the next `limit` batches, those whose jobs all ended before the time; parked jobs keep theirs.

    Returns:
        The id to go on from; None after the last batch that is old enough.
    """
    query = (
        sa.select(batches.c.id)
        .where(batches.c.expired_at.is_(None), batches.c.id < first_id(before))
        .order_by(batches.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(batches.c.id > after)
    page = connection.scalars(query).all()
    of_batch = jobs.c.batch_id == batches.c.id
    is_kept = sa.exists().where(of_batch, jobs.c.state.in_(_KEPT))
    is_young = sa.exists().where(of_batch, jobs.c.finished_at > before)
    connection.execute(
        batches.update().where(batches.c.id.in_(page), ~is_kept, ~is_young).values(expired_at=now)
    )
    return page[-1] if len(page) == limit else None


def expired_batches(connection: sa.Connection) -> list[UUID]:
    """Return the batches that are hidden and still to be deleted."""
    query = sa.select(batches.c.id).where(batches.c.expired_at.is_not(None)).order_by(batches.c.id)
    return list(connection.scalars(query))


def delete_of_batch(connection: sa.Connection, batch_id: UUID, *, limit: int) -> int:
    """Delete up to `limit` jobs of an expired batch, and the batch itself after the last; return how many."""
    chosen = connection.scalars(sa.select(jobs.c.id).where(jobs.c.batch_id == batch_id).limit(limit)).all()
    if len(chosen) < limit:
        _delete_jobs(connection, chosen)
        connection.execute(batches.delete().where(batches.c.id == batch_id))
        return len(chosen)
    return _delete_jobs(connection, chosen)


def forget_expired_keys(connection: sa.Connection, *, limit: int, now: datetime) -> int:
    """Delete up to `limit` keys whose time is over; return how many."""
    expired = (
        sa.select(idempotency_keys.c.scope, idempotency_keys.c.key)
        .where(idempotency_keys.c.expires_at <= now)
        .limit(limit)
    )
    here = sa.tuple_(idempotency_keys.c.scope, idempotency_keys.c.key)
    return connection.execute(idempotency_keys.delete().where(here.in_(expired))).rowcount


def forget_runs(connection: sa.Connection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` audit entries of what the scheduler did before a time; return how many.

    A schedule may run every second; what people did is kept.
    """
    old = (
        sa.select(audit.c.id)
        .where(audit.c.id < first_id(before), audit.c.action.in_(RUN_ACTIONS), audit.c.by == SCHEDULER)
        .limit(limit)
    )
    return connection.execute(audit.delete().where(audit.c.id.in_(old))).rowcount


def forget_audit(connection: sa.Connection, project: str, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` audit entries of a project, of before a time; return how many."""
    old = (
        sa.select(audit.c.id)
        .where(audit.c.project == project, audit.c.id < first_id(before))
        .order_by(audit.c.id)
        .limit(limit)
    )
    return connection.execute(audit.delete().where(audit.c.id.in_(old))).rowcount


def batches_with_rejected(
    connection: sa.Connection, project: str, *, before: datetime, limit: int
) -> list[UUID]:
    """Return batches of a project of before a time that still list lines that became no job."""
    query = (
        sa.select(batches.c.id)
        .where(batches.c.project == project, batches.c.id < first_id(before), batches.c.rejected > 0)
        .where(sa.or_(batches.c.rejected_kept.is_(None), batches.c.rejected_kept > 0))
        .order_by(batches.c.id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def note_rejected_gone(connection: sa.Connection, batch_id: UUID) -> None:
    """Say of a batch that it lists none of its lines that became no job; they stay counted."""
    connection.execute(batches.update().where(batches.c.id == batch_id).values(rejected_kept=0))


def projects_with(connection: sa.Connection, name: LimitName) -> Mapping[str, int]:
    """Return the projects for which a limit is set, each with its value.

    Where it is set for every project, those that have something in the audit log or a batch are all projects.
    """
    limits = read_limits(connection)
    names = set(limits.by_project) - {EVERY_PROJECT_LIMITS}
    if name in limits.of(EVERY_PROJECT_LIMITS):
        names |= _projects(connection, audit.c.project) | _projects(connection, batches.c.project)
    return {
        project: value for project in sorted(names) if (value := limits.of(project).get(name)) is not None
    }


def delete_rejected(connection: sa.Connection, batch_id: UUID, *, limit: int) -> int:
    """Delete up to `limit` rejected lines of a batch; return how many."""
    of_batch = rejected_lines.c.batch_id == batch_id
    numbers = connection.scalars(sa.select(rejected_lines.c.number).where(of_batch).limit(limit)).all()
    if numbers:
        connection.execute(rejected_lines.delete().where(of_batch, rejected_lines.c.number.in_(numbers)))
    return len(numbers)


def _projects(connection: sa.Connection, column: sa.Column[str]) -> set[str]:
    """Return the values of a column that an index begins with: one look for each, however many rows."""
    found: set[str] = set()
    after = ""
    query = sa.select(column).where(column > sa.bindparam("after")).order_by(column).limit(1)
    while (following := connection.scalar(query, {"after": after})) is not None:
        found.add(following)
        after = following
    return found


def _delete_jobs(connection: sa.Connection, job_ids: Sequence[UUID]) -> int:
    if not job_ids:
        return 0
    # Checked again, because another janitor or an operator may have been faster.
    is_final = jobs.c.state.in_(DELETED_STATES)
    deletion = jobs.delete().where(jobs.c.id.in_(job_ids), is_final)
    if not limits_in_force(connection):
        return connection.execute(deletion).rowcount
    gone = connection.execute(deletion.returning(jobs.c.project, jobs.c.kind)).all()
    count_stored(connection, {each: -number for each, number in Counter(map(tuple, gone)).items()})
    return len(gone)
