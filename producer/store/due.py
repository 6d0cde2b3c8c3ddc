"""Jobs whose time has come: the scheduled that are due, and those that nobody started before their deadline.

Two schedulers at once share the work: each locks a page and skips what the other has locked. A job that
has moved on by then no longer matches.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter

import sqlalchemy as sa

from producer.records import Transition
from producer.store.counters import Move, count_moves
from producer.store.events import announce_outcomes
from producer.store.schema import CAN_EXPIRE, HAS_A_RUN, IS_SCHEDULED, jobs, schedules
from producer.store.wakeup import announce_jobs
from shared.events import JobEnded
from shared.outcomes import EXPIRED
from shared.states import JobState, position

# A worker announces an attempt after half a second. A job that was started just before its deadline is not
# parked while that report is on its way.
EXPIRY_GRACE = timedelta(seconds=3)

_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.state,
    jobs.c.run,
    jobs.c.attempt,
    jobs.c.batch_id,
    jobs.c.callback_url,
)
_EXPLANATION = "No attempt was started before its deadline."


def next_due_at(connection: sa.Connection) -> datetime | None:
    """Return when a job or a schedule is due next, or a job expires; None when nothing has a time."""
    due_at: datetime | None = connection.scalar(sa.select(sa.func.min(jobs.c.due_at)).where(IS_SCHEDULED))
    deadline_at: datetime | None = connection.scalar(
        sa.select(sa.func.min(jobs.c.deadline_at)).where(CAN_EXPIRE)
    )
    run_at: datetime | None = connection.scalar(
        sa.select(sa.func.min(schedules.c.next_run_at)).where(HAS_A_RUN)
    )
    expires_at = deadline_at + EXPIRY_GRACE if deadline_at else None
    return min((at for at in (due_at, expires_at, run_at) if at), default=None)


def release_due(connection: sa.Connection, *, limit: int, now: datetime) -> list[Transition]:
    """Move scheduled jobs that are due to `accepted`, the longest due first, and wake the relay."""
    due = _lock(connection, sa.and_(IS_SCHEDULED, jobs.c.due_at <= now), by=jobs.c.due_at, limit=limit)
    released = _move(connection, due, JobState.ACCEPTED, {"due_at": None, "updated_at": now}, now=now)
    if released:
        announce_jobs(connection)
    return released


def expire_jobs(connection: sa.Connection, *, limit: int, now: datetime) -> list[Transition]:
    """Park jobs that were not started before their deadline, as `expired`; attempts stay as they are."""
    is_late = sa.and_(CAN_EXPIRE, jobs.c.deadline_at <= now - EXPIRY_GRACE)
    late = _lock(connection, is_late, by=jobs.c.deadline_at, limit=limit)
    values = {
        "reason": EXPIRED,
        "explanation": _EXPLANATION,
        "due_at": None,
        "claimed_until": None,
        "finished_at": now,
        "updated_at": now,
    }
    callback_urls = {row["id"]: row["callback_url"] for row in late if row["callback_url"]}
    announce_outcomes(connection, [_expired(row, now) for row in late], callback_urls, now=now)
    return _move(connection, late, JobState.PARKED, values, now=now)


def _lock(
    connection: sa.Connection, which: sa.ColumnElement[bool], *, by: sa.Column[datetime], limit: int
) -> Sequence[sa.RowMapping]:
    query = (
        sa.select(*_COLUMNS)
        .where(which)
        .order_by(by, jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    return connection.execute(query).mappings().all()


def _move(
    connection: sa.Connection,
    rows: Sequence[sa.RowMapping],
    state: JobState,
    values: Mapping[str, object],
    *,
    now: datetime,
) -> list[Transition]:
    for run, of_run in groupby(sorted(rows, key=itemgetter("run")), key=itemgetter("run")):
        there = position(run=run, attempt=0, state=state)
        ids = [row["id"] for row in of_run]
        connection.execute(
            jobs.update()
            .where(jobs.c.id.in_(ids), jobs.c.run == run, jobs.c.position < there)
            .values(state=state.value, position=there, **values)
        )
    count_moves(connection, [Move(row["batch_id"], JobState(row["state"]), state) for row in rows], now=now)
    reason = EXPIRED if state is JobState.PARKED else None
    return [Transition(row["id"], row["kind"], row["run"], row["attempt"], state, reason) for row in rows]


def _expired(row: sa.RowMapping, now: datetime) -> JobEnded:
    return JobEnded(
        job_id=row["id"],
        kind=row["kind"],
        run=row["run"],
        state=JobState.PARKED,
        attempt=row["attempt"],
        reason=EXPIRED,
        explanation=_EXPLANATION,
        batch_id=row["batch_id"],
        finished_at=now,
    )
