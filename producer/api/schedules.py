"""The operations on schedules: create, look up, list, pause, resume, run now, delete."""

import logging
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import NEXT, Document, ShownText, shown
from producer.api.replays import answer_of, find_replay, make_once, request_key
from producer.api.requests import Query, read_actor, read_caller, read_document, read_id
from producer.api.responses import json_response
from producer.api.security import check_may_run
from producer.api.slow_work import SlowWork, caller_of
from producer.records import (
    IdempotencyKey,
    KeptAnswer,
    KeyScope,
    NewSchedule,
    Overlap,
    ScheduledRun,
    ScheduleRecord,
    SubmissionResult,
    SubmissionStatus,
)
from producer.scheduling import ScheduleLimits, new_schedule, scheduled_run
from producer.store import schedules
from producer.store.database import Connection, LongCall, Store
from producer.stored_json import NULL, embed, page_of, pick, text_of
from producer.submission_models import ScheduleSubmission
from producer.timetable import CatchUp, Cron, Every, first_time, next_times
from shared.clock import utc_now
from shared.errors import ScheduleNotFound
from shared.identity import new_id
from shared.redaction import redact_submission
from shared.settings import Settings

logger = logging.getLogger(__name__)

_NEXT_RUNS = 5

ShownTemplate = Annotated[Mapping[str, Any], AfterValidator(redact_submission)]


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
    job: ShownTemplate | None
    batch: ShownTemplate | None
    overlap: Overlap
    catch_up: CatchUp
    labels: Mapping[str, str]
    project: Annotated[str, Field(description="Whose it is; `default` when nobody gave another.")]
    paused: bool
    next_runs: Annotated[list[datetime], Field(description="The next five times; none while it is paused.")]
    last_run: LastRun | None
    runs: Annotated[int, Field(description="How many runs it has made.")]
    skipped: Annotated[
        int, Field(description="How many runs it skipped, because the last one was unfinished.")
    ]
    last_error: Annotated[
        ShownText | None, Field(description="Why the last run could not be made; null when it was.")
    ]
    created_at: datetime


class SchedulePage(Document):
    """One page of schedules, newest first."""

    items: list[Schedule]
    next: Annotated[str | None, Field(description=NEXT)]


class _TemplateFields(msgspec.Struct):
    job: msgspec.Raw = NULL
    batch: msgspec.Raw = NULL


_TEMPLATE = msgspec.json.Decoder(_TemplateFields)


class ScheduleHandlers:
    """Keeps what is to be run again and again; the ledger runs it."""

    def __init__(self, store: Store, slow: SlowWork, settings: Settings) -> None:
        self._store = store
        self._slow = slow
        self._limits = ScheduleLimits(
            most=settings.max_schedules,
            min_seconds=settings.min_schedule_seconds,
            jobs_per_second=settings.schedule_jobs_per_second,
        )

    async def submit_schedule(self, request: Request) -> Response:
        """Store a schedule and answer 201 with it."""
        body, by, project = await request.body(), read_actor(request), read_caller(request).home
        key = request_key(request, KeyScope.SCHEDULE, body)
        if again := await find_replay(self._store, key):
            return again
        schedule, answer = await self._slow.run(
            caller_of(request), _read_schedule, body, self._limits, project=project
        )
        check_may_run(request, *_what_runs(schedule.template))
        result = await self._store.write(_insert, schedule, answer, key, by, most=self._limits.most)
        if result.status is SubmissionStatus.STORED:
            logger.info("schedule_created", extra={"schedule_id": str(schedule.id)})
        return answer_of(result)

    async def list_schedules(self, request: Request) -> Response:
        """Answer with one page of schedules, newest first."""
        query = Query(request)
        page = self._store.read_page(
            caller_of(request),
            _page,
            project=read_caller(request).project,
            limit=query.limit,
            after=query.id("cursor"),
        )
        return json_response(await page)

    async def get_schedule(self, request: Request) -> Response:
        """Answer with the schedule, its next five times and its last run."""
        project = read_caller(request).project
        return _answer(await self._store.read(schedules.get_schedule, _id(request), project=project))

    async def pause_schedule(self, request: Request) -> Response:
        """Stop the schedule from running."""
        record = await self._store.write(
            schedules.pause_schedule,
            _id(request),
            project=read_caller(request).project,
            by=read_actor(request),
            now=utc_now(),
        )
        logger.info("schedule_paused", extra={"schedule_id": str(record.id)})
        return _answer(record)

    async def resume_schedule(self, request: Request) -> Response:
        """Let the schedule run again, from its next time on."""
        project, by = read_caller(request).project, read_actor(request)
        record = await self._store.write(_resume, _id(request), project=project, by=by)
        logger.info("schedule_resumed", extra={"schedule_id": str(record.id)})
        return _answer(record)

    async def run_schedule(self, request: Request) -> Response:
        """Make a run now, paused or not; the times of the schedule stay as they are."""
        schedule_id, by, now = _id(request), read_actor(request), utc_now()
        project = read_caller(request).project
        key = request_key(request, KeyScope.SCHEDULE_RUN, schedule_id.bytes)
        if again := await find_replay(self._store, key):
            return again
        record = await self._store.read(schedules.get_schedule, schedule_id, project=project)
        # Not in the transaction that stores it: a large batch takes a while to validate.
        run = await self._slow.run(caller_of(request), scheduled_run, record, run_at=now, now=now)
        next_runs = _next_runs(record)
        async with self._store.long_call(LongCall.SUBMIT, caller_of(request)):
            result = await self._store.write(
                _run, record.id, run, next_runs, key, project=project, by=by, now=now
            )
        if result.status is SubmissionStatus.STORED:
            logger.info("schedule_run_made", extra={"schedule_id": str(record.id), **run.facts})
        return answer_of(result)

    async def delete_schedule(self, request: Request) -> Response:
        """Delete the schedule; the jobs that it made stay."""
        schedule_id, by, project = _id(request), read_actor(request), read_caller(request).project
        await self._store.write(schedules.delete_schedule, schedule_id, project=project, by=by, now=utc_now())
        logger.info("schedule_deleted", extra={"schedule_id": str(schedule_id)})
        return Response(status_code=HTTPStatus.NO_CONTENT)


def schedule_document(record: ScheduleRecord, next_runs: list[datetime] | None = None) -> bytes:
    """Return the document of a stored schedule as JSON, with its next times, worked out if not given."""
    timetable = record.timetable
    cron = timetable if isinstance(timetable, Cron) else None
    last_at = record.last_run_at
    document = Schedule.of(
        record,
        cron=cron.expression if cron else None,
        timezone=cron.timezone if cron else None,
        every_seconds=timetable.seconds if isinstance(timetable, Every) else None,
        starts_at=timetable.starts_at,
        job=None,
        batch=None,
        paused=record.paused_at is not None,
        next_runs=_next_runs(record) if next_runs is None else next_runs,
        last_run=LastRun(run_at=last_at, job_id=record.last_job_id, batch_id=record.last_batch_id)
        if last_at
        else None,
    )
    # As it is stored: nobody reads it on the way.
    template = pick(record.template, _TEMPLATE)
    said = document.model_dump_json(exclude={"job", "batch"})
    parts = {"job": text_of(template.job), "batch": text_of(template.batch)}
    return embed(said, **{name: shown(text, redact_submission) for name, text in parts.items()})


def _next_runs(record: ScheduleRecord) -> list[datetime]:
    next_at = record.next_run_at
    return next_times(record.timetable, not_before=next_at, limit=_NEXT_RUNS) if next_at else []


def _id(request: Request) -> UUID:
    return read_id(request, "schedule_id", ScheduleNotFound)


def _read_schedule(body: bytes, limits: ScheduleLimits, *, project: str) -> tuple[NewSchedule, KeptAnswer]:
    submission = read_document(ScheduleSubmission, body)
    schedule = new_schedule(submission, schedule_id=new_id(), project=project, now=utc_now(), limits=limits)
    document = schedule_document(ScheduleRecord.of(schedule))
    answer = KeptAnswer(HTTPStatus.CREATED, f"/schedules/{schedule.id}", document)
    return schedule, answer


def _what_runs(template: Mapping[str, Any]) -> tuple[str, list[object]]:
    """Return the kind of a template's jobs, and all arguments that one may have."""
    if "job" in template:
        return template["job"]["kind"], [template["job"]["args"]]
    batch = template["batch"]
    return batch["kind"], [batch.get("defaults"), *batch["items"]]


def _insert(
    connection: Connection,
    schedule: NewSchedule,
    answer: KeptAnswer,
    key: IdempotencyKey | None,
    by: str,
    *,
    most: int,
) -> SubmissionResult:
    def insert(connection: Connection) -> KeptAnswer:
        schedules.insert_schedule(connection, schedule, by=by, most=most)
        return answer

    return make_once(connection, key, schedule.id, insert)


def _run(
    connection: Connection,
    schedule_id: UUID,
    run: ScheduledRun,
    next_runs: list[datetime],
    key: IdempotencyKey | None,
    *,
    project: str | None,
    by: str,
    now: datetime,
) -> SubmissionResult:
    def make_run(connection: Connection) -> KeptAnswer:
        record = schedules.run_now(connection, schedule_id, run, project=project, by=by, now=now)
        return KeptAnswer(HTTPStatus.ACCEPTED, run.path, schedule_document(record, next_runs))

    return make_once(connection, key, schedule_id, make_run)


def _resume(connection: Connection, schedule_id: UUID, *, project: str | None, by: str) -> ScheduleRecord:
    record, now = schedules.get_schedule(connection, schedule_id, project=project), utc_now()
    next_run_at = first_time(record.timetable, after=now)
    return schedules.resume_schedule(
        connection, schedule_id, project=project, next_run_at=next_run_at, by=by, now=now
    )


def _page(connection: Connection, *, project: str | None, limit: int, after: UUID | None) -> bytes:
    found = schedules.list_schedules(connection, project=project, limit=limit, after=after)
    return page_of([schedule_document(record) for record in found.records], following=found.following)


def _answer(record: ScheduleRecord) -> Response:
    return json_response(schedule_document(record))
