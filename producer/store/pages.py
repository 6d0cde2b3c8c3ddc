"""Pages of paged fetches: made with the success that leads to them, and read for their report.

A page's success, its row here and the jobs that follow it are one transaction. The first final state of a
run wins and a job succeeds once, so each page leads on exactly once; the ids of what it makes are fixed all
the same.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from producer.paged_fetch import (
    Page,
    PageRecord,
    PagesRecord,
    decode_keys,
    following_jobs,
    measure_pages,
    page_of,
    pages_batch,
    pages_batch_id,
    stopped_by,
)
from producer.records import JobRecord, NewBatch, NewJob
from producer.store import queries
from producer.store.page_bytes import PAGE_BYTES, fitting, row_bytes
from producer.store.projects import visible
from producer.store.quotas import Stored, glance
from producer.store.rows import JOB_COLUMNS, Standing, job_records, new_job_row
from producer.store.schema import batches, jobs, pages, redrives
from producer.store.sql import insert_absent, is_one_of, stored
from producer.store.wakeup import announce_jobs
from producer.stored_json import NULL, items_of, json_text, pick
from shared.errors import BatchNotFound, JobNotPaged
from shared.kinds.pages import PagePlace, StopReason
from shared.messages import Report
from shared.states import JobState


class _ResultFields(msgspec.Struct):
    data: msgspec.Raw = NULL


_RESULT = msgspec.json.Decoder(_ResultFields)
_CHUNK_JOBS = 1_000
_READ_PAGES = 1_000
logger = logging.getLogger(__name__)


def record_pages(
    connection: sa.Connection,
    reached: Mapping[UUID, Report],
    standing: Mapping[UUID, Standing],
    *,
    now: datetime,
) -> tuple[dict[UUID, Report], Stored]:
    """Keep what pages came to, and make the jobs that follow them.

    Call it after the jobs are locked and before they are counted as moved: a batch grows before the page
    that leads on counts as ended, so it is never complete too early.

    Returns:
        The reports; those of first pages name the batch of the other pages. And what was stored, which has to
        be counted behind all other locks.
    """
    told = {
        job_id: report
        for job_id, report in reached.items()
        if report.page is not None and report.state is JobState.SUCCEEDED
    }
    if not told:
        return dict(reached), Stored()
    found = _find_pages(connection, told)
    _keep_pages(connection, found, told, now=now)
    leading = [(job, page, place) for job, page in found if (place := _place_after(told[job.id]))]
    # Glanced at and not locked: batches are locked after this, and others lock usage after batches.
    rooms = {project: glance(connection, project) for project in {job.project for job, *_ in leading}}
    full = {job.id for job, *_ in leading if (room := rooms[job.project]) and room.free(job.kind) == 0}
    _note_cut(connection, full)
    leading = [each for each in leading if each[0].id not in full]
    _make_batches(
        connection, [pages_batch(job, page, now=now) for job, page, _ in leading if page.index == 0]
    )
    # Every batch that this transaction will count in, in the order of ids, as `count_moves` locks them.
    touched = {standing[job_id].batch_id for job_id in reached} | {page.batch_id for _, page, _ in leading}
    locked = _lock_batches(connection, (batch_id for batch_id in touched if batch_id is not None))
    named = dict(reached)
    further = Stored()
    for job, page, place in leading:
        if not _takes_more(connection, locked[page.batch_id], job, told[job.id].run):
            continue
        # Each has about as many arguments as the page that leads to it.
        chunk_jobs = max(1, min(_CHUNK_JOBS, PAGE_BYTES // len(json_text(job.args))))
        following, room = following_jobs(job, page, place, now=now), rooms[job.project]
        fitting = following if room is None else islice(following, room.free(job.kind))
        made = _insert_pages(connection, page.batch_id, fitting, chunk_jobs=chunk_jobs)
        further[job.project, job.kind] += made
        if room is not None:
            room.take(job.kind, more=made)
            if next(following, None) is not None:
                _note_cut(connection, {job.id})
        if page.index == 0:
            named[job.id] = _naming_batch(told[job.id], page.batch_id)
    return named, further


def get_pages(connection: sa.Connection, root_id: UUID, *, project: str | None) -> PagesRecord:
    """Return a paged fetch, measured: reads a row for each page, and none of their results.

    Raises:
        JobNotFound: no job has this id, for a caller of this project.
        JobNotPaged: the job has no `pages`, or is itself one of the pages of another.
    """
    root = get_root(connection, root_id, project=project)
    try:
        batch = queries.get_batch(connection, pages_batch_id(root_id), project=project)
    except BatchNotFound:
        batch = None
    return PagesRecord(root, batch, measure_pages(_read_pages(connection, root_id)))


def get_root(connection: sa.Connection, root_id: UUID, *, project: str | None) -> JobRecord:
    """Return a job that is the first of a paged fetch.

    Raises:
        JobNotFound: no job has this id, for a caller of this project.
        JobNotPaged: the job has no `pages`, or is itself one of the pages of another.
    """
    root = queries.get_job(connection, root_id, project=project)
    page = page_of(root)
    if page is None:
        raise JobNotPaged("The job fetches no pages.")
    if page.index:
        raise JobNotPaged(f"It is page {page.index} of job {page.root_id}.")
    return root


def next_page_items(
    connection: sa.Connection, root_id: UUID, *, project: str | None, after: int
) -> tuple[int, Sequence[bytes], bytes | None] | None:
    """Return number, items and digests of keys of the first page behind `after`; None behind the last.

    An item is the JSON text that is stored of it.
    """
    query = (
        sa.select(pages.c.number, pages.c.key_digests, stored(jobs.c.result))
        .join(jobs, jobs.c.id == pages.c.job_id)
        .where(pages.c.root_id == root_id, pages.c.number > after, *visible(jobs, project))
        .order_by(pages.c.number)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return row.number, items_of(pick(row.result, _RESULT).data), row.key_digests


def _read_pages(connection: sa.Connection, root_id: UUID) -> Iterator[PageRecord]:
    """Return what is kept of the pages of a root job, in order, as many at a time as fit."""
    columns = (
        pages.c.number.label("index"),
        pages.c.item_count.label("items"),
        pages.c.total,
        pages.c.stopped_by,
        pages.c.key_digests.label("keys"),
        pages.c.ended_at,
    )
    of_root = sa.select(*columns).where(pages.c.root_id == root_id).order_by(pages.c.number)
    size = row_bytes(connection.dialect.name, pages.c.key_digests)
    after = -1
    while True:
        query = of_root.where(pages.c.number > after)
        sizes = query.with_only_columns(pages.c.number, size).limit(_READ_PAGES)
        numbers = fitting((number, bytes_) for number, bytes_ in connection.execute(sizes))
        if not numbers:
            return
        after = numbers[-1]
        for row in connection.execute(query.where(pages.c.number <= after)).mappings().all():
            yield PageRecord(**row)


def _find_pages(connection: sa.Connection, told: Mapping[UUID, Report]) -> list[tuple[JobRecord, Page]]:
    query = sa.select(*JOB_COLUMNS).where(jobs.c.id.in_(list(told))).order_by(jobs.c.id)
    found = [(job, page) for job in job_records(connection, query) if (page := page_of(job)) is not None]
    for job_id in told.keys() - {job.id for job, _ in found}:
        # It is forged, or this version cannot read its arguments: the job ends, and leads nowhere.
        logger.warning("page_not_ours", extra={"job_id": str(job_id)})
    return found


def _keep_pages(
    connection: sa.Connection,
    found: Iterable[tuple[JobRecord, Page]],
    told: Mapping[UUID, Report],
    *,
    now: datetime,
) -> None:
    rows = [_page_row(job, page, told[job.id], now) for job, page in found]
    if rows:
        connection.execute(insert_absent(connection, pages), rows)


def _page_row(job: JobRecord, page: Page, report: Report, now: datetime) -> dict[str, Any]:
    said = report.page
    assert said is not None
    return {
        "job_id": job.id,
        "root_id": page.root_id,
        "number": page.index,
        "item_count": said.items,
        "total": said.total,
        "stopped_by": stopped_by(job, said),
        "key_digests": decode_keys(said.keys, said.items),
        "ended_at": report.ended_at or now,
    }


def _place_after(report: Report) -> PagePlace | None:
    return report.page.following if report.page else None


def _make_batches(connection: sa.Connection, new: Sequence[NewBatch]) -> None:
    rows = [
        {
            "id": batch.id,
            "kind": batch.kind,
            "total": 0,
            "labels": batch.labels,
            "schedule_id": batch.schedule_id,
            "project": batch.project,
            "created_at": batch.created_at,
        }
        for batch in new
    ]
    if rows:
        connection.execute(insert_absent(connection, batches), rows)


def _lock_batches(
    connection: sa.Connection, batch_ids: Iterable[UUID]
) -> dict[UUID, tuple[datetime | None, datetime | None]]:
    """Lock batches in the order of their ids; return when each was cancelled and when it expired."""
    query = (
        sa.select(batches.c.id, batches.c.cancelled_at, batches.c.expired_at)
        .where(batches.c.id.in_(sorted(batch_ids)))
        .order_by(batches.c.id)
        .with_for_update(key_share=True)
    )
    return {
        batch_id: (cancelled_at, expired_at)
        for batch_id, cancelled_at, expired_at in connection.execute(query)
    }


def _takes_more(
    connection: sa.Connection, batch: tuple[datetime | None, datetime | None], job: JobRecord, run: int
) -> bool:
    """Return whether a batch takes the pages that follow a job's run: not if it was cancelled during it."""
    cancelled_at, expired_at = batch
    if expired_at is not None:
        return False
    if cancelled_at is None:
        return True
    began_at = job.created_at
    if run > 1:
        redriven = sa.select(redrives.c.requested_at).where(
            redrives.c.job_id == job.id, redrives.c.run == run - 1
        )
        began_at = connection.scalar(redriven) or began_at
    return began_at > cancelled_at


def _insert_pages(
    connection: sa.Connection, batch_id: UUID, following: Iterator[NewJob], *, chunk_jobs: int
) -> int:
    """Store the jobs that are not there yet, and let their batch, which is locked, grow by them.

    Returns:
        How many were not there.
    """
    made = 0
    while chunk := list(islice(following, chunk_jobs)):
        there = set(connection.scalars(sa.select(jobs.c.id).where(jobs.c.id.in_([job.id for job in chunk]))))
        fresh = [new_job_row(job, batch_id=batch_id) for job in chunk if job.id not in there]
        if not fresh:
            continue
        connection.execute(jobs.insert(), fresh)
        made += len(fresh)
        connection.execute(
            batches.update()
            .where(batches.c.id == batch_id)
            .values(
                total=batches.c.total + len(fresh),
                accepted=batches.c.accepted + len(fresh),
                finished_at=None,
            )
        )
        announce_jobs(connection)
    return made


def _note_cut(connection: sa.Connection, job_ids: Collection[UUID]) -> None:
    """Say of pages that some, or all, of those that follow them found no room in their project."""
    if job_ids:
        logger.warning("pages_cut", extra={"job_ids": sorted(map(str, job_ids))[:10]})
        here = is_one_of(connection, pages.c.job_id, job_ids), pages.c.stopped_by.is_(None)
        connection.execute(pages.update().where(*here).values(stopped_by=StopReason.PROJECT_FULL))


def _naming_batch(report: Report, batch_id: UUID) -> Report:
    result = report.result or {}
    page = {**result["page"], "batch_id": str(batch_id)} if isinstance(result.get("page"), dict) else None
    return report.model_copy(update={"result": {**result, "page": page}})
