"""The operations on parked jobs: group them, send them back, end them; one by one, or many at a rate."""

import logging
from datetime import timedelta
from http import HTTPStatus
from uuid import UUID

import flask
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import job_document
from producer.api.guard import JSON_TYPE
from producer.api.ids import read_id
from producer.api.operations import operation_document
from producer.api.parking_models import (
    DryRun,
    OperationRequest,
    ParkedGroupDocument,
    ParkedGroupList,
    ParkedJobFilter,
    RedriveRequest,
)
from producer.api.pools import Pools
from producer.api.reading import read_document
from producer.api.responses import json_response
from producer.parking import (
    ANONYMOUS,
    GroupKey,
    NewOperation,
    OperationAction,
    ParkedFilter,
    ParkedGroup,
)
from producer.records import JobRecord
from producer.store import bulk_actions, parking, queries
from producer.store.database import Database
from producer.submission import find_kind, unique_key, valid_args
from shared.clock import utc_now
from shared.errors import FieldError, JobInvalid, JobNotFound
from shared.identity import new_id

logger = logging.getLogger(__name__)

ACTOR_HEADER = "Retriever-Actor"
DEFAULT_LIMIT = 100


class ParkingOperations:
    """Shows what is parked, and does what a person decides on it."""

    def __init__(self, store: Database, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    def list_parked(
        self,
        *,
        limit: int = DEFAULT_LIMIT,
        kind: str | None = None,
        reason: str | None = None,
        host: str | None = None,
        batch: str | None = None,
    ) -> flask.Response:
        """Answer with the largest groups of parked jobs."""
        parked_filter = ParkedFilter(
            kind=kind,
            reason=reason,
            host=host.lower() if host else None,
            batch_id=UUID(batch) if batch else None,
        )
        groups = self._store.read(parking.list_groups, parked_filter, limit=limit)
        document = ParkedGroupList(
            items=[_group_document(group) for group in groups.largest],
            total_groups=groups.total_groups,
            total_jobs=groups.total_jobs,
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    async def redrive_job(self, request: Request) -> Response:
        """Send a parked job back, with other arguments if the body has any: same id, next run."""
        job_id = read_id(request.path_params["job_id"], JobNotFound)
        body = await request.body()
        asked = read_document(RedriveRequest, body) if body else RedriveRequest()
        record = await self._pools.short(self._redrive, job_id, asked, _actor(request))
        logger.info(
            "job_redriven",
            extra={"job_id": str(job_id), "kind": record.kind, "run": record.run, "attempt": 0},
        )
        headers = {"Location": f"/jobs/{job_id}"}
        return json_response(job_document(record), HTTPStatus.ACCEPTED, headers)

    async def discard_job(self, request: Request) -> Response:
        """End a parked job for good."""
        job_id = read_id(request.path_params["job_id"], JobNotFound)
        record = await self._pools.short(
            self._store.write, parking.discard, job_id, now=utc_now(), by=_actor(request)
        )
        logger.info(
            "job_discarded",
            extra={"job_id": str(job_id), "kind": record.kind, "run": record.run, "attempt": 0},
        )
        return json_response(job_document(record))

    async def redrive_parked(self, request: Request) -> Response:
        """Begin to send back all parked jobs that match."""
        return await self._begin(request, OperationAction.REDRIVE)

    async def discard_parked(self, request: Request) -> Response:
        """Begin to end all parked jobs that match."""
        return await self._begin(request, OperationAction.DISCARD)

    async def _begin(self, request: Request, action: OperationAction) -> Response:
        asked = read_document(OperationRequest, await request.body())
        parked_filter = _parked_filter(asked.filter)
        if asked.dry_run:
            matching = await self._pools.long(self._store.read, parking.count_matching, parked_filter)
            return json_response(DryRun(matching=matching))
        new = NewOperation(
            id=new_id(),
            action=action,
            filter_document=asked.filter.model_dump(mode="json", exclude_none=True),
            rate_per_second=asked.rate_per_second,
            by=_actor(request),
            created_at=utc_now(),
        )
        operation = await self._pools.long(
            self._store.write, bulk_actions.start_operation, new, parked_filter
        )
        logger.info(
            "operation_started",
            extra={"operation_id": str(new.id), "action": action.value, "total": operation.total},
        )
        headers = {"Location": f"/operations/{new.id}"}
        return json_response(operation_document(operation), HTTPStatus.ACCEPTED, headers)

    def _redrive(self, job_id: UUID, asked: RedriveRequest, by: str) -> JobRecord:
        if asked.args is None:
            return self._store.write(parking.redrive, job_id, now=utc_now(), by=by)
        kind = find_kind(self._store.read(queries.get_job, job_id).kind)
        args = valid_args(kind, asked.args)
        return self._store.write(
            parking.redrive_edited,
            job_id,
            args=args.document,
            host=args.host,
            unique_key=unique_key(kind.name, args.document),
            by=by,
            now=utc_now(),
        )


def _actor(request: Request) -> str:
    """Return who asks, as the contract lets them say: nobody has been asked for a key."""
    return request.headers.get(ACTOR_HEADER, ANONYMOUS)


def _parked_filter(asked: ParkedJobFilter) -> ParkedFilter:
    age = asked.older_than_seconds
    return ParkedFilter(
        group=_group_key(asked.group) if asked.group else None,
        batch_id=asked.batch_id,
        kind=asked.kind,
        host=asked.host.lower() if asked.host else None,
        reason=asked.reason,
        # Of 0 seconds is every job, even one whose worker's clock is ahead of ours.
        parked_before=utc_now() - timedelta(seconds=age) if age else None,
        ids=asked.ids,
    )


def _group_key(group_id: str) -> GroupKey:
    try:
        return GroupKey.of(group_id)
    except ValueError:
        raise JobInvalid([FieldError("/filter/group", "There is no such group")]) from None


def _group_document(group: ParkedGroup) -> ParkedGroupDocument:
    return ParkedGroupDocument(
        group=group.key.id,
        kind=group.key.kind,
        reason=group.key.reason,
        host=group.key.host,
        count=group.count,
        first_parked_at=group.first_parked_at,
        last_parked_at=group.last_parked_at,
        sample_job_id=group.sample_job_id,
        sample_explanation=group.sample_explanation,
    )
