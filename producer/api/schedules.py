"""The operations on schedules: create, look up, list, pause, resume, run now, delete."""

import logging
from http import HTTPStatus
from uuid import UUID

import flask
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import schedule_document
from producer.api.guard import JSON_TYPE
from producer.api.ids import read_id
from producer.api.pools import Pools
from producer.api.reading import read_document
from producer.api.schedule_models import SchedulePage
from producer.records import ScheduleRecord
from producer.scheduling import new_schedule, scheduled_run
from producer.store import schedules
from producer.store.database import Database
from producer.submission_models import ScheduleSubmission
from producer.timetable import first_time
from shared.clock import utc_now
from shared.errors import ScheduleNotFound
from shared.identity import new_id

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 100


class ScheduleOperations:
    """Keeps what is to be run again and again; the ledger runs it."""

    def __init__(self, store: Database, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def submit_schedule(self, request: Request) -> Response:
        """Store a schedule and answer 201 with it."""
        record = await self._pools.short(self._store_schedule, await request.body())
        logger.info("schedule_created", extra={"schedule_id": str(record.id)})
        headers = {"Location": f"/schedules/{record.id}"}
        return Response(schedule_document(record).model_dump_json(), HTTPStatus.CREATED, headers, JSON_TYPE)

    def list_schedules(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> flask.Response:
        """Answer with one page of schedules, newest first."""
        # One more than asked for tells whether there is a next page.
        records = self._store.read(
            schedules.list_schedules, limit=limit + 1, after=UUID(cursor) if cursor else None
        )
        page = records[:limit]
        following = str(page[-1].id) if len(records) > limit else None
        document = SchedulePage(items=[schedule_document(record) for record in page], next=following)
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    def get_schedule(self, schedule_id: str) -> flask.Response:
        """Answer with the schedule, its next five times and its last run."""
        return _answer(self._store.read(schedules.get_schedule, read_id(schedule_id, ScheduleNotFound)))

    def pause_schedule(self, schedule_id: str) -> flask.Response:
        """Stop the schedule from running."""
        record = self._store.write(
            schedules.pause_schedule, read_id(schedule_id, ScheduleNotFound), now=utc_now()
        )
        logger.info("schedule_paused", extra={"schedule_id": schedule_id})
        return _answer(record)

    def resume_schedule(self, schedule_id: str) -> flask.Response:
        """Let the schedule run again, from its next time on."""
        record = self._store.read(schedules.get_schedule, read_id(schedule_id, ScheduleNotFound))
        next_run_at = first_time(record.timetable, after=utc_now())
        resumed = self._store.write(schedules.resume_schedule, record.id, next_run_at=next_run_at)
        logger.info("schedule_resumed", extra={"schedule_id": schedule_id})
        return _answer(resumed)

    def run_schedule(self, schedule_id: str) -> flask.Response:
        """Make a run now, paused or not; the times of the schedule stay as they are."""
        record = self._store.read(schedules.get_schedule, read_id(schedule_id, ScheduleNotFound))
        now = utc_now()
        run = scheduled_run(record, run_at=now, now=now)
        record = self._store.write(schedules.run_now, record.id, run)
        logger.info("schedule_run_made", extra={"schedule_id": schedule_id, **run.facts})
        return _answer(record, HTTPStatus.ACCEPTED, {"Location": run.path})

    def delete_schedule(self, schedule_id: str) -> flask.Response:
        """Delete the schedule; the jobs that it made stay."""
        self._store.write(schedules.delete_schedule, read_id(schedule_id, ScheduleNotFound))
        logger.info("schedule_deleted", extra={"schedule_id": schedule_id})
        return flask.Response(status=HTTPStatus.NO_CONTENT)

    def _store_schedule(self, body: bytes) -> ScheduleRecord:
        submission = read_document(ScheduleSubmission, body)
        schedule = new_schedule(submission, schedule_id=new_id(), now=utc_now())
        self._store.write(schedules.insert_schedule, schedule)
        return self._store.read(schedules.get_schedule, schedule.id)


def _answer(
    record: ScheduleRecord, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> flask.Response:
    return flask.Response(schedule_document(record).model_dump_json(), status, headers, mimetype=JSON_TYPE)
