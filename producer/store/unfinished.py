"""Jobs that are under way in the broker, or ought to be: read in windows, and marked when sent again.

A window is a number of rows of the index on (state, id), so each costs the same, whatever else the table
holds and however few rows match. An index on `updated_at` would be written at every change of every job.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.parking import AuditAction
from producer.records import ClaimedJob, UnfinishedJob, UnfinishedPage, WaitingJob
from producer.store.audit import queue_target, write_audit
from producer.store.outbox import as_sent
from producer.store.page_bytes import fitting, row_bytes
from producer.store.rows import CLAIM_COLUMNS, claimed_job, columns_of, first_id
from producer.store.schema import jobs
from producer.store.sql import Moment, is_one_of
from shared.clock import utc_now
from shared.kinds.registry import KINDS, Lane
from shared.states import UNDER_WAY, JobState

WINDOW_JOBS = 5_000
PAGE_JOBS = 500
# Counting stops at so many overdue jobs, and looks at the oldest `_COUNTED_JOBS` of a state alone.
MOST_OVERDUE = 10_000
_COUNTED_JOBS = 20_000
# So many of the newest jobs of a state are looked at, and so many looked through for those of workers.
_NEWEST_JOBS = 500
_NEWEST_ENTRIES = 20_000
# Tasks wait in the store, for as long as it takes: the broker has nothing of them.
_IS_BROKERED = jobs.c.kind.not_in([kind.name for kind in KINDS.values() if kind.is_pulled])
_MILLISECOND = timedelta(milliseconds=1)
Columns = sa.sql.base.ReadOnlyColumnCollection[str, Any]
# Sent again, a job is alone in its message.
_TOUCH = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("job_id"), jobs.c.position == sa.bindparam("same_position"))
    .values(updated_at=sa.bindparam("sent_at", type_=Moment()), is_bundled=False)
)
_WAITING_COLUMNS = columns_of(WaitingJob, jobs)


def read_page(
    connection: sa.Connection,
    state: JobState,
    queues: Collection[tuple[str, Lane]],
    *,
    heard_before: datetime,
    due_before: datetime | None = None,
    after: UUID | None,
    window_jobs: int = WINDOW_JOBS,
) -> UnfinishedPage:
    """Return jobs of the next window that have not been heard of since a time.

    The page may be empty though more follow.

    Args:
        state: The state that they are in.
        queues: The kinds and lanes that they may be of.
        heard_before: Only jobs that nothing was heard of since.
        due_before: Only jobs that have no due time, or are due by then.
        after: The id to go on from.
        window_jobs: How many rows are read at most.
    """
    return _page(
        connection,
        [jobs.c.state == state, *([jobs.c.id > after] if after else [])],
        [_is_of(queues), *_is_unheard(jobs.c, heard_before, due_before)],
        window_jobs=window_jobs,
    )


def read_silent(
    connection: sa.Connection,
    state: JobState,
    silent_since: Mapping[tuple[str, Lane], datetime],
    *,
    created_before: datetime | None,
    after: UUID | None,
    window_jobs: int = WINDOW_JOBS,
) -> UnfinishedPage:
    """Return jobs of the next window that have not been heard of, and were due, since a time of their lane.

    The page may be empty though more follow.

    Args:
        state: The state that they are in.
        silent_since: The times, by kind and lane; no other lane is looked at.
        created_before: Reads no row whose id was made later, so nothing of a backlog. None reads all rows:
            the ids that third parties make need not tell the time.
        after: The id to go on from.
        window_jobs: How many rows are read at most.
    """
    here = [jobs.c.state == state, *([jobs.c.id > after] if after else [])]
    if created_before is not None:
        here.append(jobs.c.id < first_id(created_before))
    each = (
        sa.and_(jobs.c.kind == kind, jobs.c.lane == lane, *_is_unheard(jobs.c, since, since))
        for (kind, lane), since in sorted(silent_since.items())
    )
    return _page(connection, here, [sa.or_(sa.false(), *each)], window_jobs=window_jobs)


def newest_waiting(connection: sa.Connection, *, now: datetime) -> list[WaitingJob]:
    """Return which of the newest jobs under way wait in work queues, the newest first of each state.

    Looks through a bounded number of tasks that are newer.
    """
    found: list[WaitingJob] = []
    for state in (JobState.QUEUED, JobState.DELAYED):
        entries = (
            sa.select(jobs.c.id, _IS_BROKERED.label("is_brokered"))
            # The ids of third parties may be of any time to come, and hide all others.
            .where(jobs.c.state == state, jobs.c.id < first_id(now + _MILLISECOND))
            .order_by(jobs.c.id.desc())
            .limit(_NEWEST_ENTRIES)
            .subquery()
        )
        newest = sa.select(entries.c.id).where(entries.c.is_brokered).order_by(entries.c.id.desc())
        newest = newest.limit(_NEWEST_JOBS)
        query = sa.select(*_WAITING_COLUMNS).where(jobs.c.id.in_(newest)).order_by(jobs.c.id.desc())
        waiting = (WaitingJob(*row) for row in connection.execute(query).all())
        found += (job for job in waiting if job.due_at is None or job.due_at <= now)
    return found


def look_again(connection: sa.Connection, ids: Collection[UUID]) -> list[WaitingJob]:
    """Return what became of jobs that waited; those that were deleted are missing."""
    query = sa.select(*_WAITING_COLUMNS).where(is_one_of(connection, jobs.c.id, ids))
    return [WaitingJob(*row) for row in connection.execute(query).all()]


def mark_sent(connection: sa.Connection, sent: Iterable[tuple[UUID, int]], *, now: datetime) -> None:
    """Note that jobs were sent again, as (id, position); one that has moved on stays as it is."""
    rows = [{"job_id": job_id, "same_position": here, "sent_at": now} for job_id, here in sorted(sent)]
    if rows:
        connection.execute(_TOUCH, rows)


def count_overdue(connection: sa.Connection, state: JobState, *, heard_before: datetime) -> int:
    """Return how many of the oldest jobs of a state are overdue; at most `MOST_OVERDUE`."""
    which = [jobs.c.state == state, _IS_BROKERED]
    # From the index alone, as in `_page`.
    lowest = connection.scalar(sa.select(jobs.c.id).where(*which).order_by(jobs.c.id).limit(1))
    if lowest is None:
        return 0
    oldest = (
        sa.select(jobs.c.updated_at, jobs.c.due_at)
        .where(*which, jobs.c.id >= lowest)
        .order_by(jobs.c.id)
        .limit(_COUNTED_JOBS)
        .subquery()
    )
    overdue = (
        sa.select(sa.literal(1))
        .where(*_is_unheard(oldest.c, heard_before, heard_before))
        .limit(MOST_OVERDUE)
        .subquery()
    )
    return connection.scalar(sa.select(sa.func.count()).select_from(overdue)) or 0


def count_under_way(
    connection: sa.Connection, queues: Collection[tuple[str, Lane]]
) -> Mapping[JobState, int]:
    """Return how many jobs of these kinds and lanes are queued, delayed or running: reads all of them."""
    query = (
        sa.select(jobs.c.state, sa.func.count())
        .where(jobs.c.state.in_(UNDER_WAY), _is_of(queues))
        .group_by(jobs.c.state)
    )
    return dict(connection.execute(query).all())


def note_republished(
    connection: sa.Connection, kind: str, lane: str, *, counts: Mapping[str, int], by: str, now: datetime
) -> None:
    """Write into the audit log that jobs were sent again; `*` is every kind or lane."""
    write_audit(
        connection,
        AuditAction.REPUBLISHED,
        target=queue_target(kind, lane),
        project=None,
        by=by,
        details={"kind": kind, "lane": lane, "sent": dict(counts)},
        now=now,
    )


def _page(
    connection: sa.Connection,
    here: list[sa.ColumnElement[bool]],
    which: list[sa.ColumnElement[bool]],
    *,
    window_jobs: int,
) -> UnfinishedPage:
    # The first and the last row of the window, from the index alone, so that a million tasks are soon passed
    # over; no last one when the window reaches to the end.
    ids = sa.select(jobs.c.id).where(*here, _IS_BROKERED).order_by(jobs.c.id)
    if (lowest := connection.scalar(ids.limit(1))) is None:
        return UnfinishedPage([], None)
    last_id: UUID | None = connection.scalar(ids.offset(window_jobs - 1).limit(1))
    until = [jobs.c.id >= lowest, *([jobs.c.id <= last_id] if last_id is not None else [])]
    found = sa.select(jobs.c.id).where(*here, *until, *which).order_by(jobs.c.id)
    sizes = found.add_columns(row_bytes(connection.dialect.name, jobs.c.args)).limit(PAGE_JOBS)
    sized = connection.execute(sizes).all()
    if not sized:
        return UnfinishedPage([], last_id)
    last_read = fitting((job_id, size) for job_id, size in sized)[-1]
    columns = (jobs.c.state, jobs.c.position, jobs.c.attempt, jobs.c.due_at, jobs.c.updated_at)
    query = found.with_only_columns(*CLAIM_COLUMNS, *columns).where(jobs.c.id <= last_read)
    rows = connection.execute(query).all()
    messages = as_sent(connection, [claimed_job(row) for row in rows], now=utc_now())
    unfinished = [_unfinished(message, row) for message, row in zip(messages, rows, strict=True)]
    is_full = len(sized) == PAGE_JOBS or last_read != sized[-1].id
    return UnfinishedPage(unfinished, last_read if is_full else last_id)


def _unfinished(message: ClaimedJob, row: sa.Row[Any]) -> UnfinishedJob:
    return UnfinishedJob(
        message=message,
        state=row.state,
        position=row.position,
        attempt=row.attempt,
        due_at=row.due_at,
        heard_at=row.updated_at,
    )


def _is_of(queues: Collection[tuple[str, Lane]]) -> sa.ColumnElement[bool]:
    each = (sa.and_(jobs.c.kind == kind, jobs.c.lane == lane) for kind, lane in sorted(queues))
    return sa.or_(sa.false(), *each)


def _is_unheard(
    columns: Columns, heard_before: datetime, due_before: datetime | None
) -> list[sa.ColumnElement[bool]]:
    is_unheard = [columns["updated_at"] <= heard_before]
    if due_before is not None:
        is_unheard.append(sa.or_(columns["due_at"].is_(None), columns["due_at"] <= due_before))
    return is_unheard
