"""Bulk actions on jobs: an operation chooses its jobs at its start, and does a page a transaction."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.parking import (
    AuditAction,
    NewOperation,
    Operation,
    OperationAction,
    OperationPage,
    OperationState,
    ParkedFilter,
)
from producer.records import Found
from producer.store.audit import operation_target, write_audit
from producer.store.endings import cancel_locked
from producer.store.page_bytes import read_page
from producer.store.parking import has_next_run, leave_parking, matching
from producer.store.projects import EVERY_PROJECT, visible
from producer.store.rows import OPEN_STATES, lock_jobs
from producer.store.schema import IS_PARKED, IS_RUNNING_OPERATION, jobs, operation_jobs, operations
from producer.store.sql import count_under_lock, is_one_of, stored
from shared.errors import OperationFinished, OperationNotFound, QuotaReached
from shared.states import JobState

# A page is what the rate gives in this time, so progress is smooth and a crash repeats nothing.
PAGE_SECONDS = 0.5
# Of a list; one statement has a time limit.
_CHUNK_IDS = 1_000
# The lowest rate makes a page a second; a time further off was written before the clock was set back.
_FURTHEST_PAGE = timedelta(seconds=10)
_COLUMNS = [stored(column) if column.name == "filter" else column for column in operations.c]
_STARTED = {
    OperationAction.REDRIVE: AuditAction.REDRIVE_STARTED,
    OperationAction.DISCARD: AuditAction.DISCARD_STARTED,
    OperationAction.CANCEL: AuditAction.CANCEL_STARTED,
}


def start_operation(
    connection: sa.Connection,
    new: NewOperation,
    which: ParkedFilter | Iterable[UUID],
    *,
    most: int | None = None,
) -> Operation:
    """Store an operation and choose its jobs: those that match or are listed. A ledger does it.

    Chosen are jobs that are parked now or, to be cancelled, have not ended.

    A list is read a thousand ids at a time. SQLite has no other writer until the last is read, so it may not
    wait for a network.

    Args:
        most: How many operations may run at a time: each has a list of its jobs.

    Raises:
        QuotaReached: as many run already.
    """
    now = new.created_at
    if most is not None and count_under_lock(connection, operations, IS_RUNNING_OPERATION) >= most:
        raise QuotaReached(
            f"{most:,} operations run, which is the most (RETRIEVER_MAX_OPERATIONS). "
            "Wait for one of them, or cancel it."
        )
    _insert(connection, new)
    total = _choose_jobs(connection, new, which)
    _change(connection, new.id, {"total": total, **({} if total else _end(OperationState.DONE, now))})
    details = {
        "filter": dict(new.filter_document),
        "rate_per_second": new.rate_per_second,
        "total": total,
    }
    write_audit(
        connection,
        _STARTED[new.action],
        target=operation_target(new.id),
        project=new.project,
        by=new.by,
        details=details,
        now=now,
    )
    return get_operation(connection, new.id, project=new.project)


def count_listed(connection: sa.Connection, new: NewOperation, ids: Iterable[UUID]) -> int:
    """Return how many jobs an operation on listed jobs would have; nothing is left of it."""
    # A list may name a job twice, and be longer than memory is large: the table knows what it has.
    _insert(connection, new)
    total = _choose_jobs(connection, new, ids)
    connection.execute(operation_jobs.delete().where(operation_jobs.c.operation_id == new.id))
    connection.execute(operations.delete().where(operations.c.id == new.id))
    return total


def get_operation(connection: sa.Connection, operation_id: UUID, *, project: str | None) -> Operation:
    """Return the operation.

    Raises:
        OperationNotFound: no row has this id, for a caller of this project.
    """
    query = sa.select(*_COLUMNS).where(operations.c.id == operation_id, *visible(operations, project))
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise OperationNotFound(f"no operation has the id {operation_id}")
    return _operation(row)


def list_operations(
    connection: sa.Connection, *, project: str | None, limit: int, after: UUID | None
) -> Found[Operation]:
    """Return a page of operations, newest first, from below the id `after`: as many as fit."""
    query = sa.select(*_COLUMNS).where(*visible(operations, project)).order_by(operations.c.id.desc())
    if after is not None:
        query = query.where(operations.c.id < after)
    # A filter may have a thousand ids.
    found, following = read_page(connection, query, operations.c.id, [operations.c.filter], limit=limit)
    return Found([_operation(row) for row in found], following)


def cancel_operation(
    connection: sa.Connection, operation_id: UUID, *, project: str | None, by: str, now: datetime
) -> Operation:
    """End a running operation; what it has done stays done. Cancelling it again changes nothing.

    Raises:
        OperationNotFound: no row has this id, for a caller of this project.
        OperationFinished: it has done all its jobs.
    """
    here = [operations.c.id == operation_id, *visible(operations, project)]
    match connection.scalar(sa.select(operations.c.state).where(*here).with_for_update()):
        case OperationState.RUNNING:
            _change(connection, operation_id, _end(OperationState.CANCELLED, now))
            connection.execute(operation_jobs.delete().where(operation_jobs.c.operation_id == operation_id))
            cancelled = get_operation(connection, operation_id, project=project)
            write_audit(
                connection,
                AuditAction.OPERATION_CANCELLED,
                target=operation_target(operation_id),
                project=cancelled.project,
                by=by,
                details={"total": cancelled.total, "done": cancelled.done, "skipped": cancelled.skipped},
                now=now,
            )
        case OperationState.DONE:
            raise OperationFinished(f"operation {operation_id} is done")
    return get_operation(connection, operation_id, project=project)


def next_page_at(connection: sa.Connection, *, now: datetime) -> datetime | None:
    """Return when the next page of any operation may be made; None when no operation runs."""
    next_at: datetime | None = connection.scalar(
        sa.select(sa.func.min(operations.c.next_at)).where(IS_RUNNING_OPERATION)
    )
    return now if next_at and next_at > now + _FURTHEST_PAGE else next_at


def make_page(connection: sa.Connection, *, now: datetime, most: int | None = None) -> OperationPage | None:
    """Do the next page of the operation that is due first, its progress in the same transaction.

    Args:
        most: How many jobs the page has at most; None for what the operation's rate gives.

    Returns:
        What was done; None when nothing is due, or another ledger is at it.
    """
    row = _lock_due(connection, now)
    if row is None:
        return None
    operation = _operation(row)
    chosen = _take_jobs(connection, operation, most)
    standing = lock_jobs(connection, chosen)
    # A job that somebody has dealt with since is no longer this operation's, even if it is parked again.
    same_run = {job_id: where for job_id, where in standing.items() if where.run == chosen[job_id]}
    if operation.action is OperationAction.CANCEL:
        unfinished = {job_id: where for job_id, where in same_run.items() if not where.state.is_final}
        moved = cancel_locked(connection, unfinished, now=now)
    else:
        parked = {
            job_id: where
            for job_id, where in same_run.items()
            if where.state is JobState.PARKED and has_next_run(where)
        }
        moved = leave_parking(connection, operation.action, parked, by=operation.by, now=now)
    done, skipped = operation.done + len(moved), operation.skipped + len(chosen) - len(moved)
    next_at = _next_at(row["next_at"], len(chosen), operation.rate_per_second, now=now)
    end = _end(OperationState.DONE, now) if done + skipped >= operation.total else {}
    _change(connection, operation.id, {"done": done, "skipped": skipped, "next_at": next_at, **end})
    return OperationPage(get_operation(connection, operation.id, project=EVERY_PROJECT), moved)


def skip_job(connection: sa.Connection, *, now: datetime) -> UUID | None:
    """Skip the next job of the operation that is due first, and return its id."""
    row = _lock_due(connection, now)
    if row is None:
        return None
    operation = _operation(row)
    chosen = _take_jobs(connection, operation, 1)
    skipped = operation.skipped + len(chosen)
    end = _end(OperationState.DONE, now) if operation.done + skipped >= operation.total else {}
    _change(connection, operation.id, {"skipped": skipped, **end})
    return next(iter(chosen), None)


def _lock_due(connection: sa.Connection, now: datetime) -> sa.RowMapping | None:
    # The lock is the lease: a ledger that dies loses it with its transaction, and the page is rolled back.
    due = (
        sa.select(*_COLUMNS)
        .where(
            IS_RUNNING_OPERATION,
            sa.or_(operations.c.next_at <= now, operations.c.next_at > now + _FURTHEST_PAGE),
        )
        .order_by(operations.c.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(due).mappings().one_or_none()


def _insert(connection: sa.Connection, new: NewOperation) -> None:
    connection.execute(
        operations.insert().values(
            id=new.id,
            action=new.action,
            filter=dict(new.filter_document),
            rate_per_second=new.rate_per_second,
            by=new.by,
            project=new.project,
            state=OperationState.RUNNING,
            total=0,
            done=0,
            skipped=0,
            next_at=new.created_at,
            created_at=new.created_at,
        )
    )


def _choose_jobs(connection: sa.Connection, new: NewOperation, which: ParkedFilter | Iterable[UUID]) -> int:
    columns = sa.literal(new.id, sa.Uuid()), jobs.c.id, jobs.c.run
    if isinstance(which, ParkedFilter):
        _list_jobs(connection, matching(which, *columns, project=new.project))
    else:
        listed = operation_jobs.c.operation_id == new.id, operation_jobs.c.job_id == jobs.c.id
        is_new = ~sa.exists().where(*listed)
        remaining = iter(which)
        while ids := set(islice(remaining, _CHUNK_IDS)):
            here = is_one_of(connection, jobs.c.id, ids), *visible(jobs, new.project)
            is_open = jobs.c.state.in_(OPEN_STATES)
            is_meant = is_open if new.action is OperationAction.CANCEL else IS_PARKED
            _list_jobs(connection, sa.select(*columns).where(is_meant, *here, is_new))
    query = sa.select(sa.func.count()).where(operation_jobs.c.operation_id == new.id)
    return connection.scalar(query) or 0


def _list_jobs(connection: sa.Connection, chosen: sa.Select[Any] | sa.CompoundSelect[Any]) -> None:
    names = ["operation_id", "job_id", "run"]
    connection.execute(operation_jobs.insert().from_select(names, chosen))


def _take_jobs(connection: sa.Connection, operation: Operation, most: int | None) -> dict[UUID, int]:
    """Take the next page off the operation's list; return the run in which each job was parked."""
    of_operation = operation_jobs.c.operation_id == operation.id
    page = (
        sa.select(operation_jobs.c.job_id, operation_jobs.c.run)
        .where(of_operation)
        .order_by(operation_jobs.c.job_id)
        .limit(most or max(1, int(operation.rate_per_second * PAGE_SECONDS)))
    )
    runs = {row.job_id: row.run for row in connection.execute(page)}
    connection.execute(operation_jobs.delete().where(of_operation, operation_jobs.c.job_id.in_(list(runs))))
    return runs


def _next_at(next_at: datetime, jobs_done: int, rate_per_second: int, *, now: datetime) -> datetime:
    # A ledger that woke late may catch up by one page, never by a whole pause.
    since = max(min(next_at, now), now - timedelta(seconds=PAGE_SECONDS))
    return since + timedelta(seconds=jobs_done / rate_per_second)


def _change(connection: sa.Connection, operation_id: UUID, values: dict[str, object]) -> None:
    connection.execute(operations.update().where(operations.c.id == operation_id).values(values))


def _end(state: OperationState, now: datetime) -> dict[str, object]:
    return {"state": state, "finished_at": now}


def _operation(row: sa.RowMapping) -> Operation:
    fields = {name: value for name, value in row.items() if name not in {"filter", "next_at"}}
    return Operation(**fields, filter_document=row["filter"])
