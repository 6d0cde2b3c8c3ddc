"""The parking lot: its groups of jobs, which of them a filter matches, and how jobs leave it.

A job that has left still has a message in `jobs.parked`; `redrives` holds it until a ledger has removed it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.figures import ParkedCount
from producer.parking import (
    ANONYMOUS,
    DISCARDED,
    FINGERPRINT_CHARACTERS,
    AuditAction,
    GroupKey,
    MovedJob,
    OperationAction,
    ParkedFilter,
    ParkedGroup,
    ParkedGroups,
)
from producer.records import JobRecord, Recorded, Transition
from producer.store.audit import job_target, write_audit
from producer.store.batches import Move, count_moves
from producer.store.endings import end_jobs, end_of
from producer.store.page_bytes import read_page
from producer.store.projects import visible, visible_of_batch
from producer.store.queries import get_job
from producer.store.rows import (
    JOB_COLUMNS,
    LARGE_COLUMNS,
    Standing,
    job_record,
    lock_job,
    lock_jobs,
    stored_host,
    write_jobs,
)
from producer.store.schema import IS_PARKED, IS_PARKED_LONG, IS_PARKED_SHORT, jobs, redrives
from producer.store.sql import PlainText
from producer.store.wakeup import announce_waiting
from shared.broker.topology import PARKED_QUEUE
from shared.errors import JobNotParked, RunsExhausted
from shared.kinds.registry import waiting_state
from shared.kinds.task import queue_of
from shared.messages import MAX_RUN, Report
from shared.states import JobState, position

_NO_BATCH = UUID(int=0)
_FIRST_TIME, _LAST_TIME = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
# A person has decided on the job: an old deadline or cancellation would end its next run at once.
_FRESH = {"deadline_at": None, "cancel_requested_at": None}
_WITHOUT_RESULT = [sa.null().label("result") if column.key == "result" else column for column in JOB_COLUMNS]
_SETTLE = redrives.update().where(
    redrives.c.job_id == sa.bindparam("of_job"),
    redrives.c.run == sa.bindparam("of_run"),
    redrives.c.swept_at.is_(None),
)


def list_groups(
    connection: sa.Connection, parked_filter: ParkedFilter, *, project: str | None, limit: int
) -> ParkedGroups:
    """Return the largest groups of the jobs that match. One query, on the indexes of parked jobs."""
    groups = _groups(parked_filter, project, limit).cte("parked_groups")
    sample = jobs.alias("sample")
    query = (
        sa.select(groups, sample.c.explanation)
        .select_from(groups)
        .join(sample, sample.c.id == groups.c.newest)
        .order_by(groups.c.jobs.desc(), groups.c.kind, groups.c.reason, groups.c.host)
    )
    rows = connection.execute(query).mappings().all()
    return ParkedGroups(
        largest=[_group(row) for row in rows],
        total_groups=rows[0]["total_groups"] if rows else 0,
        total_jobs=int(rows[0]["total_jobs"]) if rows else 0,
    )


def count_groups(connection: sa.Connection, *, limit: int) -> list[ParkedCount]:
    """Return the largest groups of all parked jobs, those of each project apart."""
    parts = sa.union_all(*(_by_reason(part, jobs.c.project) for part in _parts(ParkedFilter(), None)))
    found = parts.subquery("parts").c
    by = (found.project, found.kind, _fingerprint(found.reason), found.host)
    count = sa.cast(sa.func.sum(found.jobs), sa.BigInteger())
    query = (
        sa.select(
            *by,
            count,
            sa.func.min(found.first_parked_at),
            sa.func.max(found.last_parked_at),
            sa.cast(sa.func.max(found.newest), sa.Uuid()),
        )
        .group_by(*by)
        .order_by(count.desc(), *by)
        .limit(limit)
    )
    return [
        ParkedCount(project, GroupKey(kind, reason, host), number, first, last, newest)
        for project, kind, reason, host, number, first, last, newest in connection.execute(query)
    ]


def count_parked(connection: sa.Connection) -> dict[str, int]:
    """Return how many jobs of each project are parked."""
    parts = sa.union_all(
        *(
            sa.select(jobs.c.project, sa.func.count().label("jobs")).where(*part).group_by(jobs.c.project)
            for part in _parts(ParkedFilter(), None)
        )
    ).subquery("parts")
    number = sa.cast(sa.func.sum(parts.c.jobs), sa.BigInteger())
    return dict(connection.execute(sa.select(parts.c.project, number).group_by(parts.c.project)).all())


def count_matching(connection: sa.Connection, parked_filter: ParkedFilter, *, project: str | None) -> int:
    """Return how many parked jobs match."""
    matched = matching(parked_filter, jobs.c.id, project=project).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(matched)) or 0


def matching(
    parked_filter: ParkedFilter, *columns: sa.ColumnElement[Any], project: str | None
) -> sa.CompoundSelect[Any]:
    """Return the query of the parked jobs that match; it reads no row for columns that the index has."""
    return sa.union_all(*(sa.select(*columns).where(*part) for part in _parts(parked_filter, project)))


def runs_of(connection: sa.Connection, job_ids: Iterable[UUID]) -> dict[UUID, tuple[int, JobState]]:
    """Return the run and state of each job; unknown ids are missing."""
    query = sa.select(jobs.c.id, jobs.c.run, jobs.c.state).where(jobs.c.id.in_(sorted(set(job_ids))))
    return {job_id: (run, state) for job_id, run, state in connection.execute(query)}


def parked_page(
    connection: sa.Connection, *, recorded_before: datetime, after: UUID | None, limit: int
) -> list[JobRecord]:
    """Return a page of jobs parked for some time, oldest id first, above the id `after`: as many as fit.

    They come without their attempts and results.
    """
    query = sa.select(*_WITHOUT_RESULT).where(IS_PARKED, jobs.c.updated_at <= recorded_before)
    if after is not None:
        query = query.where(jobs.c.id > after)
    found, _ = read_page(connection, query.order_by(jobs.c.id), jobs.c.id, LARGE_COLUMNS, limit=limit)
    return [job_record(row) for row in found]


def redrive(
    connection: sa.Connection, job_id: UUID, *, project: str | None, now: datetime, by: str = ANONYMOUS
) -> JobRecord:
    """Start a parked job's next run and return the job, which waits with fresh attempts beside the old ones.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        JobNotParked: the job is in another state; of two redrives at once, the second finds it accepted.
    """
    standing = _lock_parked(connection, job_id, project=project)
    leave_parking(connection, OperationAction.REDRIVE, {job_id: standing}, by=by, now=now)
    _audit_one(connection, AuditAction.JOB_REDRIVEN, job_id, standing, by=by, now=now)
    return get_job(connection, job_id, project=project)


def redrive_edited(
    connection: sa.Connection,
    job_id: UUID,
    *,
    project: str | None,
    args: Mapping[str, Any],
    host: str,
    unique_key: bytes,
    by: str,
    now: datetime,
) -> JobRecord:
    """Start a parked job's next run with other arguments, which the audit log keeps beside the old ones.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        JobNotParked: the job is in another state.
    """
    standing = _lock_parked(connection, job_id, project=project)
    old_args = connection.scalar(sa.select(jobs.c.args).where(jobs.c.id == job_id))
    edited = {
        "args": args,
        "host": stored_host(host),
        "queue": queue_of(standing.kind, args),
        "unique_key": unique_key,
    }
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(edited))
    # What it asks now is no other job's question.
    standing = replace(standing, same_as=None)
    leave_parking(connection, OperationAction.REDRIVE, {job_id: standing}, by=by, now=now)
    edit = {"old_args": old_args, "new_args": args}
    _audit_one(connection, AuditAction.JOB_REDRIVEN, job_id, standing, by=by, now=now, more=edit)
    return get_job(connection, job_id, project=project)


def redrive_moved(
    connection: sa.Connection,
    asked: Sequence[Report],
    *,
    now: datetime,
    unproven: Collection[int] = frozenset(),
) -> Recorded:
    """Start the next run of parked jobs whose messages somebody has moved from `jobs.parked` to work.

    A job that is no longer parked in the run of its message stays as it is, so asking twice changes nothing.

    Args:
        unproven: The places of those that came without the token of their run.
    """
    standing = lock_jobs(connection, (report.job_id for report in asked))
    there = [(place, report) for place, report in enumerate(asked) if report.job_id in standing]
    disbelieved = frozenset(
        place
        for place, report in there
        if place in unproven and standing[report.job_id].needs_token(report.run)
    )
    parked = {
        report.job_id: where
        for place, report in there
        if place not in disbelieved
        and (where := standing[report.job_id]).state is JobState.PARKED
        and where.run == report.run
        and has_next_run(where)
    }
    moved = leave_parking(connection, OperationAction.REDRIVE, parked, by=PARKED_QUEUE, now=now)
    for job_id, where in sorted(parked.items()):
        _audit_one(connection, AuditAction.JOB_REDRIVEN, job_id, where, by=PARKED_QUEUE, now=now)
    transitions = [Transition(job.id, job.kind, job.run, 0, waiting_state(job.kind), None) for job in moved]
    unknown = frozenset(report.job_id for report in asked if report.job_id not in standing)
    return Recorded(transitions, unknown, disbelieved)


def discard(
    connection: sa.Connection, job_id: UUID, *, project: str | None, now: datetime, by: str = ANONYMOUS
) -> JobRecord:
    """End a parked job for good, as cancelled, and return it.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        JobNotParked: the job is in another state.
    """
    standing = _lock_parked(connection, job_id, project=project)
    leave_parking(connection, OperationAction.DISCARD, {job_id: standing}, by=by, now=now)
    _audit_one(connection, AuditAction.JOB_DISCARDED, job_id, standing, by=by, now=now)
    return get_job(connection, job_id, project=project)


def leave_parking(
    connection: sa.Connection,
    action: OperationAction,
    parked: Mapping[UUID, Standing],
    *,
    by: str,
    now: datetime,
) -> list[MovedJob]:
    """Redrive jobs that are locked and parked, or else discard them; return them as they are now."""
    if not parked:
        return []
    is_redrive = action is OperationAction.REDRIVE
    if is_redrive:
        _start_next_run(connection, parked, now=now)
    else:
        _end_in_next_run(connection, parked, by=by, now=now)
    left = sorted(parked.items())
    connection.execute(
        redrives.insert(),
        [{"job_id": job_id, "run": place.run, "requested_at": now} for job_id, place in left],
    )
    return [
        MovedJob(
            job_id, place.kind, place.run + 1, waiting_state(place.kind) if is_redrive else JobState.CANCELLED
        )
        for job_id, place in left
    ]


def has_next_run(standing: Standing) -> bool:
    """Return whether a parked job can leave: its next run has a number that messages can carry."""
    return standing.run < MAX_RUN


def pending_redrives(connection: sa.Connection, limit: int) -> list[tuple[UUID, int]]:
    """Return (job id, parked run) of jobs that left but may have a message in `jobs.parked`, oldest first."""
    query = (
        sa.select(redrives.c.job_id, redrives.c.run)
        .where(redrives.c.swept_at.is_(None))
        .order_by(redrives.c.requested_at, redrives.c.job_id)
        .limit(limit)
    )
    return [(job_id, run) for job_id, run in connection.execute(query)]


def settle_redrives(connection: sa.Connection, pairs: Iterable[tuple[UUID, int]], *, now: datetime) -> None:
    """Note that these messages have left `jobs.parked`; what was noted before keeps its time."""
    rows = [{"of_job": job_id, "of_run": run, "swept_at": now} for job_id, run in sorted(set(pairs))]
    if rows:
        connection.execute(_SETTLE, rows)


def _parts(asked: ParkedFilter, project: str | None) -> list[list[sa.ColumnElement[bool]]]:
    """Return the conditions of each part of the jobs that match: every job is in one of them."""
    if asked.batch_id is None:
        conditions = [*visible(jobs, project), *_conditions(asked)]
    else:
        conditions = [*visible_of_batch(asked.batch_id, project), *_conditions(asked)]
    in_batch = [] if asked.batch_id is None else [jobs.c.batch_id == asked.batch_id]
    if asked.ids is not None:
        # The primary key finds fewer jobs than there are parked ones.
        return [[IS_PARKED, *in_batch, *conditions]]
    # In a function, or all jobs of the batch are read to find those whose reason is long.
    batch_id = sa.func.coalesce(jobs.c.batch_id, sa.literal(_NO_BATCH, sa.Uuid()))
    in_batch_hidden = [] if asked.batch_id is None else [batch_id == asked.batch_id]
    return [[IS_PARKED_SHORT, *in_batch, *conditions], [IS_PARKED_LONG, *in_batch_hidden, *conditions]]


def _conditions(asked: ParkedFilter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    reason = _fingerprint(jobs.c.reason)
    if (group := asked.group) is not None:
        conditions += [jobs.c.kind == group.kind, reason == group.reason, jobs.c.host == group.host]
    if asked.kind is not None:
        conditions.append(jobs.c.kind == asked.kind)
    if asked.reason is not None:
        conditions.append(reason == asked.reason[:FINGERPRINT_CHARACTERS])
    if asked.host is not None:
        # In a function, or SQLite takes the index of all jobs of the host.
        conditions.append(sa.func.coalesce(jobs.c.host, "") == stored_host(asked.host))
    if asked.parked_before is not None:
        conditions.append(jobs.c.finished_at < _in_calendar(asked.parked_before))
    if asked.parked_after is not None:
        conditions.append(jobs.c.finished_at >= _in_calendar(asked.parked_after))
    if asked.ids is not None:
        conditions.append(jobs.c.id.in_(list(asked.ids)))
    return conditions


def _in_calendar(at: datetime) -> datetime:
    """Return a time in UTC; at the ends of the calendar, where an offset leads out of it, the end."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        return _FIRST_TIME if at.year == 1 else _LAST_TIME


def _groups(parked_filter: ParkedFilter, project: str | None, limit: int) -> sa.Select[tuple[object, ...]]:
    # By the whole reason first, in the order of the index, which leaves few rows.
    parts = sa.union_all(*(_by_reason(part) for part in _parts(parked_filter, project))).subquery("parts").c
    reason = _fingerprint(parts.reason)
    count = sa.cast(sa.func.sum(parts.jobs), sa.BigInteger())
    return (
        sa.select(
            parts.kind,
            reason.label("reason"),
            parts.host,
            count.label("jobs"),
            sa.func.min(parts.first_parked_at).label("first_parked_at"),
            sa.func.max(parts.last_parked_at).label("last_parked_at"),
            sa.cast(sa.func.max(parts.newest), sa.Uuid()).label("newest"),
            # Windows see the groups before the limit cuts them.
            sa.func.count().over().label("total_groups"),
            sa.func.sum(count).over().label("total_jobs"),
        )
        .group_by(parts.kind, reason, parts.host)
        .order_by(count.desc(), parts.kind, reason, parts.host)
        .limit(limit)
    )


def _by_reason(part: list[sa.ColumnElement[bool]], *more: sa.Column[str]) -> sa.Select[tuple[object, ...]]:
    columns: list[sa.ColumnElement[Any]] = [*more]
    return (
        sa.select(
            *columns,
            jobs.c.kind,
            jobs.c.host,
            jobs.c.reason,
            sa.func.count().label("jobs"),
            sa.func.min(jobs.c.finished_at).label("first_parked_at"),
            sa.func.max(jobs.c.finished_at).label("last_parked_at"),
            # PostgreSQL 17 has no max(uuid); as text they sort the same.
            sa.func.max(sa.cast(jobs.c.id, sa.Text())).label("newest"),
        )
        .where(*part)
        .group_by(*more, jobs.c.kind, jobs.c.host, jobs.c.reason)
    )


def _fingerprint(reason: sa.ColumnElement[str | None]) -> sa.ColumnElement[str]:
    return sa.func.coalesce(sa.func.substr(reason, 1, FINGERPRINT_CHARACTERS), "", type_=PlainText())


def _group(row: sa.RowMapping) -> ParkedGroup:
    return ParkedGroup(
        key=GroupKey(row["kind"], row["reason"], row["host"]),
        count=row["jobs"],
        first_parked_at=row["first_parked_at"],
        last_parked_at=row["last_parked_at"],
        sample_job_id=row["newest"],
        sample_explanation=row["explanation"],
    )


def _lock_parked(connection: sa.Connection, job_id: UUID, *, project: str | None) -> Standing:
    standing = lock_job(connection, job_id, project=project)
    if standing.state is not JobState.PARKED:
        raise JobNotParked(f"job {job_id} is {standing.state}; only a parked job can be redriven")
    if not has_next_run(standing):
        raise RunsExhausted(
            f"job {job_id} is in run {standing.run:,}, the last that a job may have: "
            "it can be neither redriven nor discarded; submit it anew"
        )
    return standing


def _start_next_run(connection: sa.Connection, parked: Mapping[UUID, Standing], *, now: datetime) -> None:
    rows = [
        {
            "id": job_id,
            "position": position(run=place.run + 1, attempt=0, state=waiting_state(place.kind)),
            "state": waiting_state(place.kind),
            "run": place.run + 1,
            "attempt": 0,
            "token_from_run": place.first_token_run,
            # From now on a repeat asks by itself.
            "same_as": place.same_as if place.same_as == job_id else None,
            "reason": None,
            "explanation": None,
            "result": None,
            "due_at": None,
            **_FRESH,
            "held_for": None,
            "counted_for": None,
            "claimed_until": None,
            "finished_at": None,
            "updated_at": now,
        }
        for job_id, place in parked.items()
    ]
    write_jobs(connection, rows)
    moves = [Move(place.batch_id, place.state, waiting_state(place.kind)) for place in parked.values()]
    count_moves(connection, moves, now=now)
    announce_waiting(connection, {job_id: place.kind for job_id, place in parked.items()})


def _end_in_next_run(
    connection: sa.Connection, parked: Mapping[UUID, Standing], *, by: str, now: datetime
) -> None:
    # Parked is the last position of a run, so the end by a person belongs to the next run.
    ends = [
        end_of(
            job_id,
            replace(place, run=place.run + 1, attempt=0),
            JobState.CANCELLED,
            reason=DISCARDED,
            explanation=f"Discarded from the parking lot by {by}.",
            now=now,
        )
        for job_id, place in parked.items()
    ]
    end_jobs(connection, ends, parked, also=lambda _: _FRESH, now=now)


def _audit_one(
    connection: sa.Connection,
    action: AuditAction,
    job_id: UUID,
    standing: Standing,
    *,
    by: str,
    now: datetime,
    more: Mapping[str, object] | None = None,
) -> None:
    details = {"kind": standing.kind, "parked_run": standing.run, **(more or {})}
    target, project = job_target(job_id), standing.project
    write_audit(connection, action, target=target, project=project, by=by, details=details, now=now)
