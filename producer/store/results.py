"""The results of a batch: which of its jobs match, a page at a time, and how many end how.

Verdicts are in the results alone, so they are looked for there, in a window of rows for each statement: a
page costs the same however large the batch is and however few match.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.records import EVERY_RESULT, Found, JobRecord, ResultCounts, ResultFilter
from producer.store.page_bytes import fitting, row_bytes
from producer.store.projects import EVERY_PROJECT, visible_of_batch
from producer.store.queries import WINDOW_ROWS, check_batch
from producer.store.rows import JOB_COLUMNS, LARGE_COLUMNS, job_records
from producer.store.schema import attempts, jobs, rejected_lines
from shared.kinds.check import Verdict
from shared.kinds.registry import KINDS

# Only their results are looked into: those of other kinds may have megabytes.
_HAS_VERDICT = sa.and_(
    jobs.c.kind.in_(name for name, kind in KINDS.items() if "verdict" in kind.result_model.model_fields),
    jobs.c.result.is_not(None),
)
# As text: PostgreSQL's operators on JSON fail on the escaped NUL that a stranger's result may hold.
_TEXT = sa.cast(jobs.c.result, sa.Text)


def batch_jobs(
    connection: sa.Connection,
    batch_id: UUID,
    *,
    project: str | None,
    after: UUID | None,
    limit: int,
    wanted: ResultFilter = EVERY_RESULT,
    window_rows: int = WINDOW_ROWS,
) -> Found[JobRecord]:
    """Return a page of a batch's jobs that match, oldest first, from above the id `after`: as many as fit.

    Raises:
        BatchNotFound: no batch has this id, for a caller of this project.
    """
    rows = sa.select(jobs.c.id).where(*_by_columns(batch_id, project, wanted)).order_by(jobs.c.id)
    if after is not None:
        rows = rows.where(jobs.c.id > after)
    scans = _by_results(wanted)
    end: UUID | None = connection.scalar(rows.limit(1).offset(window_rows - 1)) if scans else None
    query = rows.where(*scans) if end is None else rows.where(*scans, jobs.c.id <= end)
    sizes = query.add_columns(row_bytes(connection.dialect.name, *LARGE_COLUMNS)).limit(limit)
    sized = connection.execute(sizes).all()
    if not sized:
        if end is None:
            check_batch(connection, batch_id, project=project)
        return Found([], end)
    last = fitting((job_id, size) for job_id, size in sized)[-1]
    following = last if last != sized[-1].id or len(sized) == limit else end
    found = job_records(connection, query.with_only_columns(*JOB_COLUMNS).where(jobs.c.id <= last))
    # The text of a result says a little more than was meant, and SQLite's LIKE knows no case.
    return Found([record for record in found if wanted.is_met_by(record)], following)


def count_results(
    connection: sa.Connection, batch_id: UUID, wanted: ResultFilter, *, project: str | None
) -> ResultCounts:
    """Count the results of a batch that match: jobs by state and verdict, and rejected lines.

    Raises:
        BatchNotFound: no batch has this id, for a caller of this project.
    """
    check_batch(connection, batch_id, project=project)
    return ResultCounts(
        _count_jobs(connection, batch_id, wanted) if wanted.has_jobs else {},
        _count_rejected(connection, batch_id, wanted.ref) if wanted.has_rejected else 0,
    )


def first_starts(connection: sa.Connection, job_ids: Iterable[UUID]) -> dict[UUID, datetime]:
    """Return when the first attempt of each job's present run began."""
    query = (
        sa.select(attempts.c.job_id, sa.func.min(attempts.c.started_at).label("began_at"))
        .join(jobs, sa.and_(jobs.c.id == attempts.c.job_id, jobs.c.run == attempts.c.run))
        .where(attempts.c.job_id.in_(list(job_ids)))
        .group_by(attempts.c.job_id)
    )
    return {row.job_id: row.began_at for row in connection.execute(query)}


def _count_jobs(connection: sa.Connection, batch_id: UUID, wanted: ResultFilter) -> dict[Any, int]:
    each = (
        sa.select(jobs.c.state, _verdict().label("verdict"))
        .where(*_by_columns(batch_id, EVERY_PROJECT, wanted), *_by_results(wanted))
        .subquery()
    )
    query = sa.select(each.c.state, each.c.verdict, sa.func.count()).group_by(each.c.state, each.c.verdict)
    return {(state, verdict): number for state, verdict, number in connection.execute(query)}


def _count_rejected(connection: sa.Connection, batch_id: UUID, ref: str | None) -> int:
    query = sa.select(sa.func.count()).where(rejected_lines.c.batch_id == batch_id)
    return connection.scalar(query if ref is None else query.where(rejected_lines.c.ref == ref)) or 0


def _by_columns(batch_id: UUID, project: str | None, wanted: ResultFilter) -> list[sa.ColumnElement[bool]]:
    conditions = [jobs.c.batch_id == batch_id, *visible_of_batch(batch_id, project)]
    if wanted.states:
        conditions.append(jobs.c.state.in_(wanted.job_states))
    if wanted.ref is not None:
        conditions.append(jobs.c.ref == wanted.ref)
    return conditions


def _by_results(wanted: ResultFilter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.verdicts:
        conditions.append(sa.and_(_HAS_VERDICT, _says("verdict", wanted.verdicts)))
    if wanted.reasons:
        of_result = sa.and_(jobs.c.reason.is_(None), _HAS_VERDICT, _says("reason", wanted.reasons))
        conditions.append(sa.or_(jobs.c.reason.in_(wanted.reasons), of_result))
    return conditions


def _says(name: str, values: Iterable[str]) -> sa.ColumnElement[bool]:
    # Results are compact ASCII JSON, in which this stands for little else.
    return sa.or_(*(_TEXT.contains(f'"{name}":{json.dumps(value)}', autoescape=True) for value in values))


def _verdict() -> sa.Case[str]:
    known = [(_says("verdict", [verdict]), verdict.value) for verdict in Verdict]
    told = sa.case(*known, (_TEXT.contains('"verdict":"', autoescape=True), Verdict.BROKEN.value))
    return sa.case((_HAS_VERDICT, told))
