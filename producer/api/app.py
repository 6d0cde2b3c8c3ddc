"""Serves the API: what a request meets, from the outside in.

ApiProtocol         reads it from its connection
MeteredApp          counts and times it
BrowserGuard        refuses hosts that are not ours, and what pages of others would do
ListenerGate        keeps what is for agents on their own port, if they have one
BodyGuard           refuses a body that is too large, too slow, cut short or of an unsupported type
FixedResponses      the contract, redirects, OPTIONS, 405, and 404 for whatever is no path of ours
RateHeaders         tells a limited caller how many more requests are let in
Dashboard           answers with pages for people, from Flask in threads of its own
connexion.FlaskApp  routes by the contract, asks the Gate who calls, turns errors into problem+json
OperationDispatch   checks the parameters, hands it to the operation that the contract names, or to Flask
*Handlers           `async` operations, on the event loop
WsgiBridge, Flask   Swagger UI, in threads
"""

import asyncio
import inspect
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import UUID

import connexion
import orjson
import uvicorn
from connexion.exceptions import ProblemException
from connexion.lifecycle import ConnexionRequest, ConnexionResponse
from connexion.middleware import ConnexionMiddleware
from connexion.middleware.swagger_ui import SwaggerUIMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from producer.api.batches import MAX_JSON_BYTES, BatchHandlers
from producer.api.bodies import BodyHandlers
from producer.api.browser_guard import BrowserGuard
from producer.api.bulk_actions import BulkActionHandlers
from producer.api.connections import ConnectionLimits, Connections
from producer.api.contract import SCHEME, for_connexion, load_contract
from producer.api.end_waiters import EndWaiters, Waited
from producer.api.exports import ExportHandlers
from producer.api.feeds import FeedHandlers
from producer.api.fixed_responses import FixedResponses
from producer.api.guard import JSON_TYPE, STREAM_TYPES, TEXT_TYPE, BodyGuard, BodyLimits
from producer.api.hosts import HostHandlers
from producer.api.http_protocol import ApiProtocol
from producer.api.jobs import JobHandlers
from producer.api.key_ring import KeyRing
from producer.api.keys import KeyHandlers
from producer.api.kinds import KindHandlers
from producer.api.leases import EndWriter, LeaseHandlers, PickWriter
from producer.api.limits import LimitHandlers
from producer.api.listeners import ApiServer, ListenerGate, check_ports
from producer.api.metrics import ApiMetrics, MeteredApp
from producer.api.output import OutputHandlers
from producer.api.paged_fetches import PagedFetchHandlers
from producer.api.parameters import NoCheck, Parameters
from producer.api.parked_jobs import ParkedJobHandlers
from producer.api.problems import PROBLEM_TYPE, problem_response
from producer.api.rate_limits import RateHeaders, RateLimits
from producer.api.refusals import Refusals
from producer.api.routes import Operation as RouteOperation
from producer.api.routes import Route, RouteTable
from producer.api.schedules import ScheduleHandlers
from producer.api.secrets import SecretHandlers
from producer.api.security import Gate, check_closed
from producer.api.service import ServiceHandlers
from producer.api.slow_work import SlowWork
from producer.api.stats import StatsHandlers
from producer.api.task_waiters import TaskWaiters
from producer.api.tasks import TaskHandlers
from producer.api.web_pages import WsgiBridge, add_pages
from producer.api.writer import JobWriter
from producer.callers import scoped, unscoped
from producer.dashboard.mount import FORM_TYPE, PREFIX, Dashboard
from producer.dashboard.operations import Operations
from producer.dashboard.pages import draw_pages
from producer.store import feed, tasks
from producer.store.database import Database, Store
from producer.store.wakeup import open_end_wakeup, open_task_wakeup
from producer.store_probe import StoreProbe
from producer.tasks import TaskQueue
from shared.asyncapi import asyncapi_document
from shared.clock import utc_now
from shared.encryption import EncryptionKeys
from shared.errors import RetrieverError
from shared.process import descriptor_limit
from shared.settings import Settings
from shared.watchdog import loop_watched

# Requests that run when the server is told to stop may take this long; then their connections are closed.
GRACE_SECONDS = 10
# Threads for what all others ask of the store; long calls have up to six of them.
_THREADS = 10
# Threads for what agents ask of the store.
_AGENT_THREADS = 4
# How often SQLite is asked whether anything has changed while somebody waits: it tells nobody.
_CHANGE_POLL_SECONDS = 0.1
# File descriptors that connections of clients leave to everything else.
_KEPT_DESCRIPTORS = 256

# Its router would be asked about each request, in vain: the contract and Swagger UI are pages of ours.
_MIDDLEWARES = [each for each in ConnexionMiddleware.default_middlewares if each is not SwaggerUIMiddleware]

# Answers are data, and no page of others has a use for them.
_HEADERS_OF_ALL = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}

# Its pages and its forms, for whoever counts requests or reads bodies.
_DASHBOARD = Route(
    {
        "GET": RouteOperation("dashboard", frozenset()),
        "POST": RouteOperation("dashboard_form", frozenset({FORM_TYPE})),
    }
)

Operation = Callable[[Request], Awaitable[Response]]
Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


def serve(settings: Settings) -> None:
    """Serve the API on its host and port until SIGTERM or SIGINT. Blocks; closes the database at the end.

    Raises:
        SettingsInvalid: the port is taken, or the database cannot be used as it was named.
    """
    check_ports(settings)
    database = Database.open(settings.database_url)
    try:
        database.check_settings()
        check_closed(database, settings)
        server = build_server(database, settings)
        with suppress(KeyboardInterrupt):
            server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)
    finally:
        database.close()


def build_server(
    database: Database, settings: Settings, *, grace_seconds: int = GRACE_SECONDS
) -> uvicorn.Server:
    """Return a server of a fresh application on an open database, which it does not close."""
    # Agents that extend leases by the hundred must not keep everybody else from a thread.
    agents_store = Store(database, threads=_AGENT_THREADS)
    wakeup = open_task_wakeup(settings.database_url, _CHANGE_POLL_SECONDS)
    waiters = TaskWaiters(wakeup, partial(_find_ready, agents_store))
    store = Store(database, threads=_THREADS)
    end_wakeup = open_end_wakeup(settings.database_url, _CHANGE_POLL_SECONDS)
    end_waiters = EndWaiters(end_wakeup, partial(_find_ended, store))
    connections = Connections(_connection_limits(settings), Refusals())
    config = uvicorn.Config(
        _build_app(
            database,
            settings,
            stores=(store, agents_store),
            waiters=waiters,
            end_waiters=end_waiters,
            connections=connections,
        ),
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http=ApiProtocol.of(connections),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        headers=[*_HEADERS_OF_ALL.items()],
        timeout_graceful_shutdown=grace_seconds,
    )

    def let_go() -> None:
        waiters.close()
        end_waiters.close()

    return ApiServer(config, settings, connections, on_stop=let_go)


def _build_app(
    database: Database,
    settings: Settings,
    *,
    stores: tuple[Store, Store],
    waiters: TaskWaiters,
    end_waiters: EndWaiters,
    connections: Connections,
) -> ASGIApp:
    """Return a fresh application. Its lifespan ends its threads, and leaves the database open."""
    (store, agents_store), probe, slow = stores, StoreProbe(database), SlowWork()
    writer, picks, ends = JobWriter(database), PickWriter(database), EndWriter(database)
    refusals, ring = connections.refusals, KeyRing(store)
    limits = RateLimits(store, settings, refusals)
    gate = Gate(ring, settings, refusals, limits)
    metrics = ApiMetrics(store, waiters.__len__, connections)
    operations = _operations(
        JobHandlers(store, writer, slow, end_waiters),
        TaskHandlers(store, writer, slow),
        LeaseHandlers(agents_store, picks, ends, waiters, metrics=metrics.tasks, slow=slow),
        BatchHandlers(store, slow, settings, end_waiters),
        FeedHandlers(store, end_waiters),
        ExportHandlers(store),
        BodyHandlers(store),
        OutputHandlers(store),
        PagedFetchHandlers(store),
        ParkedJobHandlers(store),
        BulkActionHandlers(store, slow, settings),
        ScheduleHandlers(store, slow, settings),
        KindHandlers(store),
        StatsHandlers(store),
        KeyHandlers(store, ring, limits),
        SecretHandlers(store, EncryptionKeys.of(settings.encryption_keys)),
        LimitHandlers(store),
        HostHandlers(store),
        ServiceHandlers(probe, metrics, settings),
    )
    contract = load_contract()
    routes = RouteTable.of(contract).with_pages(PREFIX, _DASHBOARD)
    parameters = Parameters.of(contract)
    loops = (waiters.run, end_waiters.run, ring.run, limits.run)
    dashboard = Dashboard(
        pages=draw_pages(database, parameters),
        store=store,
        gate=gate,
        operations=Operations(operations, contract, parameters),
        refusals=refusals,
    )
    # Its pages ask the store while they are drawn.
    parts = (dashboard, slow, store, agents_store, probe)
    lifespan = _lifespan((writer, picks, ends), loops, parts, settings)
    app = _connexion_app(contract, operations, parameters, lifespan, gate)
    app = dashboard.beside(app)
    app = RateHeaders(app)
    app = FixedResponses(app, routes=routes, pages=_fixed_pages(contract))
    app = BodyGuard(app, routes=routes, limits=_body_limits(settings), refusals=refusals)
    app = ListenerGate(app, routes=routes, settings=settings)
    app = BrowserGuard(app, settings=settings, refusals=refusals)
    return MeteredApp(app, routes=routes, metrics=metrics)


async def _find_ready(store: Store, queues: Iterable[str]) -> frozenset[str]:
    """Return which of these task queues, named as `scoped` does, have a task to pick."""
    asked = [TaskQueue(*unscoped(name)) for name in queues]
    found = await store.read(tasks.waiting_queues, asked, now=utc_now())
    return frozenset(scoped(queue, project) for project, queue in found)


async def _find_ended(store: Store, waited: Waited, ids: Collection[UUID]) -> Collection[UUID]:
    """Return which of these jobs or batches have ended."""
    return await store.read(feed.ended_jobs if waited is Waited.JOB else feed.finished_batches, ids)


class OperationDispatch:
    """The application behind connexion: operations answer on the event loop, all else goes to Flask.

    Flask would run an `async def` on a second event loop in another thread, so it gets no operation.
    """

    def __init__(self, operations: Mapping[str, Operation], parameters: Parameters, pages: ASGIApp) -> None:
        self._operations = operations
        self._parameters = parameters
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # Left there by connexion's routing; see connexion.middleware.routing.
        routing = scope.get("extensions", {}).get("connexion_routing", {})
        operation_id = routing.get("operation_id")
        operation = self._operations.get(operation_id)
        if operation is None:
            await self._pages(scope, receive, send)
            return
        self._parameters.check(operation_id, scope)
        response = await operation(Request(scope, receive))
        await response(scope, receive, send)


def _operations(*handlers: object) -> dict[str, Operation]:
    """Return the operations of the contract: each public coroutine method answers the one with its name."""
    return {
        name: method
        for each in handlers
        for name, method in inspect.getmembers(each, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }


def _lifespan(
    writers: Sequence[JobWriter | PickWriter | EndWriter],
    loops: Sequence[Callable[[], Coroutine[Any, Any, None]]],
    parts: Sequence[Dashboard | SlowWork | Store | StoreProbe],
    settings: Settings,
) -> Lifespan:
    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        for writer in writers:
            writer.start()
        running = [asyncio.create_task(loop()) for loop in loops]
        with loop_watched(settings.watchdog_seconds):
            try:
                yield
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                # The last requests have been answered; what they left behind ends off the event loop.
                for part in (*writers, *parts):
                    await asyncio.to_thread(part.close)

    return lifespan


def _connexion_app(
    contract: Mapping[str, Any],
    operations: Mapping[str, Operation],
    parameters: Parameters,
    lifespan: Lifespan,
    gate: Gate,
) -> ASGIApp:
    app = connexion.FlaskApp(
        __name__,
        lifespan=lifespan,
        strict_validation=True,
        validator_map={"parameter": NoCheck},
        security_map={SCHEME: gate.handler},
        middlewares=_MIDDLEWARES,
    )
    add_pages(app.app)
    # FlaskApp has no parameter for it: its own bridge loses its threads to slow readers.
    pages = WsgiBridge(app.app.wsgi_app)
    app._middleware_app.asgi_app = OperationDispatch(operations, parameters, pages)  # noqa: SLF001
    app.add_api(for_connexion(contract), resolver=connexion.resolver.Resolver(operations.__getitem__))
    for error in (RetrieverError, ProblemException, HTTPException, Exception):
        app.add_error_handler(error, _handle_error)
    return app  # type: ignore[no-any-return]


async def _handle_error(_request: ConnexionRequest, error: Exception) -> ConnexionResponse:
    response = problem_response(error)
    headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return ConnexionResponse(response.status_code, PROBLEM_TYPE, PROBLEM_TYPE, bytes(response.body), headers)


def _fixed_pages(contract: Mapping[str, Any]) -> Mapping[str, Response]:
    return {
        "/": RedirectResponse(PREFIX, HTTPStatus.FOUND),
        "/dashboard": RedirectResponse(PREFIX, HTTPStatus.FOUND),
        "/ui": RedirectResponse("/ui/", HTTPStatus.FOUND),
        "/openapi.json": Response(orjson.dumps(contract), media_type=JSON_TYPE),
        "/asyncapi.json": Response(orjson.dumps(asyncapi_document()), media_type=JSON_TYPE),
    }


def _connection_limits(settings: Settings) -> ConnectionLimits:
    # The store, the files of batches that arrive, and probes need descriptors too.
    allowed = descriptor_limit()
    return ConnectionLimits(
        max_connections=min(settings.api_max_connections, allowed - min(_KEPT_DESCRIPTORS, allowed // 4)),
        head_seconds=settings.api_header_seconds,
        body_seconds=settings.api_body_seconds,
        unread_seconds=settings.api_unread_seconds,
    )


def _body_limits(settings: Settings) -> BodyLimits:
    batch_bytes = settings.api_max_batch_bytes
    return BodyLimits(
        default_bytes=settings.api_max_body_bytes,
        idle_seconds=settings.api_body_idle_seconds,
        body_seconds=settings.api_body_seconds,
        caps={
            ("submit_batch", JSON_TYPE): min(MAX_JSON_BYTES, batch_bytes),
            **{("submit_batch", media_type): batch_bytes for media_type in STREAM_TYPES},
            **{(operation, TEXT_TYPE): batch_bytes for operation in ("redrive_parked", "discard_parked")},
        },
    )
