"""The operations on batches: submit as JSON or as a stream, look up, list, cancel, list rejected lines."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from itertools import islice
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from producer.api.batch_bodies import BatchLimits, BatchSpool, Stream, bounded, parts_of
from producer.api.batch_documents import PART_ITEMS, BatchDocument
from producer.api.documents import Batch, BatchPage, RejectedLine, RejectedPage, batch_document
from producer.api.end_waiters import EndWaiters, Waited, first_of
from producer.api.guard import JSON_TYPE
from producer.api.problems import RETRY_AFTER_SECONDS, HttpProblem
from producer.api.replays import key_of, replay, respond
from producer.api.requests import Query, departure, read_actor, read_caller, read_id, read_idempotency_key
from producer.api.responses import first_page, json_response, page_link
from producer.api.security import check_scopes
from producer.api.slow_work import SlowWork, caller_of
from producer.batch_validation import validate_items
from producer.callers import Scope
from producer.records import BatchRecord, KeptAnswer, KeyScope, NewBatch, SubmissionStatus, TakenKey
from producer.store import endings, idempotency, queries, quotas, reuse, submissions
from producer.store.database import Connection, LongCall, Store
from producer.submission import JobTemplate, timing_of
from producer.submission_models import BatchSubmission, StreamedBatchSubmission
from producer.turns import FairTurns, TurnNotCome
from shared.clock import utc_now
from shared.errors import BatchNotFound
from shared.identity import new_id
from shared.kinds.registry import waiting_state
from shared.settings import Settings
from shared.states import JobState

logger = logging.getLogger(__name__)

# It is held in memory; larger batches come as lines.
MAX_JSON_BYTES: Final = 8 * 1_048_576
# As long a batch waits until it may begin to arrive.
_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Taken:
    """A batch that has arrived; its jobs are in the spool."""

    submission: BatchSubmission | StreamedBatchSubmission
    template: JobTemplate
    fingerprint: bytes


class BatchHandlers:
    """Accepts many jobs at once and shows how far they are."""

    def __init__(self, store: Store, slow: SlowWork, settings: Settings, waiters: EndWaiters) -> None:
        self._store = store
        self._slow = slow
        self._most = BatchLimits(jobs=settings.max_batch_jobs, rejected=settings.max_rejected_lines)
        self._waiters = waiters
        # Each has files of its own until it is stored. Half of the places are not for one caller.
        places = settings.max_batches_at_once
        self._arriving = FairTurns(places, share=(places + 1) // 2)

    async def submit_batch(self, request: Request) -> Response:
        """Store the jobs of a body and answer 202 with the batch."""
        try:
            async with self._arriving.turn(caller_of(request), wait_seconds=_WAIT_SECONDS):
                return await self._submit_batch(request)
        except TurnNotCome as error:
            raise self._turned_away(error) from None

    def _turned_away(self, error: TurnNotCome) -> HttpProblem:
        turns = self._arriving
        logger.warning("batch_turned_away", extra={"places": turns.places, "has_share": error.has_share})
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        if error.has_share:
            detail = f"{turns.share} batches of yours arrive already, which is the most. Try again later."
            return HttpProblem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers=headers)
        detail = f"{turns.places} batches arrive already, which is the most. Try again later."
        return HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers)

    async def _submit_batch(self, request: Request) -> Response:
        key, project = read_idempotency_key(request), read_caller(request).home
        used_for = await self._find_answered(key, project)
        is_document = request.headers["content-type"] == JSON_TYPE
        if used_for:
            # Only compared with the request that was answered: what was valid then may be so no longer.
            fingerprint = await (_document_fingerprint if is_document else _stream_fingerprint)(request)
            if again := replay(used_for.result_for(fingerprint)):
                return again
        with BatchSpool(await self._limits_of(project)) as spool:
            taken = await (self._take_document if is_document else self._take_stream)(request, spool)
            spool.check(strict=taken.submission.strict, noun=spool.noun)
            if spool.runs_program:
                check_scopes(request, Scope.COMMANDS_RUN)
            return await self._store_batch(taken, spool, key, caller_of(request))

    async def _limits_of(self, project: str) -> BatchLimits:
        limits = self._store.known_limits.fresh()
        if limits is None:
            limits = await self._store.read(quotas.limits_in_force)
        return bounded(self._most, limits.of(project), project)

    async def _find_answered(self, key: str | None, project: str) -> TakenKey | None:
        if key is None:
            return None
        used_for = await self._store.read(
            idempotency.find_key, KeyScope.BATCH, key, project=project, now=utc_now()
        )
        return used_for if used_for and used_for.answer else None

    async def _take_document(self, request: Request, spool: BatchSpool) -> _Taken:
        run, caller = self._slow.run, caller_of(request)
        body = await _read_document_body(request)
        document = BatchDocument(body)
        while (submission := await run(caller, document.scan)) is None:
            pass
        template = JobTemplate.of(submission, project=read_caller(request).home, now=utc_now())
        spool.begin(template, submission)
        items = validate_items(document.items(), template, submission.defaults)
        while await run(caller, spool.add_all, islice(items, PART_ITEMS)):
            pass
        return _Taken(submission, template, hashlib.sha256(body).digest())

    async def _take_stream(self, request: Request, spool: BatchSpool) -> _Taken:
        run, caller = self._slow.run, caller_of(request)
        media_type, query = request.headers["content-type"], request.query_params
        stream = Stream.open(media_type, dict(query), spool, project=read_caller(request).home)
        seen = _stream_hash(request)
        # A client that leaves raises ClientDisconnect here, so nothing of its batch is stored.
        async for chunk in request.stream():
            seen.update(chunk)
            for part in parts_of(chunk):
                await run(caller, stream.feed, part)
        await run(caller, stream.finish)
        return _Taken(stream.submission, stream.template, seen.digest())

    async def _find_answers(self, taken: _Taken, spool: BatchSpool, caller: str) -> None:
        """Find out which jobs need not ask, because others have asked the same lately."""
        template, seconds = taken.template, taken.submission.reuse_within_seconds
        if seconds is None:
            return
        since = template.created_at - timedelta(seconds=seconds)
        questions = spool.questions(template)
        while keys := await self._slow.run(caller, next, questions, ()):
            answers = await self._store.read_page(
                caller,
                reuse.recent_answers,
                [key for key in keys if key is not None],
                project=template.project,
                since=since,
            )
            spool.keep_answers(keys, answers)

    async def _store_batch(self, taken: _Taken, spool: BatchSpool, key: str | None, caller: str) -> Response:
        await self._find_answers(taken, spool, caller)
        repeats, rejected = spool.finder.repeats + spool.reused, spool.rejections
        new = taken.template.batch(batch_id=new_id(), repeats=repeats, rejected=rejected)
        new = replace(new, reuses=spool.reused > 0)
        batch = accepted_document(new, spool, taken.template)
        answer = KeptAnswer(HTTPStatus.ACCEPTED, f"/batches/{new.id}", _json(batch))
        if key is not None:
            keyed = key_of(KeyScope.BATCH, key, taken.fingerprint, project=new.project)
            new = replace(new, idempotency=replace(keyed, answer=answer))
        jobs = spool.jobs(taken.template, batch_id=new.id)
        async with self._store.long_call(LongCall.SUBMIT, caller):
            result = await self._store.write(
                submissions.insert_batch, new, jobs, spool.rejected(), jobs_wanted=spool.valid
            )
        if result.status is not SubmissionStatus.STORED:
            return replay(result) or await self._answer_of_old_key(result.id, taken)
        facts = {"batch_id": str(batch.id), "kind": batch.kind, "total": batch.total}
        logger.info("batch_accepted", extra={**facts, "rejected": batch.rejected.count})
        return respond(answer)

    async def _answer_of_old_key(self, batch_id: UUID, taken: _Taken) -> Response:
        """Answer with a batch whose key version 0.1.0 took, without keeping the answer."""
        project = taken.template.project
        record = await self._store.read(queries.get_batch, batch_id, project=project)
        batch = first_document(record, taken.submission)
        answer = KeptAnswer(HTTPStatus.ACCEPTED, f"/batches/{batch_id}", _json(batch))
        return respond(answer, is_replay=True)

    async def get_batch(self, request: Request) -> Response:
        """Answer with the batch and its counts; if asked to wait, when all its jobs have ended."""
        batch_id, project = read_id(request, "batch_id", BatchNotFound), read_caller(request).project
        wait_seconds = Query(request).number("wait")
        if not wait_seconds:
            record = await self._store.read(queries.get_batch, batch_id, project=project)
            return json_response(batch_document(record), headers=page_link("batches", batch_id))
        async with departure(request) as gone, self._waiters.waiting(Waited.BATCH, batch_id) as ended:
            record = await self._store.read(queries.get_batch, batch_id, project=project)
            if record.finished_at is None:
                await first_of(ended, gone, wait_seconds=wait_seconds)
                record = await self._store.read(queries.get_batch, batch_id, project=project)
        return json_response(batch_document(record), headers=page_link("batches", batch_id))

    async def list_batches(self, request: Request) -> Response:
        """Answer with one page of batches, newest first; it may be short while there is more."""
        query = Query(request)
        page = self._store.read_page(
            caller_of(request),
            _batch_page,
            query.labels,
            project=read_caller(request).project,
            limit=query.limit,
            after=query.id("cursor"),
        )
        return json_response(await page)

    async def list_rejected(self, request: Request) -> Response:
        """Answer with one page of the lines or items that became no job, in their order."""
        batch_id, query = read_id(request, "batch_id", BatchNotFound), Query(request)
        found = await self._store.read(
            queries.list_rejected,
            batch_id,
            project=read_caller(request).project,
            after=int(query.text("cursor") or 0),
            limit=query.limit + 1,
        )
        page, following = first_page(found, limit=query.limit, key=lambda line: line.number)
        return json_response(RejectedPage(items=[RejectedLine.of(each) for each in page], next=following))

    async def cancel_batch(self, request: Request) -> Response:
        """Cancel a batch: what waits at once, what runs by its worker."""
        batch_id = read_id(request, "batch_id", BatchNotFound)
        by, project = read_actor(request), read_caller(request).project
        async with self._store.long_call(LongCall.CHANGE, caller_of(request)):
            record = await self._store.run(
                endings.cancel_batch, batch_id, project=project, by=by, now=utc_now()
            )
        logger.info("batch_cancel_requested", extra={"batch_id": str(batch_id), "total": record.total})
        return json_response(batch_document(record), HTTPStatus.ACCEPTED, _location(batch_id))


def accepted_document(new: NewBatch, spool: BatchSpool, template: JobTemplate) -> Batch:
    """Return the document of a batch as it is stored: the answer to its submission."""
    state = JobState.SCHEDULED if template.timing.due_at else waiting_state(new.kind)
    # Repeats wait for their originals.
    counts = Counter({state: spool.valid - new.repeats}) + Counter({JobState.SCHEDULED: new.repeats})
    return batch_document(
        BatchRecord(
            id=new.id,
            kind=new.kind,
            total=spool.valid,
            labels=new.labels,
            counts=counts,
            schedule_id=new.schedule_id,
            created_at=new.created_at,
            finished_at=None,
            callback_url=new.callback_url,
            callback_events=new.callback_events,
            rejected=new.rejected,
            rejected_kept=spool.listed,
            first_rejected=spool.first,
            repeats=new.repeats,
            project=new.project,
        )
    )


def first_document(record: BatchRecord, submission: BatchSubmission | StreamedBatchSubmission) -> Batch:
    """Return what the submission of a stored batch was answered, made anew."""
    is_scheduled = timing_of(submission, now=record.created_at).due_at is not None
    state = JobState.SCHEDULED if is_scheduled else waiting_state(record.kind)
    first = replace(
        record,
        counts={state: record.total},
        finished_at=None,
        cancelled_at=None,
        previous_point=None,
        current_point=None,
    )
    return batch_document(first)


async def _document_fingerprint(request: Request) -> bytes:
    return hashlib.sha256(await _read_document_body(request)).digest()


async def _read_document_body(request: Request) -> bytes:
    if request.query_params:
        detail = "A JSON batch takes no query parameters; send them as fields of the document."
        raise HttpProblem(HTTPStatus.BAD_REQUEST, detail)
    return await request.body()


async def _stream_fingerprint(request: Request) -> bytes:
    seen = _stream_hash(request)
    async for chunk in request.stream():
        seen.update(chunk)
    return seen.digest()


def _stream_hash(request: Request) -> "hashlib._Hash":
    """Return the hash to be updated by the body: a request is the same when its type, query and body are."""
    return hashlib.sha256(f"{request.headers['content-type']}\n{request.query_params}\n".encode())


def _json(batch: Batch) -> bytes:
    return batch.model_dump_json().encode()


def _batch_page(
    connection: Connection,
    labels: list[tuple[str, str]],
    *,
    project: str | None,
    limit: int,
    after: UUID | None,
) -> bytes:
    found = queries.search_batches(connection, labels, project=project, limit=limit, after=after)
    document = BatchPage(
        items=[batch_document(record) for record in found.records],
        next=str(found.following) if found.following else None,
    )
    return document.model_dump_json().encode()


def _location(batch_id: UUID) -> dict[str, str]:
    return {"Location": f"/batches/{batch_id}"}
