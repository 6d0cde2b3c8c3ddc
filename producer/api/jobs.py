"""The operations on jobs: submit, look up, list."""

import hashlib
import logging
from collections.abc import Sequence
from http import HTTPStatus
from uuid import UUID

import flask
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import accepted_document, first_document, job_document, job_summary
from producer.api.guard import JSON_TYPE
from producer.api.idempotency import REPLAYED_HEADER, read_idempotency_key
from producer.api.ids import read_id
from producer.api.models import Job, JobPage
from producer.api.parameters import read_labels, read_time
from producer.api.pools import Pools
from producer.api.reading import LARGE_BODY_BYTES, read_document
from producer.api.responses import json_response
from producer.api.writer import JobWriter
from producer.records import IdempotencyKey, JobFilter, NewJob, SubmissionResult, SubmissionStatus
from producer.store import endings, queries, queues
from producer.store.database import Database
from producer.submission import new_job
from producer.submission_models import JobSubmission
from shared.clock import utc_now
from shared.errors import IdempotencyConflict, JobNotFound
from shared.identity import new_id
from shared.states import JobState

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 100


class JobOperations:
    """Takes single jobs and tells what became of them."""

    def __init__(self, store: Database, writer: JobWriter, pools: Pools) -> None:
        self._store = store
        self._writer = writer
        self._pools = pools

    async def submit_job(self, request: Request) -> Response:
        """Store one job, to run now or at its time, then answer 202: from then on it is never lost."""
        body = await request.body()
        idempotency = read_idempotency_key(request, hashlib.sha256(body).digest())
        if len(body) > LARGE_BODY_BYTES:
            job = await self._pools.short(_read_job, body, idempotency)
        else:
            job = _read_job(body, idempotency)
        admitted = await self._writer.write(job)
        if admitted.status is not SubmissionStatus.STORED:
            return await self._answer_again(admitted)
        facts = {"job_id": str(job.id), "kind": job.kind, "lane": job.lane, "attempt": 0}
        logger.info("job_scheduled" if job.due_at else "job_accepted", extra=facts)
        headers = {"Location": f"/jobs/{job.id}"}
        return json_response(accepted_document(job), HTTPStatus.ACCEPTED, headers)

    async def _answer_again(self, admitted: SubmissionResult) -> Response:
        if admitted.status is SubmissionStatus.CONFLICT:
            raise IdempotencyConflict(f"the key was used for job {admitted.id}")
        record = await self._pools.short(self._store.read, queries.get_job, admitted.id)
        headers = {"Location": f"/jobs/{record.id}"}
        if admitted.status is SubmissionStatus.REPLAYED:
            return json_response(
                first_document(record), HTTPStatus.ACCEPTED, {**headers, REPLAYED_HEADER: "true"}
            )
        document = job_document(record).model_copy(update={"duplicate_of": record.id})
        return json_response(document, HTTPStatus.OK, headers)

    async def get_job(self, request: Request) -> Response:
        """Answer with the job and every attempt."""
        job_id = read_id(request.path_params["job_id"], JobNotFound)
        return json_response(await self._pools.short(self._look_up, job_id))

    def _look_up(self, job_id: UUID) -> Job:
        record = self._store.read(queries.get_job, job_id)
        if record.state.is_final:
            # Nothing around it matters any more.
            return job_document(record)
        return job_document(record, self._store.read(queues.circumstances, now=utc_now()))

    def list_jobs(
        self,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        state: str | None = None,
        kind: str | None = None,
        batch: str | None = None,
        host: str | None = None,
        schedule: str | None = None,
        url: str | None = None,
        reason: str | None = None,
        label: Sequence[str] = (),
        created_after: str | None = None,
        created_before: str | None = None,
    ) -> flask.Response:
        """Answer with one page of jobs, newest first; it may be short while there is more."""
        job_filter = JobFilter(
            state=JobState(state) if state else None,
            kind=kind,
            batch_id=UUID(batch) if batch else None,
            host=host.lower() if host else None,
            schedule_id=UUID(schedule) if schedule else None,
            url=url,
            reason=reason,
            labels=read_labels(label),
            created_after=read_time("created_after", created_after),
            created_before=read_time("created_before", created_before),
        )
        found = self._store.read(
            queries.search_jobs, job_filter, limit=limit, after=UUID(cursor) if cursor else None
        )
        known = self._store.read(queues.circumstances, now=utc_now())
        document = JobPage.model_construct(
            items=[job_summary(record, known) for record in found.records],
            next=str(found.following) if found.following else None,
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    def cancel_job(self, job_id: str) -> flask.Response:
        """Cancel a job: at once when it waits, by its worker when it runs."""
        record = self._store.write(endings.cancel_job, read_id(job_id, JobNotFound), now=utc_now())
        facts = {"job_id": job_id, "kind": record.kind, "run": record.run, "attempt": record.attempt}
        logger.info("job_cancel_requested", extra={**facts, "state": record.state.value})
        return flask.Response(
            job_document(record).model_dump_json(),
            HTTPStatus.ACCEPTED,
            {"Location": f"/jobs/{record.id}"},
            mimetype=JSON_TYPE,
        )


def _read_job(body: bytes, idempotency: IdempotencyKey | None) -> NewJob:
    submission = read_document(JobSubmission, body)
    return new_job(submission, job_id=new_id(), now=utc_now(), idempotency=idempotency)
