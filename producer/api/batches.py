"""The operations on batches: submit as JSON or as a stream, look up, list, cancel, list rejected lines."""

import asyncio
import hashlib
import logging
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from producer.api.batch_bodies import BatchSpool, Stream, read_batch
from producer.api.documents import Batch, BatchPage, RejectedLine, RejectedPage, batch_document
from producer.api.guard import JSON_TYPE
from producer.api.problems import HttpProblem
from producer.api.requests import (
    Query,
    read_actor,
    read_id,
    read_idempotency_key,
)
from producer.api.responses import REPLAYED_HEADER, first_page, json_response
from producer.batch_validation import validate_items
from producer.records import BatchRecord, SubmissionStatus
from producer.store import endings, queries, submissions
from producer.store.database import Connection, Store
from producer.submission import JobTemplate, timing_of
from producer.submission_models import BatchSubmission, StreamedBatchSubmission
from shared.clock import utc_now
from shared.errors import BatchNotFound, IdempotencyConflict
from shared.identity import new_id
from shared.states import JobState

logger = logging.getLogger(__name__)

# Parsing this much JSON in one piece holds Python's one lock for some 40 ms; larger batches come as lines.
MAX_JSON_BYTES: Final = 8 * 1_048_576


class BatchHandlers:
    """Accepts many jobs at once and shows how far they are."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def submit_batch(self, request: Request) -> Response:
        """Store the jobs of a body and answer 202 with the batch."""
        with BatchSpool() as spool:
            is_document = request.headers["content-type"] == JSON_TYPE
            take = _take_document if is_document else _take_stream
            taken = await take(request, spool)
            spool.check(strict=taken.submission.strict, noun=taken.noun)
            key = read_idempotency_key(request, taken.fingerprint)
            new = replace(taken.template.batch(batch_id=new_id()), idempotency=key)
            jobs = spool.jobs(taken.template, batch_id=new.id)
            async with self._store.long_calls:
                result = await self._store.write(submissions.insert_batch, new, jobs, spool.rejected())
        if result.status is SubmissionStatus.CONFLICT:
            raise IdempotencyConflict(f"the key was used for batch {result.id}")
        batch = first_document(await self._store.read(queries.get_batch, result.id), taken.submission)
        headers = _location(batch.id)
        if result.status is SubmissionStatus.REPLAYED:
            headers[REPLAYED_HEADER] = "true"
        else:
            facts = {"batch_id": str(batch.id), "kind": batch.kind, "total": batch.total}
            logger.info("batch_accepted", extra={**facts, "rejected": batch.rejected.count})
        return json_response(batch, HTTPStatus.ACCEPTED, headers)

    async def get_batch(self, request: Request) -> Response:
        """Answer with the batch and its counts."""
        batch_id = read_id(request, "batch_id", BatchNotFound)
        return json_response(batch_document(await self._store.read(queries.get_batch, batch_id)))

    async def list_batches(self, request: Request) -> Response:
        """Answer with one page of batches, newest first; it may be short while there is more."""
        query = Query(request)
        page = self._store.read(_batch_page, query.labels, limit=query.limit, after=query.id("cursor"))
        return json_response(await page)

    async def list_rejected(self, request: Request) -> Response:
        """Answer with one page of the lines or items that became no job, in their order."""
        batch_id, query = read_id(request, "batch_id", BatchNotFound), Query(request)
        after = int(query.text("cursor") or 0)
        found = await self._store.read(queries.list_rejected, batch_id, after=after, limit=query.limit + 1)
        page, following = first_page(found, limit=query.limit, key=lambda line: line.number)
        return json_response(RejectedPage(items=[RejectedLine.of(each) for each in page], next=following))

    async def cancel_batch(self, request: Request) -> Response:
        """Cancel a batch: what waits at once, what runs by its worker."""
        batch_id = read_id(request, "batch_id", BatchNotFound)
        by = read_actor(request)
        async with self._store.long_calls:
            record = await self._store.run(endings.cancel_batch, batch_id, by=by, now=utc_now())
        logger.info("batch_cancel_requested", extra={"batch_id": str(batch_id), "total": record.total})
        return json_response(batch_document(record), HTTPStatus.ACCEPTED, _location(batch_id))


def first_document(record: BatchRecord, submission: BatchSubmission | StreamedBatchSubmission) -> Batch:
    """Return the answer to a submission: the same for every replay, however far the batch has come since."""
    is_scheduled = timing_of(submission, now=record.created_at).due_at is not None
    first = replace(
        record,
        counts={JobState.SCHEDULED if is_scheduled else JobState.ACCEPTED: record.total},
        finished_at=None,
        cancelled_at=None,
        previous_point=None,
        current_point=None,
    )
    return batch_document(first)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A batch that has arrived; its jobs are in the spool."""

    submission: BatchSubmission | StreamedBatchSubmission
    template: JobTemplate
    noun: str
    fingerprint: bytes


async def _take_document(request: Request, spool: BatchSpool) -> _Taken:
    if request.query_params:
        detail = "A JSON batch takes no query parameters; send them as fields of the document."
        raise HttpProblem(HTTPStatus.BAD_REQUEST, detail)
    body = await request.body()
    submission = await asyncio.to_thread(read_batch, body)
    template = JobTemplate.of(submission, now=utc_now())
    await asyncio.to_thread(spool.add_all, validate_items(submission, template))
    return _Taken(submission, template, "items", hashlib.sha256(body).digest())


async def _take_stream(request: Request, spool: BatchSpool) -> _Taken:
    media_type, query = request.headers["content-type"], request.query_params
    stream = Stream.open(media_type, dict(query), spool)
    # A request is the same when its type, its query and its body are.
    seen = hashlib.sha256(f"{media_type}\n{query}\n".encode())
    # A client that leaves raises ClientDisconnect here, so nothing of its batch is stored.
    async for chunk in request.stream():
        seen.update(chunk)
        await asyncio.to_thread(stream.feed, chunk)
    await asyncio.to_thread(stream.finish)
    return _Taken(stream.submission, stream.template, "lines", seen.digest())


def _batch_page(
    connection: Connection, labels: list[tuple[str, str]], *, limit: int, after: UUID | None
) -> bytes:
    found = queries.search_batches(connection, labels, limit=limit, after=after)
    document = BatchPage(
        items=[batch_document(record) for record in found.records],
        next=str(found.following) if found.following else None,
    )
    return document.model_dump_json().encode()


def _location(batch_id: UUID) -> dict[str, str]:
    return {"Location": f"/batches/{batch_id}"}
