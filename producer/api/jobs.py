"""The operations on jobs: submit, look up, list, cancel."""

import asyncio
import hashlib
import logging
from http import HTTPStatus
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Job, JobPage, accepted_document, job_document, job_summary
from producer.api.requests import (
    LARGE_BODY_BYTES,
    Query,
    read_actor,
    read_document,
    read_id,
    read_idempotency_key,
)
from producer.api.responses import REPLAYED_HEADER, json_response
from producer.api.writer import JobWriter
from producer.records import IdempotencyKey, JobFilter, NewJob, SubmissionResult, SubmissionStatus
from producer.store import endings, queries, queues
from producer.store.database import Connection, Store
from producer.submission import new_job
from producer.submission_models import JobSubmission
from shared.clock import utc_now
from shared.errors import IdempotencyConflict, JobNotFound
from shared.identity import new_id
from shared.states import JobState

logger = logging.getLogger(__name__)


class JobHandlers:
    """Accepts single jobs and shows what became of them."""

    def __init__(self, store: Store, writer: JobWriter) -> None:
        self._store = store
        self._writer = writer

    async def submit_job(self, request: Request) -> Response:
        """Store one job, to run now or at its time, then answer 202: from then on it is never lost."""
        body = await request.body()
        key = read_idempotency_key(request, hashlib.sha256(body).digest())
        if len(body) > LARGE_BODY_BYTES:
            submission, job = await asyncio.to_thread(_read_job, body, key)
        else:
            submission, job = _read_job(body, key)
        result = await self._writer.write(job)
        if result.status is not SubmissionStatus.STORED:
            return await self._answer_again(submission, result)
        facts = {"job_id": str(job.id), "kind": job.kind, "lane": job.lane, "attempt": 0}
        logger.info("job_scheduled" if job.due_at else "job_accepted", extra=facts)
        return json_response(accepted_document(job), HTTPStatus.ACCEPTED, _location(job.id))

    async def _answer_again(self, submission: JobSubmission, result: SubmissionResult) -> Response:
        if result.status is SubmissionStatus.CONFLICT:
            raise IdempotencyConflict(f"the key was used for job {result.id}")
        record = await self._store.read(queries.get_job, result.id)
        headers = _location(record.id)
        if result.status is SubmissionStatus.REPLAYED:
            # Made anew from the same request: the stored job may have another time or other arguments by now.
            first = new_job(submission, job_id=record.id, now=record.created_at)
            headers[REPLAYED_HEADER] = "true"
            return json_response(accepted_document(first), HTTPStatus.ACCEPTED, headers)
        if result.status is SubmissionStatus.DUPLICATE_REPLAYED:
            headers[REPLAYED_HEADER] = "true"
        document = job_document(record).model_copy(update={"duplicate_of": record.id})
        return json_response(document, HTTPStatus.OK, headers)

    async def get_job(self, request: Request) -> Response:
        """Answer with the job and every attempt."""
        return json_response(await self._store.read(_look_up, read_id(request, "job_id", JobNotFound)))

    async def list_jobs(self, request: Request) -> Response:
        """Answer with one page of jobs, newest first; it may be short while there is more."""
        query = Query(request)
        state = query.text("state")
        job_filter = JobFilter(
            state=JobState(state) if state else None,
            kind=query.text("kind"),
            batch_id=query.id("batch_id", formerly="batch"),
            host=query.host(),
            schedule_id=query.id("schedule_id", formerly="schedule"),
            url=query.text("url"),
            reason=query.text("reason"),
            labels=query.labels,
            created_after=query.time("created_after"),
            created_before=query.time("created_before"),
        )
        page = self._store.read(_job_page, job_filter, limit=query.limit, after=query.id("cursor"))
        return json_response(await page)

    async def cancel_job(self, request: Request) -> Response:
        """Cancel a job: at once when it waits, by its worker when it runs."""
        job_id = read_id(request, "job_id", JobNotFound)
        record = await self._store.write(endings.cancel_job, job_id, by=read_actor(request), now=utc_now())
        facts = {"job_id": str(job_id), "kind": record.kind, "run": record.run, "attempt": record.attempt}
        logger.info("job_cancel_requested", extra={**facts, "state": record.state.value})
        return json_response(job_document(record), HTTPStatus.ACCEPTED, _location(job_id))


def _read_job(body: bytes, key: IdempotencyKey | None) -> tuple[JobSubmission, NewJob]:
    submission = read_document(JobSubmission, body)
    return submission, new_job(submission, job_id=new_id(), now=utc_now(), idempotency=key)


def _look_up(connection: Connection, job_id: UUID) -> Job:
    record = queries.get_job(connection, job_id)
    if record.state.is_final:
        # Pauses and queues no longer matter to it.
        return job_document(record)
    return job_document(record, queues.circumstances(connection, now=utc_now()))


def _job_page(connection: Connection, job_filter: JobFilter, *, limit: int, after: UUID | None) -> bytes:
    found = queries.search_jobs(connection, job_filter, limit=limit, after=after)
    known = queues.circumstances(connection, now=utc_now())
    document = JobPage(
        items=[job_summary(record, known) for record in found.records],
        next=str(found.following) if found.following else None,
    )
    return document.model_dump_json().encode()


def _location(job_id: UUID) -> dict[str, str]:
    return {"Location": f"/jobs/{job_id}"}
