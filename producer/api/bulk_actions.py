"""The operations on many jobs at a rate: begin them, follow them, cancel them; and the audit log."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from producer.api.batch_bodies import parts_of
from producer.api.documents import NEXT, Document, shown
from producer.api.guard import TEXT_TYPE
from producer.api.id_lines import IdSpool
from producer.api.problems import HttpProblem
from producer.api.replays import answer_of, find_replay, key_of, make_once, request_key
from producer.api.requests import (
    Query,
    read_actor,
    read_caller,
    read_document,
    read_id,
    read_idempotency_key,
)
from producer.api.responses import json_response, page_link
from producer.api.slow_work import SlowWork, caller_of
from producer.parking import (
    DEFAULT_RATE_PER_SECOND,
    MAX_RATE_PER_SECOND,
    AuditAction,
    AuditEntry,
    GroupKey,
    NewOperation,
    Operation,
    OperationAction,
    OperationState,
    ParkedFilter,
)
from producer.records import (
    IdempotencyKey,
    JobFilter,
    KeptAnswer,
    KeyScope,
    SubmissionResult,
    SubmissionStatus,
)
from producer.store import audit, bulk_actions, parking, queries
from producer.store.database import Connection, LongCall, Store
from producer.stored_json import embed, json_text, page_of
from producer.submission_models import Labels
from shared.clock import utc_now
from shared.errors import BatchNotFound, FieldError, JobInvalid, OperationNotFound
from shared.identity import new_id
from shared.messages import Ref
from shared.redaction import redact_args, redact_value
from shared.settings import Settings
from shared.states import JobState
from shared.times import Rfc3339Time

logger = logging.getLogger(__name__)

MAX_IDS = 1_000
# A hundred years.
MAX_AGE_SECONDS = 3_153_600_000

_Text = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]

_ACTIONS = ", ".join(f"`{action}`" for action in AuditAction)


class ParkedJobFilter(BaseModel):
    """Which parked jobs: every field that is given must match, and at least one must be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"minProperties": 1})

    group: Annotated[
        str | None, Field(min_length=1, max_length=2_000, description="The id of a group of `GET /parked`.")
    ] = None
    batch_id: UUID | None = None
    kind: Annotated[_Text | None, Field(description="The jobs of this kind.")] = None
    host: Annotated[_Text | None, Field(description="The jobs that talk to exactly this host.")] = None
    reason: Annotated[_Text | None, Field(description="The jobs parked for this reason.")] = None
    older_than_seconds: Annotated[
        int | None, Field(ge=0, le=MAX_AGE_SECONDS, description="Parked at least that long; 0 is all jobs.")
    ] = None
    parked_after: Annotated[
        Rfc3339Time | None, Field(description="The jobs parked at this time or later.")
    ] = None
    parked_before: Annotated[Rfc3339Time | None, Field(description="The jobs parked before this time.")] = (
        None
    )
    ids: Annotated[
        list[UUID] | None, Field(min_length=1, max_length=MAX_IDS, description="The jobs with these ids.")
    ] = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("Say which jobs; for all of them send older_than_seconds: 0")
        return self


class OperationRequest(BaseModel):
    """What to do with parked jobs, and how fast."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filter: ParkedJobFilter
    dry_run: Annotated[bool, Field(description="Only count the jobs that match.")] = False
    rate_per_second: Annotated[
        int, Field(ge=1, le=MAX_RATE_PER_SECOND, description="Jobs a second, over all ledgers.")
    ] = DEFAULT_RATE_PER_SECOND


class AnyJobFilter(BaseModel):
    """Which jobs: every field that is given must match, and at least one must be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"minProperties": 1})

    kind: Annotated[_Text | None, Field(description="The jobs of this kind.")] = None
    host: Annotated[_Text | None, Field(description="The jobs that talk to exactly this host.")] = None
    reason: Annotated[_Text | None, Field(description="The jobs whose last failure had this reason.")] = None
    url: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=2_000,
            pattern=r"^[^\x00-\x1f\x7f]+$",
            description="The jobs whose stored URL contains this text; case does not matter.",
        ),
    ] = None
    ref: Annotated[Ref | None, Field(description="The jobs that were handed in with exactly this `ref`.")] = (
        None
    )
    labels: Annotated[
        Labels | None, Field(min_length=1, description="The jobs that have all of these labels.")
    ] = None
    batch_id: UUID | None = None
    schedule_id: Annotated[UUID | None, Field(description="The jobs that this schedule made.")] = None
    created_after: Annotated[
        Rfc3339Time | None, Field(description="The jobs created at this time or later.")
    ] = None
    created_before: Annotated[Rfc3339Time | None, Field(description="The jobs created before this time.")] = (
        None
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("Say which jobs; for all of them send a created_before that lies ahead")
        return self

    def of(self, action: OperationAction) -> JobFilter:
        """Return the jobs with which this can be done."""
        is_cancel = action is OperationAction.CANCEL
        return JobFilter(
            state=None if is_cancel else JobState.PARKED,
            is_unfinished=is_cancel,
            kind=self.kind,
            host=self.host.lower() if self.host else None,
            reason=self.reason,
            url=self.url,
            ref=self.ref,
            labels=[*(self.labels or {}).items()],
            batch_id=self.batch_id,
            schedule_id=self.schedule_id,
            created_after=self.created_after,
            created_before=self.created_before,
        )


class BulkRequest(BaseModel):
    """What to do with which jobs, and how fast."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Annotated[
        OperationAction,
        Field(description="`redrive` and `discard` parked jobs; `cancel` those that have not ended."),
    ]
    filter: AnyJobFilter
    dry_run: Annotated[bool, Field(description="Only count the jobs that match.")] = False
    rate_per_second: Annotated[
        int, Field(ge=1, le=MAX_RATE_PER_SECOND, description="Jobs a second, over all ledgers.")
    ] = DEFAULT_RATE_PER_SECOND


class DryRun(Document):
    """How many jobs match; nothing was done."""

    matching: int


class OperationDocument(Document):
    """A redrive, discard or cancellation of many jobs: those that matched when it began."""

    id: UUID
    action: OperationAction
    filter: Annotated[
        Mapping[str, Any],
        Field(description="As it was sent; of ids that came as lines `ids_sent`, their number."),
    ]
    rate_per_second: int
    state: OperationState
    total: Annotated[int, Field(description="Jobs that matched when it began.")]
    done: Annotated[int, Field(description="Jobs redriven, discarded or cancelled so far.")]
    skipped: Annotated[
        int, Field(description="Jobs of which somebody else had disposed when it reached them.")
    ]
    created_at: datetime
    finished_at: datetime | None
    by: Annotated[str, Field(description="The `Retriever-Actor` who ordered it.")]
    project: Annotated[
        str | None, Field(description="On whose jobs it is; null when it is on those of all projects.")
    ]


class OperationPageDocument(Document):
    """One page of operations, newest first."""

    items: list[OperationDocument]
    next: Annotated[str | None, Field(description=NEXT)]


class AuditEntryDocument(Document):
    """One thing that an operator, or the scheduler, did."""

    id: UUID
    at: datetime
    by: Annotated[str, Field(description="The `Retriever-Actor`, or `anonymous`.")]
    action: Annotated[
        str, Field(description=f"One of {_ACTIONS}, or an action that only a newer version knows.")
    ]
    target: Annotated[
        str,
        Field(description="`job/<id>`, `batch/<id>`, `schedule/<id>`, `operation/<id>`, `kind/<kind>`, ..."),
    ]
    details: Annotated[
        Mapping[str, Any], Field(description="An edited redrive has `old_args` and `new_args` here.")
    ]
    project: Annotated[
        str | None, Field(description="Whose the target is; null when it is everybody's, such as a kind.")
    ]


class AuditPage(Document):
    """One page of the audit log, newest first."""

    items: list[AuditEntryDocument]
    next: Annotated[str | None, Field(description=NEXT)]


class BulkActionHandlers:
    """Begins redrives, discards and cancels of many jobs, shows how far they are, and ends them early."""

    def __init__(self, store: Store, slow: SlowWork, settings: Settings) -> None:
        self._store = store
        self._slow = slow
        self._most = settings.max_operations

    async def redrive_parked(self, request: Request) -> Response:
        """Begin to send back all parked jobs that match."""
        return await self._begin(request, OperationAction.REDRIVE)

    async def discard_parked(self, request: Request) -> Response:
        """Begin to end all parked jobs that match."""
        return await self._begin(request, OperationAction.DISCARD)

    async def redrive_batch(self, request: Request) -> Response:
        """Begin to send back all parked jobs of a batch."""
        batch_id, project = read_id(request, "batch_id", BatchNotFound), read_caller(request).project
        key = request_key(request, KeyScope.OPERATION, b"redrive_batch", batch_id.bytes)
        await self._store.read(queries.check_batch, batch_id, project=project)
        if again := await find_replay(self._store, key):
            return again
        document = {"batch_id": str(batch_id)}
        new = _new_operation(request, OperationAction.REDRIVE, document, DEFAULT_RATE_PER_SECOND)
        return await self._start(new, ParkedFilter(batch_id=batch_id), key, caller_of(request))

    async def begin_operation(self, request: Request) -> Response:
        """Begin to do something with all jobs that match."""
        body, caller = await request.body(), caller_of(request)
        key = request_key(request, KeyScope.OPERATION, b"operation", body)
        if again := await find_replay(self._store, key):
            return again
        wanted = read_document(BulkRequest, body)
        document = wanted.filter.model_dump(mode="json", exclude_none=True)
        new = _new_operation(request, wanted.action, document, wanted.rate_per_second)
        with IdSpool() as spool:
            async with self._store.long_call(LongCall.READ, caller):
                await self._find(wanted, spool, caller, read_caller(request).project)
            if wanted.dry_run:
                return json_response(DryRun(matching=spool.count))
            return await self._start(new, spool.ids(), key, caller)

    async def _find(self, wanted: BulkRequest, spool: IdSpool, caller: str, project: str | None) -> None:
        """Keep the ids of the jobs that match, read page by page, so that no transaction is long."""
        asked, after, is_open = wanted.filter.of(wanted.action), None, True
        while is_open:
            ids, after = await self._store.read_page(
                caller, queries.matching_ids, asked, project=project, after=after
            )
            spool.add(ids)
            is_open = after is not None

    async def list_operations(self, request: Request) -> Response:
        """Answer with one page of operations, newest first."""
        query = Query(request)
        page = self._store.read_page(
            caller_of(request),
            _operation_page,
            project=read_caller(request).project,
            limit=query.limit,
            after=query.id("cursor"),
        )
        return json_response(await page)

    async def get_operation(self, request: Request) -> Response:
        """Answer with the operation and its progress."""
        operation_id = read_id(request, "operation_id", OperationNotFound)
        project = read_caller(request).project
        operation = await self._store.read(bulk_actions.get_operation, operation_id, project=project)
        return json_response(_operation_document(operation), headers=page_link("operations", operation_id))

    async def cancel_operation(self, request: Request) -> Response:
        """End a running operation; what it has done stays done."""
        operation_id = read_id(request, "operation_id", OperationNotFound)
        by, project = read_actor(request), read_caller(request).project
        operation = await self._store.write(
            bulk_actions.cancel_operation, operation_id, project=project, by=by, now=utc_now()
        )
        facts = {"operation_id": str(operation_id), "done": operation.done, "total": operation.total}
        logger.info("operation_cancelled", extra=facts)
        return json_response(_operation_document(operation))

    async def list_audit(self, request: Request) -> Response:
        """Answer with one page of the audit log, newest first."""
        query = Query(request)
        page = self._store.read_page(
            caller_of(request),
            _audit_page,
            project=read_caller(request).project,
            target=query.text("target"),
            limit=query.limit,
            after=query.id("cursor"),
        )
        return json_response(await page)

    async def _begin(self, request: Request, action: OperationAction) -> Response:
        if request.headers["content-type"] == TEXT_TYPE:
            return await self._begin_listed(request, action)
        if request.query_params:
            detail = "With a JSON body, send dry_run and rate_per_second as fields of the document."
            raise HttpProblem(HTTPStatus.BAD_REQUEST, detail)
        body = await request.body()
        key = request_key(request, KeyScope.OPERATION, action.encode(), body)
        if again := await find_replay(self._store, key):
            return again
        wanted = read_document(OperationRequest, body)
        parked_filter = _parked_filter(wanted.filter)
        if wanted.dry_run:
            async with self._store.long_call(LongCall.READ, caller_of(request)):
                matching = await self._store.read(
                    parking.count_matching, parked_filter, project=read_caller(request).project
                )
            return json_response(DryRun(matching=matching))
        document = wanted.filter.model_dump(mode="json", exclude_none=True)
        new = _new_operation(request, action, document, wanted.rate_per_second)
        return await self._start(new, parked_filter, key, caller_of(request))

    async def _begin_listed(self, request: Request, action: OperationAction) -> Response:
        query, name, caller = Query(request), read_idempotency_key(request), caller_of(request)
        rate = int(query.text("rate_per_second") or DEFAULT_RATE_PER_SECOND)
        seen = hashlib.sha256(f"{action}\n{request.query_params}\n".encode())
        with IdSpool() as spool:
            async for chunk in request.stream():
                seen.update(chunk)
                for part in parts_of(chunk):
                    await self._slow.run(caller, spool.feed, part)
            await self._slow.run(caller, spool.finish)
            key = None
            if name is not None:
                project = read_caller(request).home
                key = key_of(KeyScope.OPERATION, name, seen.digest(), project=project)
            if again := await find_replay(self._store, key):
                return again
            new = _new_operation(request, action, {"ids_sent": spool.count}, rate)
            if query.flag("dry_run"):
                async with self._store.long_call(LongCall.CHANGE, caller):
                    matching = await self._store.write(bulk_actions.count_listed, new, spool.ids())
                return json_response(DryRun(matching=matching))
            return await self._start(new, spool.ids(), key, caller)

    async def _start(
        self,
        new: NewOperation,
        which: ParkedFilter | Iterator[UUID],
        key: IdempotencyKey | None,
        caller: str,
    ) -> Response:
        async with self._store.long_call(LongCall.CHANGE, caller):
            result = await self._store.write(_start, new, which, key, most=self._most)
        if result.status is SubmissionStatus.STORED:
            facts = {"operation_id": str(new.id), "action": new.action.value}
            logger.info("operation_started", extra=facts)
        return answer_of(result)


def _start(
    connection: Connection,
    new: NewOperation,
    which: ParkedFilter | Iterator[UUID],
    key: IdempotencyKey | None,
    *,
    most: int,
) -> SubmissionResult:
    def start(connection: Connection) -> KeptAnswer:
        operation = bulk_actions.start_operation(connection, new, which, most=most)
        return KeptAnswer(HTTPStatus.ACCEPTED, f"/operations/{new.id}", _operation_document(operation))

    return make_once(connection, key, new.id, start)


def _new_operation(
    request: Request, action: OperationAction, filter_document: Mapping[str, Any], rate_per_second: int
) -> NewOperation:
    return NewOperation(
        id=new_id(),
        action=action,
        filter_document=filter_document,
        rate_per_second=rate_per_second,
        by=read_actor(request),
        created_at=utc_now(),
        project=read_caller(request).project,
    )


def _operation_document(operation: Operation) -> bytes:
    said = OperationDocument.of(operation, filter={}).model_dump_json(exclude={"filter"})
    return embed(said, filter=json_text(operation.filter_document))


def _operation_page(connection: Connection, *, project: str | None, limit: int, after: UUID | None) -> bytes:
    found = bulk_actions.list_operations(connection, project=project, limit=limit, after=after)
    return page_of([_operation_document(each) for each in found.records], following=found.following)


def _audit_page(
    connection: Connection,
    *,
    project: str | None,
    target: str | None,
    limit: int,
    after: UUID | None,
) -> bytes:
    found = audit.list_audit(connection, project=project, target=target, limit=limit, after=after)
    return page_of([entry_document(each) for each in found.records], following=found.following)


def entry_document(entry: AuditEntry) -> bytes:
    """Return the document of an entry of the audit log, as JSON."""
    said = AuditEntryDocument.of(entry, details={}).model_dump_json(exclude={"details"})
    return embed(said, details=shown(json_text(entry.details), _redact_details))


def _redact_details(details: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        name: redact_args(value)
        if isinstance(value, dict) and name.endswith("_args")
        else redact_value(value)
        for name, value in details.items()
    }


def _parked_filter(wanted: ParkedJobFilter) -> ParkedFilter:
    age = wanted.older_than_seconds
    # An age of 0 means every job, even one whose worker's clock is ahead of ours.
    aged_by = utc_now() - timedelta(seconds=age) if age else None
    return ParkedFilter(
        group=_group_key(wanted.group) if wanted.group else None,
        batch_id=wanted.batch_id,
        kind=wanted.kind,
        host=wanted.host.lower() if wanted.host else None,
        reason=wanted.reason,
        parked_after=wanted.parked_after,
        parked_before=min((at for at in (aged_by, wanted.parked_before) if at), default=None),
        ids=wanted.ids,
    )


def _group_key(group_id: str) -> GroupKey:
    try:
        return GroupKey.of(group_id)
    except ValueError:
        raise JobInvalid([FieldError("/filter/group", "There is no such group")]) from None
