"""The small HTTP server of processes that have no API: `/livez`, `/readyz` and `/metrics`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shared.listening import check_port

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
) -> AsyncIterator[None]:
    """Serve health and metrics while inside; port 0 serves nothing.

    `/readyz` is 200 when every probe says yes, else 503; both name each probe, as the gauge
    `retriever_ready` does. Where a reason is known, `reasons` has it beside them.

    Raises:
        SettingsInvalid: the port is taken, or the host is not of this machine.
    """
    if port == 0:
        yield
        return
    check_port(host, port, variable="RETRIEVER_HEALTH_PORT")
    _register(probes, registry)
    runner = web.AppRunner(_build_app(probes, registry, reasons or {}), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def _register(probes: Mapping[str, Probe], registry: CollectorRegistry) -> None:
    ready = Gauge("retriever_ready", "1 where a probe of /readyz says yes.", ["probe"], registry=registry)
    for name, probe in probes.items():
        ready.labels(name).set_function(probe)


def _build_app(
    probes: Mapping[str, Probe], registry: CollectorRegistry, reasons: Mapping[str, Reason]
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

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app
