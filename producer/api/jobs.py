"""The operations on jobs: submit, look up, list, cancel."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import accepted_document, job_document, job_summary
from producer.api.end_waiters import EndWaiters, Waited, first_of
from producer.api.replays import find_replay, replay, request_key, respond
from producer.api.requests import (
    LARGE_BODY_BYTES,
    Query,
    departure,
    read_actor,
    read_caller,
    read_document,
    read_id,
)
from producer.api.responses import json_response, page_link
from producer.api.security import check_may_run
from producer.api.slow_work import SlowWork, caller_of
from producer.api.writer import JobWriter
from producer.records import (
    IdempotencyKey,
    JobFilter,
    JobRecord,
    KeptAnswer,
    KeyScope,
    NewJob,
    SubmissionResult,
    SubmissionStatus,
)
from producer.store import endings, idempotency, queries, queues
from producer.store.database import Connection, Store
from producer.stored_json import page_of
from producer.submission import new_job
from producer.submission_models import JobSubmission, TaskSubmission
from shared.clock import utc_now
from shared.errors import JobInvalid, JobNotFound
from shared.identity import new_id
from shared.states import JobState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Form:
    """How a job is handed in, and how it is shown to those who hand in such.

    Attributes:
        path: Below which it is found by its id.
        accepted: The document of a job as it is stored.
        duplicate: The document of a job that was there before, as JSON.
    """

    path: str
    model: type[JobSubmission | TaskSubmission]
    accepted: Callable[[NewJob], BaseModel]
    duplicate: Callable[[JobRecord], bytes]


def _duplicate_document(record: JobRecord) -> bytes:
    return job_document(record, duplicate_of=record.id)


_AS_JOB = Form("/jobs", JobSubmission, accepted_document, _duplicate_document)


class JobHandlers:
    """Accepts single jobs and shows what became of them."""

    def __init__(self, store: Store, writer: JobWriter, slow: SlowWork, waiters: EndWaiters) -> None:
        self._store = store
        self._writer = writer
        self._slow = slow
        self._waiters = waiters

    async def submit_job(self, request: Request) -> Response:
        """Store one job, to run now or at its time, then answer 202: from then on it is never lost."""
        return await submit(self._store, self._writer, self._slow, request, _AS_JOB)

    async def get_job(self, request: Request) -> Response:
        """Answer with the job and every attempt; at its end, or after so long, if it is asked to wait."""
        job_id, project = read_id(request, "job_id", JobNotFound), read_caller(request).project
        wait_seconds = Query(request).number("wait")
        if not wait_seconds:
            document, _ = await self._store.read(look_up_job, job_id, project=project)
            return json_response(document, headers=page_link("jobs", job_id))
        async with departure(request) as gone, self._waiters.waiting(Waited.JOB, job_id) as ended:
            document, is_ended = await self._store.read(look_up_job, job_id, project=project)
            if not is_ended:
                await first_of(ended, gone, wait_seconds=wait_seconds)
                document, _ = await self._store.read(look_up_job, job_id, project=project)
        return json_response(document, headers=page_link("jobs", job_id))

    async def list_jobs(self, request: Request) -> Response:
        """Answer with one page of jobs, newest first; it may be short while there is more."""
        query = Query(request)
        page = self._store.read_page(
            caller_of(request),
            _job_page,
            read_job_filter(query),
            project=read_caller(request).project,
            limit=query.limit,
            after=query.id("cursor"),
        )
        return json_response(await page)

    async def cancel_job(self, request: Request) -> Response:
        """Cancel a job: at once when it waits, by its worker when it runs."""
        job_id, project = read_id(request, "job_id", JobNotFound), read_caller(request).project
        record = await self._store.write(
            endings.cancel_job, job_id, project=project, by=read_actor(request), now=utc_now()
        )
        facts = {"job_id": str(job_id), "kind": record.kind, "run": record.run, "attempt": record.attempt}
        logger.info("job_cancel_requested", extra={**facts, "state": record.state.value})
        return json_response(job_document(record), HTTPStatus.ACCEPTED, _location(job_id))


def read_job_filter(query: Query) -> JobFilter:
    """Return which jobs a request asks to list.

    Raises:
        HttpProblem: 400: a parameter was sent by its former name, too.
    """
    state = query.text("state")
    return JobFilter(
        state=JobState(state) if state else None,
        kind=query.text("kind"),
        batch_id=query.id("batch_id", formerly="batch"),
        host=query.host(),
        schedule_id=query.id("schedule_id", formerly="schedule"),
        ref=query.text("ref"),
        url=query.text("url"),
        reason=query.text("reason"),
        labels=query.labels,
        created_after=query.time("created_after"),
        created_before=query.time("created_before"),
    )


async def submit(store: Store, writer: JobWriter, slow: SlowWork, request: Request, form: Form) -> Response:
    """Store the one job that a request hands in, and answer with it, or with one that was there before."""
    body, project = await request.body(), read_caller(request).home
    key = request_key(request, KeyScope.JOB, body)
    try:
        if len(body) > LARGE_BODY_BYTES:
            submission, job, answer = await slow.run(caller_of(request), _parse_job, body, form, project)
        else:
            submission, job, answer = _parse_job(body, form, project)
    except JobInvalid:
        # Not before: a request without a key, or with a new one, pays nothing for it.
        if again := await find_replay(store, key):
            return again
        raise
    check_may_run(request, job.kind, [job.args])
    if key:
        job = replace(job, idempotency=replace(key, answer=answer))
    result = await writer.write(job)
    if result.status is not SubmissionStatus.STORED:
        return replay(result) or await _answer_with(store, result, submission, job, form)
    facts = {"job_id": str(job.id), "kind": job.kind, "lane": job.lane, "attempt": 0}
    logger.info("job_scheduled" if job.due_at else "job_accepted", extra=facts)
    return respond(answer)


async def _answer_with(
    store: Store,
    result: SubmissionResult,
    submission: JobSubmission | TaskSubmission,
    job: NewJob,
    form: Form,
) -> Response:
    """Answer with a job that was there before the one handed in, where no answer is kept."""
    key, project = job.idempotency, job.project
    match result.status:
        case SubmissionStatus.REPLAYED:
            # Version 0.1.0 took the key. The stored job may have another time or other arguments by now.
            record = await store.read(queries.get_job, result.id, project=project)
            first = new_job(submission, job_id=record.id, project=project, now=record.created_at)
            answer = _answer(HTTPStatus.ACCEPTED, form, record.id, _json(form.accepted(first)))
            return respond(answer, is_replay=True)
        case SubmissionStatus.DUPLICATE | SubmissionStatus.DUPLICATE_REPLAYED if key:
            answer = await store.write(_keep_duplicate, result.id, key, form)
        case _:
            answer = await store.read(_duplicate, result.id, form, project=project)
    return respond(answer, is_replay=result.status is SubmissionStatus.DUPLICATE_REPLAYED)


def _parse_job(
    body: bytes, form: Form, project: str
) -> tuple[JobSubmission | TaskSubmission, NewJob, KeptAnswer]:
    submission = read_document(form.model, body)
    job = new_job(submission, job_id=new_id(), project=project, now=utc_now())
    return submission, job, _answer(HTTPStatus.ACCEPTED, form, job.id, _json(form.accepted(job)))


def _duplicate(connection: Connection, job_id: UUID, form: Form, *, project: str) -> KeptAnswer:
    record = queries.get_job(connection, job_id, project=project)
    return _answer(HTTPStatus.OK, form, job_id, form.duplicate(record))


def _keep_duplicate(connection: Connection, job_id: UUID, key: IdempotencyKey, form: Form) -> KeptAnswer:
    answer = _duplicate(connection, job_id, form, project=key.project)
    return idempotency.keep_answer(connection, key, answer)


def _answer(status: HTTPStatus, form: Form, job_id: UUID, document: bytes) -> KeptAnswer:
    return KeptAnswer(status, f"{form.path}/{job_id}", document)


def _json(document: BaseModel) -> bytes:
    return document.model_dump_json().encode()


def look_up_job(connection: Connection, job_id: UUID, *, project: str | None) -> tuple[bytes, bool]:
    """Return the document of a job, and whether it has ended."""
    record = queries.get_job(connection, job_id, project=project)
    if record.state.is_final:
        # Pauses and queues no longer matter to it.
        return job_document(record), True
    return job_document(record, queues.circumstances(connection, now=utc_now(), around=[record])), False


def _job_page(
    connection: Connection,
    job_filter: JobFilter,
    *,
    project: str | None,
    limit: int,
    after: UUID | None,
) -> bytes:
    found = queries.search_jobs(connection, job_filter, project=project, limit=limit, after=after)
    known = queues.circumstances(connection, now=utc_now(), around=found.records)
    return page_of([job_summary(record, known) for record in found.records], following=found.following)


def _location(job_id: UUID) -> dict[str, str]:
    return {"Location": f"/jobs/{job_id}"}
