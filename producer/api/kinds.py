"""The operations on kinds and lanes: list them with their queues, pause and resume them."""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Document
from producer.api.requests import check_operator, read_actor, read_document
from producer.api.responses import json_response
from producer.pausing import Circumstances
from producer.store import queues
from producer.store.database import Connection, Store
from shared.broker.topology import work_queue
from shared.clock import utc_now
from shared.events import EVERY
from shared.kinds.registry import BROKERED_KINDS, KINDS, Kind, Lane
from shared.retry import RetryPolicy

logger = logging.getLogger(__name__)

_NOT_YOURS = "Kinds and lanes are those of all projects: only an operator pauses and resumes them."

# Pauses or resumes a kind in a lane; either may be `*`.
Order = Callable[..., None]

Note = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=500,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="Why; shown with every job that waits because of it. No control characters.",
    ),
]


class PauseDocument(Document):
    """A pause; its kind or lane is `*` when it covers all of them."""

    kind: str
    lane: str
    since: datetime
    by: Annotated[str, Field(description="The `Retriever-Actor` who ordered it.")]
    note: str | None


class QueueDocument(Document):
    """The queue of a kind and lane, as a ledger last saw it; the figures are null when none has yet."""

    name: Annotated[
        str | None,
        Field(
            description="Null for `task`, and so are the figures: tasks wait in the store, in queues that "
            "their senders name."
        ),
    ]
    kind: str
    lane: Lane
    ready: Annotated[
        int | None,
        Field(
            description="Messages that wait in it: each is a job. In the lane `bulk` also those in "
            "`jobs.<kind>.bundles`, where one carries several jobs of a batch."
        ),
    ]
    consumers: Annotated[int | None, Field(description="Workers that consume it; none while it is paused.")]
    observed_at: Annotated[
        datetime | None, Field(description="When a ledger last looked: every few seconds while one is well.")
    ]
    paused: Annotated[PauseDocument | None, Field(description="The oldest pause that covers it.")]


class QueueList(Document):
    """The queues that were paused or resumed, as they are now."""

    items: list[QueueDocument]


class KindPauseRequest(BaseModel):
    """An order to pause or resume a kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lane: Annotated[Lane | None, Field(description="Only in this lane. Default: in all lanes.")] = None
    note: Note = None


class LanePauseRequest(BaseModel):
    """An order to pause or resume a lane over all kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    note: Note = None


class KindDocument(Document):
    """One kind of job: what it does, what it takes, what it gives. The schemas are JSON Schema 2020-12."""

    name: str
    description: str
    args: Annotated[Mapping[str, Any], Field(description="JSON Schema of the arguments.")]
    result: Annotated[Mapping[str, Any], Field(description="JSON Schema of the result.")]
    retry: Annotated[RetryPolicy, Field(description="The policy of a job that does not set its own.")]
    queues: Annotated[list[QueueDocument], Field(description="One for each lane.")]


class KindList(Document):
    """Every kind of job that this server takes."""

    items: list[KindDocument]


class KindHandlers:
    """Shows what the service can do and which queues are paused, and pauses and resumes them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Their schemas never change while this process lives.
        self._kinds = [_kind_document(kind) for kind in KINDS.values()]

    async def list_kinds(self, _request: Request) -> Response:
        """Answer with every kind, its schemas, its retry policy and its queues."""
        known = await self._store.read(queues.circumstances, now=utc_now())
        items = [
            each.model_copy(update={"queues": _queues(known, [each.name], Lane)}) for each in self._kinds
        ]
        return json_response(KindList(items=items))

    async def pause_kind(self, request: Request) -> Response:
        """Let no new attempt of a kind start, in one lane or in all."""
        return await self._order_on_kind(request, queues.pause, "kind_paused")

    async def resume_kind(self, request: Request) -> Response:
        """Let attempts of a kind start again."""
        return await self._order_on_kind(request, queues.resume, "kind_resumed")

    async def pause_lane(self, request: Request) -> Response:
        """Let no new attempt start in a lane, of whatever kind."""
        return await self._order_on_lane(request, queues.pause, "lane_paused")

    async def resume_lane(self, request: Request) -> Response:
        """Take back that a lane was paused for all kinds."""
        return await self._order_on_lane(request, queues.resume, "lane_resumed")

    async def _order_on_kind(self, request: Request, order: Order, event: str) -> Response:
        kind, body = request.path_params["kind"], await request.body()
        wanted = read_document(KindPauseRequest, body) if body else KindPauseRequest()
        known = await self._order(
            request, order, event, kind=kind, lane=wanted.lane or EVERY, note=wanted.note
        )
        return json_response(QueueList(items=_queues(known, [kind], [wanted.lane] if wanted.lane else Lane)))

    async def _order_on_lane(self, request: Request, order: Order, event: str) -> Response:
        lane, body = Lane(request.path_params["lane"]), await request.body()
        wanted = read_document(LanePauseRequest, body) if body else LanePauseRequest()
        known = await self._order(request, order, event, kind=EVERY, lane=lane.value, note=wanted.note)
        return json_response(QueueList(items=_queues(known, KINDS, [lane])))

    async def _order(
        self, request: Request, order: Order, event: str, *, kind: str, lane: str, note: str | None
    ) -> Circumstances:
        # Others would hold up the jobs of everybody.
        check_operator(request, _NOT_YOURS)
        by = read_actor(request)
        known = await self._store.write(_give_order, order, kind, lane, by=by, note=note)
        logger.info(event, extra={"kind": kind, "lane": lane, "by": by})
        return known


def _give_order(
    connection: Connection, order: Order, kind: str, lane: str, *, by: str, note: str | None
) -> Circumstances:
    now = utc_now()
    order(connection, kind, lane, by=by, note=note, now=now)
    return queues.circumstances(connection, now=now)


def _queues(known: Circumstances, kinds: Iterable[str], lanes: Iterable[Lane]) -> list[QueueDocument]:
    lanes = list(lanes)
    return [_queue_document(known, kind, lane) for kind in kinds for lane in lanes]


def _queue_document(known: Circumstances, kind: str, lane: Lane) -> QueueDocument:
    queue, pause = known.queue(kind, lane), known.pause(kind, lane)
    return QueueDocument(
        name=work_queue(kind, lane) if kind in BROKERED_KINDS else None,
        kind=kind,
        lane=lane,
        ready=queue.ready if queue else None,
        consumers=queue.consumers if queue else None,
        observed_at=queue.observed_at if queue else None,
        paused=PauseDocument.of(pause) if pause else None,
    )


def _kind_document(kind: Kind) -> KindDocument:
    return KindDocument.of(
        kind,
        args=kind.args_model.model_json_schema(),
        result=kind.result_model.model_json_schema(mode="serialization"),
        queues=[],
    )
