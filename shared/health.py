"""The small HTTP server of processes that have no API: `/livez`, `/readyz` and `/metrics`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shared.allowed_hosts import AllowedHosts, split_host
from shared.listening import check_port

# More than the system hands over at once, so that a probe is read before it can be the oldest.
MAX_CONNECTIONS = 200
CONNECTION_SECONDS = 20.0

Probe = Callable[[], bool]
# In a sentence why a probe says no; None when there is nothing to say.
Reason = Callable[[], str | None]


@asynccontextmanager
async def serve_health(
    *,
    host: str,
    port: int,
    probes: Mapping[str, Probe],
    registry: CollectorRegistry,
    reasons: Mapping[str, Reason] | None = None,
    allowed_hosts: Iterable[str] = (),
) -> AsyncIterator[None]:
    """Serve health and metrics while inside; port 0 serves nothing.

    `/readyz` is 200 when every probe says yes, else 503; both name each probe, as the gauge
    `retriever_ready` does. Where a reason is known, `reasons` has it beside them. A host that is neither an
    address nor a name of ours, nor fits `allowed_hosts`, is 421: pages whose names lead here read nothing.

    Raises:
        SettingsInvalid: the port is taken, or the host is not of this machine.
    """
    if port == 0:
        yield
        return
    check_port(host, port, variable="RETRIEVER_HEALTH_PORT")
    _register(probes, registry)
    app = _build_app(probes, registry, reasons or {}, AllowedHosts(allowed_hosts, listens_on=[host]))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    listener = await asyncio.get_running_loop().create_server(_Connections(runner.server), host, port)
    try:
        yield
    finally:
        listener.close()
        await runner.cleanup()


class _Connections:
    """Makes the connections of the server; few at once, and none for long.

    aiohttp waits for ever for the head of a request, so connections that say nothing would take the file
    descriptors that the broker's and the store's connections need.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def __call__(self) -> asyncio.BaseProtocol:
        """Return the protocol of one more connection; the oldest is closed when there are too many."""
        connections = self._server.connections
        if len(connections) >= MAX_CONNECTIONS:
            _end(connections[0])
        connection = self._server()
        # It has one request, which is answered in milliseconds.
        asyncio.get_running_loop().call_later(CONNECTION_SECONDS, _end, connection)
        return connection


def _end(connection: web.RequestHandler) -> None:
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        # Closing waits until all is read, and that may be never.
        transport.abort()


def _register(probes: Mapping[str, Probe], registry: CollectorRegistry) -> None:
    ready = Gauge("retriever_ready", "1 where a probe of /readyz says yes.", ["probe"], registry=registry)
    for name, probe in probes.items():
        ready.labels(name).set_function(probe)


def _build_app(
    probes: Mapping[str, Probe],
    registry: CollectorRegistry,
    reasons: Mapping[str, Reason],
    hosts: AllowedHosts,
) -> web.Application:
    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        answers = {name: probe() for name, probe in probes.items()}
        known = {name: said for name, tell in reasons.items() if not answers[name] and (said := tell())}
        told = {**answers, "reasons": known} if known else answers
        return web.json_response(told, status=200 if all(answers.values()) else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = [split_host(value) for value in request.headers.getall("Host", [])]
        if len(named) != 1 and request.version >= HttpVersion11:
            return web.Response(status=400, text="A request has one field Host (RFC 9112 section 3.2).")
        if all(parts is not None and hosts.allows(parts[0]) for parts in named):
            return await handler(request)
        return web.Response(
            status=421, text="This is not the host that was asked for: see RETRIEVER_HEALTH_ALLOWED_HOSTS."
        )

    app = web.Application(middlewares=[_close_after, check_host])
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


@web.middleware
async def _close_after(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.force_close()
    return response
