"""Builds the ASGI application: what a request meets, from the outside in.

MeteredApp            counts and times it
BodyGuard             refuses a body that is too large, too slow, or of a type that is not taken
Edge                  fixed pages, OPTIONS, 405
connexion.FlaskApp    routes by the contract, checks parameters, turns errors into problem+json
NativeOperations      `async` operations, on the event loop
WsgiBridge, Flask     all others, in threads
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import connexion
import orjson
from connexion.exceptions import ProblemException
from connexion.lifecycle import ConnexionRequest, ConnexionResponse
from connexion.options import SwaggerUIOptions
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from producer.api.batches import BatchOperations
from producer.api.bodies import BodyOperations
from producer.api.bridge import WsgiBridge
from producer.api.contract import load_contract, without_bodies
from producer.api.edge import Edge
from producer.api.guard import JSON_TYPE, STREAM_TYPES, BodyGuard, BodyLimits
from producer.api.jobs import JobOperations
from producer.api.metrics import ApiMetrics, MeteredApp
from producer.api.native import Handlers, NativeOperations
from producer.api.operations import OperationOperations
from producer.api.pages import PageOperations
from producer.api.parameters import NamedParameterValidator
from producer.api.parking import ParkingOperations
from producer.api.pausing import PausingOperations
from producer.api.pools import Pools
from producer.api.problems import PROBLEM_TYPE, problem_response
from producer.api.results import ResultOperations
from producer.api.routes import RouteTable
from producer.api.schedules import ScheduleOperations
from producer.api.service import ServiceOperations
from producer.api.writer import JobWriter
from producer.store.database import Database
from shared.asyncapi import asyncapi_document
from shared.errors import RetrieverError
from shared.settings import Settings
from shared.watchdog import loop_watched

# Parsing this much JSON in one piece holds Python's one lock for some 40 ms; larger batches come as lines.
MAX_JSON_BATCH_BYTES = 8 * 1_048_576
SWAGGER_PAGE = Path(__file__).with_name("swagger.html")


def build_app(store: Database, settings: Settings) -> ASGIApp:
    """Return a fresh application on an open store. Its lifespan ends its threads, not the store."""
    contract = load_contract()
    routes = RouteTable.of(contract)
    metrics = ApiMetrics(store)
    app: ASGIApp = _build_connexion(contract, store, metrics, settings)
    app = Edge(app, routes=routes, pages=_fixed_pages(contract))
    app = BodyGuard(app, routes=routes, limits=_body_limits(settings))
    return MeteredApp(app, routes=routes, metrics=metrics)


def _build_connexion(
    contract: Mapping[str, Any], store: Database, metrics: ApiMetrics, settings: Settings
) -> ASGIApp:
    pools, writer = Pools(), JobWriter(store)
    handlers = _handlers(
        jobs=JobOperations(store, writer, pools),
        batches=BatchOperations(store, pools),
        results=ResultOperations(store, pools),
        pages=PageOperations(store, pools),
        schedules=ScheduleOperations(store, pools),
        service=ServiceOperations(store, metrics, settings),
        parking=ParkingOperations(store, pools),
        operations=OperationOperations(store),
        pausing=PausingOperations(store, pools),
        bodies=BodyOperations(store, pools),
    )

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        writer.start()
        with loop_watched(settings.watchdog_seconds):
            try:
                yield
            finally:
                # The last requests have been answered; what they left behind ends off the event loop.
                for part in (writer, pools, bridge):
                    await asyncio.to_thread(part.close)

    app = connexion.FlaskApp(
        __name__,
        lifespan=lifespan,
        strict_validation=True,
        validator_map={"parameter": NamedParameterValidator},
        swagger_ui_options=SwaggerUIOptions(serve_spec=False),
    )
    bridge = WsgiBridge(app.app.wsgi_app)
    # FlaskApp has no parameter for it: its own bridge loses its threads to slow readers.
    app._middleware_app.asgi_app = NativeOperations(handlers, bridge)  # noqa: SLF001
    app.add_api(without_bodies(contract), resolver=connexion.resolver.Resolver(_resolver(handlers)))
    for error in (RetrieverError, ProblemException, HTTPException, Exception):
        app.add_error_handler(error, _handle_error)
    return app  # type: ignore[no-any-return]


def _handlers(
    *,
    jobs: JobOperations,
    batches: BatchOperations,
    results: ResultOperations,
    pages: PageOperations,
    schedules: ScheduleOperations,
    service: ServiceOperations,
    parking: ParkingOperations,
    operations: OperationOperations,
    pausing: PausingOperations,
    bodies: BodyOperations,
) -> Handlers:
    """Return the table of operations: the operationId of the contract and who answers it."""
    return {
        "submit_job": jobs.submit_job,
        "list_jobs": jobs.list_jobs,
        "get_job": jobs.get_job,
        "get_body": bodies.get_body,
        "cancel_job": jobs.cancel_job,
        "redrive_job": parking.redrive_job,
        "discard_job": parking.discard_job,
        "list_parked": parking.list_parked,
        "redrive_parked": parking.redrive_parked,
        "discard_parked": parking.discard_parked,
        "list_operations": operations.list_operations,
        "get_operation": operations.get_operation,
        "cancel_operation": operations.cancel_operation,
        "list_audit": operations.list_audit,
        "submit_batch": batches.submit_batch,
        "list_batches": batches.list_batches,
        "get_batch": batches.get_batch,
        "list_rejected": batches.list_rejected,
        "cancel_batch": batches.cancel_batch,
        "export_results": results.export_results,
        "get_pages": pages.get_pages,
        "stream_items": pages.stream_items,
        "submit_schedule": schedules.submit_schedule,
        "list_schedules": schedules.list_schedules,
        "get_schedule": schedules.get_schedule,
        "pause_schedule": schedules.pause_schedule,
        "resume_schedule": schedules.resume_schedule,
        "run_schedule": schedules.run_schedule,
        "delete_schedule": schedules.delete_schedule,
        "list_kinds": pausing.list_kinds,
        "pause_kind": pausing.pause_kind,
        "resume_kind": pausing.resume_kind,
        "pause_lane": pausing.pause_lane,
        "resume_lane": pausing.resume_lane,
        "get_retention": service.get_retention,
        "livez": service.livez,
        "readyz": service.readyz,
        "metrics": service.metrics,
    }


def _resolver(handlers: Handlers) -> Callable[[str], Callable[..., object]]:
    return lambda operation_id: handlers[operation_id]


def _fixed_pages(contract: Mapping[str, Any]) -> Mapping[str, Response]:
    swagger = HTMLResponse(SWAGGER_PAGE.read_text())
    return {
        "/": RedirectResponse("/ui/", HTTPStatus.FOUND),
        "/ui": RedirectResponse("/ui/", HTTPStatus.FOUND),
        "/ui/": swagger,
        "/ui/index.html": swagger,
        "/openapi.json": Response(orjson.dumps(contract), media_type=JSON_TYPE),
        "/asyncapi.json": Response(orjson.dumps(asyncapi_document()), media_type=JSON_TYPE),
    }


def _body_limits(settings: Settings) -> BodyLimits:
    return BodyLimits(
        default_bytes=settings.api_max_body_bytes,
        idle_seconds=settings.api_body_idle_seconds,
        caps={
            ("submit_batch", JSON_TYPE): min(MAX_JSON_BATCH_BYTES, settings.api_max_batch_bytes),
            **{("submit_batch", media_type): settings.api_max_batch_bytes for media_type in STREAM_TYPES},
        },
    )


async def _handle_error(_request: ConnexionRequest, error: Exception) -> ConnexionResponse:
    response = problem_response(error)
    headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return ConnexionResponse(response.status_code, PROBLEM_TYPE, PROBLEM_TYPE, bytes(response.body), headers)
