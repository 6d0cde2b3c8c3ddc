"""Read the parked jobs: their groups, and which of them a filter means."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from producer.parking import FINGERPRINT_CHARACTERS, GroupKey, ParkedFilter, ParkedGroup, ParkedGroups
from producer.records import JobRecord
from producer.store.column_types import PlainText
from producer.store.rows import JOB_COLUMNS, job_record, stored_host
from producer.store.schema import IS_PARKED, jobs
from shared.states import JobState

_reason = sa.func.coalesce(sa.func.substr(jobs.c.reason, 1, FINGERPRINT_CHARACTERS), "", type_=PlainText())
# PostgreSQL 17 has no max(uuid); as text they sort the same.
_NEWEST = sa.cast(sa.func.max(sa.cast(jobs.c.id, sa.Text())), sa.Uuid())


def list_groups(connection: sa.Connection, parked_filter: ParkedFilter, *, limit: int) -> ParkedGroups:
    """Return the largest groups of the jobs that match. One query, on the index of parked jobs."""
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
    query = sa.select(sa.func.count()).select_from(jobs).where(*matching(parked_filter))
    return connection.scalar(query) or 0


def matching(parked_filter: ParkedFilter) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a filter, that the job is parked among them."""
    asked = parked_filter
    conditions: list[sa.ColumnElement[bool]] = [IS_PARKED]
    if (group := asked.group) is not None:
        conditions += [jobs.c.kind == group.kind, _reason == group.reason, jobs.c.host == group.host]
    if asked.kind is not None:
        conditions.append(jobs.c.kind == asked.kind)
    if asked.reason is not None:
        conditions.append(_reason == asked.reason[:FINGERPRINT_CHARACTERS])
    if asked.host is not None:
        conditions.append(jobs.c.host == stored_host(asked.host))
    if asked.batch_id is not None:
        conditions.append(jobs.c.batch_id == asked.batch_id)
    if asked.parked_before is not None:
        conditions.append(jobs.c.finished_at <= asked.parked_before)
    if asked.ids is not None:
        conditions.append(jobs.c.id.in_(list(asked.ids)))
    return conditions


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


def _groups(parked_filter: ParkedFilter, limit: int) -> sa.Select[tuple[object, ...]]:
    count = sa.func.count()
    return (
        sa.select(
            jobs.c.kind,
            _reason.label("reason"),
            jobs.c.host,
            count.label("jobs"),
            sa.func.min(jobs.c.finished_at).label("first_parked_at"),
            sa.func.max(jobs.c.finished_at).label("last_parked_at"),
            _NEWEST.label("newest"),
            # Windows see the groups before the limit cuts them.
            sa.func.count().over().label("total_groups"),
            sa.func.sum(count).over().label("total_jobs"),
        )
        .where(*matching(parked_filter))
        .group_by(jobs.c.kind, _reason, jobs.c.host)
        .order_by(count.desc(), jobs.c.kind, _reason, jobs.c.host)
        .limit(limit)
    )


def _group(row: sa.RowMapping) -> ParkedGroup:
    return ParkedGroup(
        key=GroupKey(row["kind"], row["reason"], row["host"]),
        count=row["jobs"],
        first_parked_at=row["first_parked_at"],
        last_parked_at=row["last_parked_at"],
        sample_job_id=row["newest"],
        sample_explanation=row["explanation"],
    )
