"""Read the parked jobs: their groups, and which of them a filter means."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.parking import FINGERPRINT_CHARACTERS, GroupKey, ParkedFilter, ParkedGroup, ParkedGroups
from producer.records import JobRecord
from producer.store.column_types import PlainText
from producer.store.rows import JOB_COLUMNS, job_record, stored_host
from producer.store.schema import IS_PARKED, IS_PARKED_LONG, IS_PARKED_SHORT, jobs
from shared.states import JobState

_NO_BATCH = UUID(int=0)


def list_groups(connection: sa.Connection, parked_filter: ParkedFilter, *, limit: int) -> ParkedGroups:
    """Return the largest groups of the jobs that match. One query, on the indexes of parked jobs."""
    groups = _groups(parked_filter, limit).cte("parked_groups")
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


def count_matching(connection: sa.Connection, parked_filter: ParkedFilter) -> int:
    """Return how many parked jobs match."""
    query = sa.select(sa.func.count()).select_from(matching(parked_filter, jobs.c.id).subquery())
    return connection.scalar(query) or 0


def matching(parked_filter: ParkedFilter, *columns: sa.ColumnElement[Any]) -> sa.CompoundSelect[Any]:
    """Return the query of the parked jobs that match; of the columns of the index alone it reads no row."""
    return sa.union_all(*(sa.select(*columns).where(*part) for part in _parts(parked_filter)))


def runs_of(connection: sa.Connection, job_ids: Iterable[UUID]) -> dict[UUID, tuple[int, JobState]]:
    """Return the run and state of each job; unknown ids are missing."""
    query = sa.select(jobs.c.id, jobs.c.run, jobs.c.state).where(jobs.c.id.in_(sorted(set(job_ids))))
    return {job_id: (run, JobState(state)) for job_id, run, state in connection.execute(query)}


def parked_page(
    connection: sa.Connection, *, recorded_before: datetime, after: UUID | None, limit: int
) -> list[JobRecord]:
    """Return a page of jobs parked for some time, oldest id first, without attempts, above the id `after`."""
    query = (
        sa.select(*JOB_COLUMNS)
        .where(IS_PARKED, jobs.c.updated_at <= recorded_before)
        .order_by(jobs.c.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(jobs.c.id > after)
    return [job_record(row) for row in connection.execute(query).mappings()]


def _parts(asked: ParkedFilter) -> list[list[sa.ColumnElement[bool]]]:
    """Return the conditions of each part of the jobs that match: every job is in one of them."""
    conditions = _conditions(asked)
    in_batch = [] if asked.batch_id is None else [jobs.c.batch_id == asked.batch_id]
    if asked.ids is not None:
        # They have an index of their own, that finds fewer jobs than there are parked ones.
        return [[IS_PARKED, *in_batch, *conditions]]
    # In a function, or those whose reason is long are looked for among all jobs of the batch.
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
        conditions.append(jobs.c.finished_at <= asked.parked_before)
    if asked.ids is not None:
        conditions.append(jobs.c.id.in_(list(asked.ids)))
    return conditions


def _groups(parked_filter: ParkedFilter, limit: int) -> sa.Select[tuple[object, ...]]:
    # By the whole reason first, in the order of the index; what is left then is few.
    parts = sa.union_all(*(_by_reason(part) for part in _parts(parked_filter))).subquery("parts").c
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


def _by_reason(part: list[sa.ColumnElement[bool]]) -> sa.Select[tuple[object, ...]]:
    return (
        sa.select(
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
        .group_by(jobs.c.kind, jobs.c.host, jobs.c.reason)
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
