"""The operations on batches: submit as JSON or as lines of text, and count."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from http import HTTPStatus
from uuid import UUID

import flask
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import batch_document
from producer.api.guard import JSON_TYPE
from producer.api.idempotency import REPLAYED_HEADER, read_idempotency_key
from producer.api.ids import read_id
from producer.api.lines import LineBatch
from producer.api.models import Batch, BatchPage, BatchSubmission
from producer.api.parameters import read_labels
from producer.api.pools import Pools
from producer.api.problems import HttpProblem
from producer.api.reading import read_document
from producer.records import How, NewBatch, NewJob
from producer.store.store import JobStore
from producer.submission import JobTemplate, ValidArgs, batch_args, find_kind
from shared.clock import utc_now
from shared.errors import BatchNotFound, IdempotencyConflict
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.states import JobState

logger = logging.getLogger(__name__)

DEFAULT_KIND = "check"
DEFAULT_LIMIT = 100


class BatchOperations:
    """Takes many jobs at once, all or none, and tells how far they are."""

    def __init__(self, store: JobStore, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def submit_batch(self, request: Request) -> Response:
        """Store the jobs of a body and answer 202 with the batch."""
        if request.headers["content-type"] == JSON_TYPE:
            batch, how = await self._submit_document(request)
        else:
            batch, how = await self._submit_lines(request)
        headers = {"Location": f"/batches/{batch.id}"}
        if how is How.REPLAYED:
            headers[REPLAYED_HEADER] = "true"
        else:
            facts = {"batch_id": str(batch.id), "kind": batch.kind, "total": batch.total}
            logger.info("batch_accepted", extra=facts)
        return Response(batch.model_dump_json(), HTTPStatus.ACCEPTED, headers, JSON_TYPE)

    def get_batch(self, batch_id: str) -> flask.Response:
        """Answer with the batch and its counts."""
        record = self._store.get_batch(read_id(batch_id, BatchNotFound))
        return flask.Response(batch_document(record).model_dump_json(), mimetype=JSON_TYPE)

    def list_batches(
        self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None, label: Sequence[str] = ()
    ) -> flask.Response:
        """Answer with one page of batches, newest first; it may be short while there is more."""
        after = UUID(cursor) if cursor else None
        found = self._store.search_batches(read_labels(label), limit=limit, after=after)
        document = BatchPage(
            items=[batch_document(record) for record in found.records],
            next=str(found.following) if found.following else None,
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    async def cancel_batch(self, request: Request) -> Response:
        """Cancel a batch: what waits at once, what runs by its worker."""
        batch_id = read_id(request.path_params["batch_id"], BatchNotFound)
        record = await self._pools.long(self._store.cancel_batch, batch_id, now=utc_now())
        logger.info("batch_cancel_requested", extra={"batch_id": str(batch_id), "total": record.total})
        headers = {"Location": f"/batches/{batch_id}"}
        return Response(batch_document(record).model_dump_json(), HTTPStatus.ACCEPTED, headers, JSON_TYPE)

    async def _submit_document(self, request: Request) -> tuple[Batch, How]:
        if request.query_params:
            detail = "A JSON batch says its kind and lane in the body, not in the query."
            raise HttpProblem(HTTPStatus.BAD_REQUEST, detail)
        body = await request.body()
        idempotency = read_idempotency_key(request, hashlib.sha256(body).digest())
        template, args = await self._pools.short(_read_batch, body)
        batch = replace(template.batch(batch_id=new_id()), idempotency=idempotency)
        state = JobState.SCHEDULED if template.timing.due_at else JobState.ACCEPTED
        jobs = (template.job(each, job_id=new_id(), batch_id=batch.id) for each in args)
        return await self._pools.long(self._store_batch, batch, jobs, state)

    async def _submit_lines(self, request: Request) -> tuple[Batch, How]:
        query = request.query_params
        template = JobTemplate(
            kind=(kind := find_kind(query.get("kind", DEFAULT_KIND))),
            lane=Lane(query.get("lane", Lane.BULK)),
            retry=kind.retry,
            labels={},
            created_at=utc_now(),
        )
        # What the request says is its query and its body.
        said = hashlib.sha256(str(query).encode() + b"\n")
        with LineBatch(template) as lines:
            # A client that leaves raises ClientDisconnect here, so nothing of it is stored.
            async for chunk in request.stream():
                said.update(chunk)
                await self._pools.short(lines.feed, chunk)
            await self._pools.short(lines.finish)
            idempotency = read_idempotency_key(request, said.digest())
            batch = replace(template.batch(batch_id=new_id()), idempotency=idempotency)
            jobs = lines.jobs(batch_id=batch.id)
            return await self._pools.long(self._store_batch, batch, jobs, JobState.ACCEPTED)

    def _store_batch(self, batch: NewBatch, jobs: Iterable[NewJob], state: JobState) -> tuple[Batch, How]:
        admitted = self._store.insert_batch(batch, jobs)
        if admitted.how is How.CONFLICT:
            raise IdempotencyConflict(f"the key was used for batch {admitted.id}")
        record = self._store.get_batch(admitted.id)
        # The same answer however often it is asked for, and however far the batch has come since.
        first = replace(record, counts={state: record.total}, finished_at=None, cancelled_at=None)
        return batch_document(first), admitted.how


def _read_batch(body: bytes) -> tuple[JobTemplate, list[ValidArgs]]:
    submission = read_document(BatchSubmission, body)
    template = JobTemplate.of(submission, now=utc_now())
    return template, batch_args(submission, template)
