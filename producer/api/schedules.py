"""The operations on schedules: create, look up, list, pause, resume, run now, delete."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import NEXT, Document
from producer.api.requests import Query, read_actor, read_document, read_id
from producer.api.responses import first_page, json_response
from producer.records import NewSchedule, Overlap, ScheduleRecord
from producer.scheduling import new_schedule, scheduled_run
from producer.store import schedules
from producer.store.database import Connection, Store
from producer.submission_models import ScheduleSubmission
from producer.timetable import CatchUp, Cron, Every, first_time, next_times
from shared.clock import utc_now
from shared.errors import ScheduleNotFound
from shared.identity import new_id

logger = logging.getLogger(__name__)

_NEXT_RUNS = 5


class LastRun(Document):
    """The last run that a schedule made: a job or a batch."""

    run_at: Annotated[datetime, Field(description="The time that the run was for.")]
    job_id: UUID | None
    batch_id: UUID | None


class Schedule(Document):
    """A schedule, its next times and its last run."""

    id: UUID
    name: str | None
    cron: str | None
    timezone: str | None
    every_seconds: int | None
    starts_at: datetime | None
    job: Mapping[str, Any] | None
    batch: Mapping[str, Any] | None
    overlap: Overlap
    catch_up: CatchUp
    labels: Mapping[str, str]
    paused: bool
    next_runs: Annotated[list[datetime], Field(description="The next five times; none while it is paused.")]
    last_run: LastRun | None
    runs: Annotated[int, Field(description="How many runs it has made.")]
    skipped: Annotated[
        int, Field(description="How many runs it skipped, because the last one was unfinished.")
    ]
    last_error: Annotated[
        str | None, Field(description="Why the last run could not be made; null when it was.")
    ]
    created_at: datetime


class SchedulePage(Document):
    """One page of schedules, newest first."""

    items: list[Schedule]
    next: Annotated[str | None, Field(description=NEXT)]


class ScheduleHandlers:
    """Keeps what is to be run again and again; the ledger runs it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def submit_schedule(self, request: Request) -> Response:
        """Store a schedule and answer 201 with it."""
        schedule = await asyncio.to_thread(_read_schedule, await request.body())
        record = await self._store.write(_insert, schedule, read_actor(request))
        logger.info("schedule_created", extra={"schedule_id": str(record.id)})
        return await _answer(record, HTTPStatus.CREATED, {"Location": f"/schedules/{record.id}"})

    async def list_schedules(self, request: Request) -> Response:
        """Answer with one page of schedules, newest first."""
        query = Query(request)
        return json_response(await self._store.read(_page, limit=query.limit, after=query.id("cursor")))

    async def get_schedule(self, request: Request) -> Response:
        """Answer with the schedule, its next five times and its last run."""
        return await _answer(await self._store.read(schedules.get_schedule, _id(request)))

    async def pause_schedule(self, request: Request) -> Response:
        """Stop the schedule from running."""
        record = await self._store.write(
            schedules.pause_schedule, _id(request), by=read_actor(request), now=utc_now()
        )
        logger.info("schedule_paused", extra={"schedule_id": str(record.id)})
        return await _answer(record)

    async def resume_schedule(self, request: Request) -> Response:
        """Let the schedule run again, from its next time on."""
        record = await self._store.write(_resume, _id(request), read_actor(request))
        logger.info("schedule_resumed", extra={"schedule_id": str(record.id)})
        return await _answer(record)

    async def run_schedule(self, request: Request) -> Response:
        """Make a run now, paused or not; the times of the schedule stay as they are."""
        record, now = await self._store.read(schedules.get_schedule, _id(request)), utc_now()
        # Not in the transaction that stores it: a large batch takes seconds to validate.
        run = await asyncio.to_thread(scheduled_run, record, run_at=now, now=now)
        record = await self._store.write(schedules.run_now, record.id, run, by=read_actor(request), now=now)
        logger.info("schedule_run_made", extra={"schedule_id": str(record.id), **run.facts})
        return await _answer(record, HTTPStatus.ACCEPTED, {"Location": run.path})

    async def delete_schedule(self, request: Request) -> Response:
        """Delete the schedule; the jobs that it made stay."""
        schedule_id = _id(request)
        by = read_actor(request)
        await self._store.write(schedules.delete_schedule, schedule_id, by=by, now=utc_now())
        logger.info("schedule_deleted", extra={"schedule_id": str(schedule_id)})
        return Response(status_code=HTTPStatus.NO_CONTENT)


def schedule_document(record: ScheduleRecord) -> Schedule:
    """Return the document of a stored schedule, with its next times worked out."""
    timetable = record.timetable
    cron = timetable if isinstance(timetable, Cron) else None
    next_at, last_at = record.next_run_at, record.last_run_at
    return Schedule.of(
        record,
        cron=cron.expression if cron else None,
        timezone=cron.timezone if cron else None,
        every_seconds=timetable.seconds if isinstance(timetable, Every) else None,
        starts_at=timetable.starts_at,
        job=record.template.get("job"),
        batch=record.template.get("batch"),
        paused=record.paused_at is not None,
        next_runs=next_times(timetable, not_before=next_at, limit=_NEXT_RUNS) if next_at else [],
        last_run=LastRun(run_at=last_at, job_id=record.last_job_id, batch_id=record.last_batch_id)
        if last_at
        else None,
    )


def _id(request: Request) -> UUID:
    return read_id(request, "schedule_id", ScheduleNotFound)


def _read_schedule(body: bytes) -> NewSchedule:
    return new_schedule(read_document(ScheduleSubmission, body), schedule_id=new_id(), now=utc_now())


def _insert(connection: Connection, schedule: NewSchedule, by: str) -> ScheduleRecord:
    schedules.insert_schedule(connection, schedule, by=by)
    return schedules.get_schedule(connection, schedule.id)


def _resume(connection: Connection, schedule_id: UUID, by: str) -> ScheduleRecord:
    record, now = schedules.get_schedule(connection, schedule_id), utc_now()
    next_run_at = first_time(record.timetable, after=now)
    return schedules.resume_schedule(connection, schedule_id, next_run_at=next_run_at, by=by, now=now)


def _page(connection: Connection, *, limit: int, after: UUID | None) -> bytes:
    found = schedules.list_schedules(connection, limit=limit + 1, after=after)
    page, following = first_page(found, limit=limit, key=lambda record: record.id)
    document = SchedulePage(items=[schedule_document(record) for record in page], next=following)
    return document.model_dump_json().encode()


async def _answer(
    record: ScheduleRecord, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    # Rare times of cron take long to find.
    return json_response(await asyncio.to_thread(schedule_document, record), status, headers)
