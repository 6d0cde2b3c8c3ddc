"""The operations on kinds and lanes: list them with their queues, pause and resume them."""

import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus

import flask
from starlette.requests import Request
from starlette.responses import Response

from producer.api.guard import JSON_TYPE
from producer.api.parking import ACTOR_HEADER
from producer.api.pausing_models import (
    KindDocument,
    KindList,
    KindPauseRequest,
    LanePauseRequest,
    PauseDocument,
    QueueDocument,
    QueueList,
)
from producer.api.pools import Pools
from producer.api.reading import read_document
from producer.parking import ANONYMOUS
from producer.pausing import Circumstances
from producer.store import queues
from producer.store.database import Database
from shared.broker.topology import work_queue
from shared.clock import utc_now
from shared.events import EVERY
from shared.kinds.registry import KINDS, Kind, Lane

Order = Callable[..., None]

logger = logging.getLogger(__name__)


class PausingOperations:
    """Tells what can be done and what is held up, and holds it up."""

    def __init__(self, store: Database, pools: Pools) -> None:
        self._store = store
        self._pools = pools
        # Their schemas never change while this process lives.
        self._kinds = [_kind_document(kind) for kind in KINDS.values()]

    def list_kinds(self) -> flask.Response:
        """Answer with every kind, its schemas, its retry policy and its queues."""
        known = self._store.read(queues.circumstances, now=utc_now())
        document = KindList(
            items=[
                kind.model_copy(update={"queues": _queues(known, [kind.name], Lane)}) for kind in self._kinds
            ]
        )
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

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
        asked = read_document(KindPauseRequest, body) if body else KindPauseRequest()
        await self._order(request, order, event, kind=kind, lane=asked.lane or EVERY, note=asked.note)
        return await self._answer([kind], [asked.lane] if asked.lane else Lane)

    async def _order_on_lane(self, request: Request, order: Order, event: str) -> Response:
        lane, body = Lane(request.path_params["lane"]), await request.body()
        asked = read_document(LanePauseRequest, body) if body else LanePauseRequest()
        await self._order(request, order, event, kind=EVERY, lane=lane, note=asked.note)
        return await self._answer(KINDS, [lane])

    async def _order(
        self, request: Request, order: Order, event: str, *, kind: str, lane: str, note: str | None
    ) -> None:
        by = request.headers.get(ACTOR_HEADER, ANONYMOUS)
        await self._pools.short(self._store.write, order, kind, str(lane), by=by, note=note, now=utc_now())
        logger.info(event, extra={"kind": kind, "lane": str(lane), "by": by})

    async def _answer(self, kinds: Iterable[str], lanes: Iterable[Lane]) -> Response:
        known = await self._pools.short(self._store.read, queues.circumstances, now=utc_now())
        document = QueueList(items=_queues(known, kinds, lanes))
        return Response(document.model_dump_json(), HTTPStatus.OK, media_type=JSON_TYPE)


def _queues(known: Circumstances, kinds: Iterable[str], lanes: Iterable[Lane]) -> list[QueueDocument]:
    lanes = list(lanes)
    return [_queue_document(known, kind, lane) for kind in kinds for lane in lanes]


def _queue_document(known: Circumstances, kind: str, lane: Lane) -> QueueDocument:
    queue, pause = known.queue(kind, lane), known.pause(kind, lane)
    return QueueDocument(
        name=work_queue(kind, lane),
        kind=kind,
        lane=lane,
        ready=queue.ready if queue else None,
        consumers=queue.consumers if queue else None,
        observed_at=queue.observed_at if queue else None,
        paused=PauseDocument(
            kind=pause.kind, lane=pause.lane, since=pause.since, by=pause.by, note=pause.note
        )
        if pause
        else None,
    )


def _kind_document(kind: Kind) -> KindDocument:
    return KindDocument(
        name=kind.name,
        description=kind.description,
        args=kind.args_model.model_json_schema(),
        result=kind.result_model.model_json_schema(mode="serialization"),
        retry=kind.retry,
        queues=[],
    )
