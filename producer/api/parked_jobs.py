"""The operations on parked jobs: group them, send one back, end one for good."""

import logging
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Document, ShownText, job_document
from producer.api.replays import answer_of, find_replay, make_once, request_key
from producer.api.requests import Query, read_actor, read_caller, read_document, read_id
from producer.api.responses import json_response
from producer.api.security import check_may_run
from producer.parking import ParkedFilter, ParkedGroup
from producer.records import IdempotencyKey, JobRecord, KeptAnswer, KeyScope, SubmissionResult
from producer.store import parking, queries
from producer.store.database import Connection, Store
from producer.submission import find_kind, unique_key, valid_args
from shared.clock import utc_now
from shared.errors import JobNotFound

logger = logging.getLogger(__name__)


class RedriveRequest(BaseModel):
    """How a single job is sent back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    args: Annotated[
        dict[str, Any] | None,
        Field(description="These replace all its arguments. The audit log keeps the old ones."),
    ] = None


class ParkedGroupDocument(Document):
    """The parked jobs of one kind, reason and host."""

    group: Annotated[str, Field(description="Its id, always the same for one kind, reason and host.")]
    kind: str
    reason: Annotated[str, Field(description="The first 100 characters of the reason; empty for none.")]
    host: str
    count: int
    first_parked_at: datetime
    last_parked_at: datetime
    sample_job_id: Annotated[UUID, Field(description="The newest of its jobs.")]
    sample_explanation: ShownText | None


class ParkedGroupList(Document):
    """The largest groups of parked jobs."""

    items: list[ParkedGroupDocument]
    total_groups: Annotated[int, Field(description="How many groups match in total.")]
    total_jobs: Annotated[int, Field(description="How many parked jobs match in total.")]


class ParkedJobHandlers:
    """Shows what is parked, and does what a person decides on one job of it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list_parked(self, request: Request) -> Response:
        """Answer with the largest groups of parked jobs."""
        query = Query(request)
        parked_filter = ParkedFilter(
            kind=query.text("kind"),
            reason=query.text("reason"),
            host=query.host(),
            batch_id=query.id("batch_id", formerly="batch"),
            parked_after=query.time("parked_after"),
            parked_before=query.time("parked_before"),
        )
        project = read_caller(request).project
        groups = await self._store.read(
            parking.list_groups, parked_filter, project=project, limit=query.limit
        )
        return json_response(ParkedGroupList.of(groups, items=[_group(group) for group in groups.largest]))

    async def redrive_job(self, request: Request) -> Response:
        """Send a parked job back, with other arguments if the body has any: same id, next run."""
        job_id = read_id(request, "job_id", JobNotFound)
        body = await request.body()
        key = request_key(request, KeyScope.OPERATION, b"redrive_job", job_id.bytes, body)
        if again := await find_replay(self._store, key):
            return again
        wanted = read_document(RedriveRequest, body) if body else RedriveRequest()
        project, by = read_caller(request).project, read_actor(request)
        if wanted.args is not None:
            stored = await self._store.read(queries.get_job, job_id, project=project)
            check_may_run(request, stored.kind, [wanted.args])
        result = await self._store.write(_redrive_once, job_id, wanted, key, project=project, by=by)
        return answer_of(result)

    async def discard_job(self, request: Request) -> Response:
        """End a parked job for good."""
        job_id, project = read_id(request, "job_id", JobNotFound), read_caller(request).project
        record = await self._store.write(
            parking.discard, job_id, project=project, now=utc_now(), by=read_actor(request)
        )
        _log("job_discarded", record)
        return json_response(job_document(record))


def _redrive_once(
    connection: Connection,
    job_id: UUID,
    wanted: RedriveRequest,
    key: IdempotencyKey | None,
    *,
    project: str | None,
    by: str,
) -> SubmissionResult:
    def redrive(connection: Connection) -> KeptAnswer:
        record = _redrive(connection, job_id, wanted, project=project, by=by)
        _log("job_redriven", record)
        return KeptAnswer(HTTPStatus.ACCEPTED, f"/jobs/{job_id}", job_document(record))

    # The job may be parked again, and ought not to be sent back again, when the same request comes again.
    return make_once(connection, key, job_id, redrive)


def _redrive(
    connection: Connection, job_id: UUID, wanted: RedriveRequest, *, project: str | None, by: str
) -> JobRecord:
    if wanted.args is None:
        return parking.redrive(connection, job_id, project=project, now=utc_now(), by=by)
    record = queries.get_job(connection, job_id, project=project)
    kind = find_kind(record.kind)
    args = valid_args(kind, wanted.args)
    return parking.redrive_edited(
        connection,
        job_id,
        project=project,
        args=args.document,
        host=args.host,
        unique_key=unique_key(kind.name, args.document, project=record.project),
        by=by,
        now=utc_now(),
    )


def _group(group: ParkedGroup) -> ParkedGroupDocument:
    key = group.key
    return ParkedGroupDocument.of(group, group=key.id, kind=key.kind, reason=key.reason, host=key.host)


def _log(event: str, record: JobRecord) -> None:
    facts = {"job_id": str(record.id), "kind": record.kind, "run": record.run, "attempt": 0}
    logger.info(event, extra=facts)
