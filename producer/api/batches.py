"""The operations on batches: submit as JSON or as a stream, count, cancel, and list what was rejected."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from uuid import UUID

import flask
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import batch_document, rejected_document
from producer.api.guard import JSON_TYPE
from producer.api.idempotency import REPLAYED_HEADER, read_idempotency_key
from producer.api.ids import read_id
from producer.api.models import Batch, BatchPage, RejectedPage
from producer.api.parameters import read_labels
from producer.api.pools import Pools
from producer.api.problems import HttpProblem
from producer.api.reading import read_document
from producer.api.spool import BatchSpool
from producer.api.streams import Stream
from producer.batch_validation import validate_items
from producer.records import NewBatch, SubmissionStatus
from producer.store import endings, queries, submissions
from producer.store.database import Database
from producer.submission import JobTemplate
from producer.submission_models import BatchSubmission
from shared.clock import utc_now
from shared.errors import BatchNotFound, IdempotencyConflict
from shared.identity import new_id
from shared.states import JobState

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 100


class BatchOperations:
    """Takes many jobs at once and tells how far they are."""

    def __init__(self, store: Database, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def submit_batch(self, request: Request) -> Response:
        """Store the jobs of a body and answer 202 with the batch."""
        with BatchSpool() as spool:
            is_document = request.headers["content-type"] == JSON_TYPE
            take = self._take_document if is_document else self._take_stream
            taken = await take(request, spool)
            spool.check(strict=taken.strict, noun=taken.noun)
            idempotency = read_idempotency_key(request, taken.fingerprint)
            new = replace(taken.template.batch(batch_id=new_id()), idempotency=idempotency)
            batch, how = await self._pools.long(self._store_batch, new, taken.template, spool)
        headers = {"Location": f"/batches/{batch.id}"}
        if how is SubmissionStatus.REPLAYED:
            headers[REPLAYED_HEADER] = "true"
        else:
            counted = {"total": batch.total, "rejected": batch.rejected.count}
            facts = {"batch_id": str(batch.id), "kind": batch.kind, **counted}
            logger.info("batch_accepted", extra=facts)
        return Response(batch.model_dump_json(), HTTPStatus.ACCEPTED, headers, JSON_TYPE)

    def get_batch(self, batch_id: str) -> flask.Response:
        """Answer with the batch and its counts."""
        record = self._store.read(queries.get_batch, read_id(batch_id, BatchNotFound))
        return flask.Response(batch_document(record).model_dump_json(), mimetype=JSON_TYPE)

    def list_batches(
        self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None, label: Sequence[str] = ()
    ) -> flask.Response:
        """Answer with one page of batches, newest first; it may be short while there is more."""
        after = UUID(cursor) if cursor else None
        found = self._store.read(queries.search_batches, read_labels(label), limit=limit, after=after)
        document = BatchPage(
            items=[batch_document(record) for record in found.records],
            next=str(found.following) if found.following else None,
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    def list_rejected(
        self, batch_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> flask.Response:
        """Answer with one page of the lines or items that became no job, in their order."""
        found = self._store.read(
            queries.list_rejected, read_id(batch_id, BatchNotFound), after=int(cursor or 0), limit=limit + 1
        )
        page = found[:limit]
        document = RejectedPage(
            items=[rejected_document(each) for each in page],
            next=str(page[-1].number) if len(found) > limit else None,
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    async def cancel_batch(self, request: Request) -> Response:
        """Cancel a batch: what waits at once, what runs by its worker."""
        batch_id = read_id(request.path_params["batch_id"], BatchNotFound)
        record = await self._pools.long(endings.cancel_batch, self._store, batch_id, now=utc_now())
        logger.info("batch_cancel_requested", extra={"batch_id": str(batch_id), "total": record.total})
        headers = {"Location": f"/batches/{batch_id}"}
        return Response(batch_document(record).model_dump_json(), HTTPStatus.ACCEPTED, headers, JSON_TYPE)

    async def _take_document(self, request: Request, spool: BatchSpool) -> "_Taken":
        if request.query_params:
            detail = "A JSON batch says everything in its body, and nothing in the query."
            raise HttpProblem(HTTPStatus.BAD_REQUEST, detail)
        body = await request.body()
        template, strict = await self._pools.short(_judge_document, body, spool)
        return _Taken(template, strict, "items", hashlib.sha256(body).digest())

    async def _take_stream(self, request: Request, spool: BatchSpool) -> "_Taken":
        media_type, query = request.headers["content-type"], request.query_params
        stream = Stream.open(media_type, dict(query), spool)
        # What the request says is its type, its query and its body.
        said = hashlib.sha256(f"{media_type}\n{query}\n".encode())
        # A client that leaves raises ClientDisconnect here, so nothing of it is stored.
        async for chunk in request.stream():
            said.update(chunk)
            await self._pools.short(stream.feed, chunk)
        await self._pools.short(stream.finish)
        return _Taken(stream.template, stream.strict, "lines", said.digest())

    def _store_batch(
        self, batch: NewBatch, template: JobTemplate, spool: BatchSpool
    ) -> tuple[Batch, SubmissionStatus]:
        jobs = spool.jobs(template, batch_id=batch.id)
        admitted = self._store.write(submissions.insert_batch, batch, jobs, spool.rejected())
        if admitted.status is SubmissionStatus.CONFLICT:
            raise IdempotencyConflict(f"the key was used for batch {admitted.id}")
        record = self._store.read(queries.get_batch, admitted.id)
        # The same answer however often it is asked for, and however far the batch has come since.
        state = JobState.SCHEDULED if template.timing.due_at else JobState.ACCEPTED
        first = replace(
            record,
            counts={state: record.total},
            finished_at=None,
            cancelled_at=None,
            previous_mark=None,
            current_mark=None,
        )
        return batch_document(first), admitted.status


@dataclass(frozen=True, slots=True)
class _Taken:
    """A batch that has arrived; its jobs are in the spool."""

    template: JobTemplate
    strict: bool
    noun: str
    fingerprint: bytes


def _judge_document(body: bytes, spool: BatchSpool) -> tuple[JobTemplate, bool]:
    submission = read_document(BatchSubmission, body)
    template = JobTemplate.of(submission, now=utc_now())
    for judged in validate_items(submission, template):
        spool.add(judged)
    return template, submission.strict
