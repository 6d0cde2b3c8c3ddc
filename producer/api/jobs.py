"""The operations on jobs: submit, look up, list."""

import logging
from http import HTTPStatus
from uuid import UUID

import flask
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import accepted_document, job_document, job_summary
from producer.api.guard import JSON_TYPE
from producer.api.ids import read_id
from producer.api.models import JobPage, JobSubmission
from producer.api.pools import Pools
from producer.api.reading import LARGE_BODY_BYTES, read_document
from producer.api.writer import JobWriter
from producer.records import JobFilter, NewJob
from producer.store.store import JobStore
from producer.submission import new_job
from shared.clock import utc_now
from shared.errors import JobNotFound
from shared.identity import new_id
from shared.states import JobState

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 100


class JobOperations:
    """Takes single jobs and tells what became of them."""

    def __init__(self, store: JobStore, writer: JobWriter, pools: Pools) -> None:
        self._store = store
        self._writer = writer
        self._pools = pools

    async def submit_job(self, request: Request) -> Response:
        """Store one job, then answer 202: from then on it is never lost."""
        body = await request.body()
        if len(body) > LARGE_BODY_BYTES:
            job = await self._pools.short(_read_job, body)
        else:
            job = _read_job(body)
        await self._writer.write(job)
        logger.info(
            "job_accepted", extra={"job_id": str(job.id), "kind": job.kind, "lane": job.lane, "attempt": 0}
        )
        headers = {"Location": f"/jobs/{job.id}"}
        return _json(accepted_document(job), HTTPStatus.ACCEPTED, headers)

    async def get_job(self, request: Request) -> Response:
        """Answer with the job and every attempt."""
        job_id = read_id(request.path_params["job_id"], JobNotFound)
        return _json(job_document(await self._pools.short(self._store.get_job, job_id)))

    def list_jobs(
        self,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        state: str | None = None,
        kind: str | None = None,
        batch: str | None = None,
        host: str | None = None,
    ) -> flask.Response:
        """Answer with one page of jobs, newest first."""
        job_filter = JobFilter(
            state=JobState(state) if state else None,
            kind=kind,
            batch_id=UUID(batch) if batch else None,
            host=host.lower() if host else None,
        )
        # One more than asked for tells whether there is a next page.
        after = UUID(cursor) if cursor else None
        records = self._store.list_jobs(job_filter, limit=limit + 1, after=after)
        page = records[:limit]
        following = str(page[-1].id) if len(records) > limit else None
        document = JobPage.model_construct(items=[job_summary(record) for record in page], next=following)
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)


def _read_job(body: bytes) -> NewJob:
    return new_job(read_document(JobSubmission, body), job_id=new_id(), now=utc_now())


def _json(
    document: BaseModel, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(document.model_dump_json(), status, headers, JSON_TYPE)
