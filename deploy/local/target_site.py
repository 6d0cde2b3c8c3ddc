"""A small web site that is flaky on purpose, for `make demo`, the tests and the compose stack.

Ordinary pages come first, then those that wait, then the controls. All state is in the application.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field

import click
from aiohttp import web
from aiohttp.typedefs import Handler

ITEMS_TOTAL = 60
PER_PAGE = 25
MAX_PER_PAGE = 100
POSTS_TOTAL = 100
LIMITED_SECONDS = 2
SHUTDOWN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request that a webhook made; the names of headers are in lower case."""

    headers: dict[str, str]
    body: str


@dataclass(slots=True)
class SiteState:
    """What the site remembers between requests.

    `flaky` counts by method and key, so that a check (HEAD, then GET) and a fetch see the same number of
    failures in as many attempts. `limited` counts whoever asks, as hosts do.
    """

    hits: Counter[str] = field(default_factory=Counter)
    flaky: Counter[tuple[str, str]] = field(default_factory=Counter)
    limited: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    open_gates: set[str] = field(default_factory=set)
    hooks: dict[str, list[Call]] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    is_closing: bool = False

    def forget(self) -> None:
        """Forget everything but who is waiting; gates close again."""
        remembered_all = (self.hits, self.flaky, self.limited, self.mended, self.open_gates, self.hooks)
        for remembered in remembered_all:
            remembered.clear()


STATE = web.AppKey("state", SiteState)


@dataclass(frozen=True, slots=True)
class TargetSite:
    """A running site."""

    url: str
    state: SiteState


@contextlib.asynccontextmanager
async def open_target(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[TargetSite]:
    """Serve the site in this process; whoever still waits at the end is let go.

    Args:
        port: 0 takes a free one.
    """
    application = build_site()
    runner = web.AppRunner(
        application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handler_cancellation=True
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        address = runner.addresses[0]
        yield TargetSite(f"http://{host}:{address[1]}", application[STATE])
    finally:
        await runner.cleanup()


def build_site() -> web.Application:
    """Return the site as an application; make it within a running event loop or before one starts."""
    application = web.Application(middlewares=[_count_hits])
    application[STATE] = SiteState()
    application.on_shutdown.append(_let_everybody_go)
    application.add_routes(
        [
            web.get("/ok", _ok),
            web.get("/ok/{n}", _ok),
            web.get("/versioned", _versioned),
            web.get("/moved", _moved),
            web.get("/moved/{n:[12]}", _moved),
            web.get("/loop", _loop),
            web.get("/missing", _missing),
            web.get("/broken", _broken),
            web.get("/flaky/{key}", _flaky),
            web.get("/limited/{key}", _limited),
            web.get("/busy", _busy),
            web.get("/mendable/{key}", _mendable),
            web.get("/api/items", _items),
            web.get(r"/api/posts/{id:\d{1,9}}", _post),
            web.get("/slow", _slow),
            web.get("/hang", _hang),
            web.get("/drip", _drip),
            web.get("/gate/{key}", _gate),
            web.post("/hooks/{key}", _hook),
            web.get("/control/hits", _control_hits),
            web.post("/control/reset", _control_reset),
            web.post("/control/mend/{key}", _control_mend),
            web.post("/control/open/{key}", _control_open),
            web.get("/control/waiting/{key}", _control_waiting),
            web.get("/control/hooks/{key}", _control_hooks),
        ]
    )
    return application


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8090, show_default=True, type=click.IntRange(0, 65_535))
def main(host: str, port: int) -> None:
    """Serve a site that is flaky on purpose, until SIGTERM or Ctrl-C."""
    web.run_app(
        build_site(),
        host=host,
        port=port,
        access_log=None,
        shutdown_timeout=SHUTDOWN_SECONDS,
        # A client that is killed no longer waits at a gate.
        handler_cancellation=True,
    )


@web.middleware
async def _count_hits(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not request.path.startswith("/control/"):
        request.app[STATE].hits[request.path] += 1
    return await handler(request)


async def _ok(request: web.Request) -> web.Response:
    page = request.match_info.get("n", "home")
    return web.Response(
        text=f"<html><title>{page}</title><p>All is well.</p></html>", content_type="text/html"
    )


async def _versioned(request: web.Request) -> web.Response:
    # A page that never changes, and says so to whoever asks with its ETag.
    headers = {"ETag": '"v1"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    return web.Response(text="The first version.", headers=headers)


async def _moved(request: web.Request) -> web.Response:
    step = int(request.match_info.get("n", 0))
    raise web.HTTPMovedPermanently("/ok" if step == 2 else f"/moved/{step + 1}")


async def _loop(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/loop")


async def _missing(_request: web.Request) -> web.Response:
    raise web.HTTPNotFound


async def _broken(_request: web.Request) -> web.Response:
    raise web.HTTPInternalServerError


async def _flaky(request: web.Request) -> web.Response:
    failures = _number(request, "fail", default=2)
    key = (request.method, request.match_info["key"])
    state = request.app[STATE]
    if state.flaky[key] < failures:
        state.flaky[key] += 1
        raise web.HTTPServiceUnavailable
    return web.Response(text="Up again.")


async def _limited(request: web.Request) -> web.Response:
    key, state = request.match_info["key"], request.app[STATE]
    if key not in state.limited:
        state.limited.add(key)
        raise web.HTTPTooManyRequests(headers={"Retry-After": str(LIMITED_SECONDS)})
    return web.Response(text="Welcome back.")


async def _busy(_request: web.Request) -> web.Response:
    raise web.HTTPTooManyRequests(headers={"Retry-After": "1"})


async def _mendable(request: web.Request) -> web.Response:
    if request.match_info["key"] not in request.app[STATE].mended:
        raise web.HTTPInternalServerError
    return web.Response(text="Mended.")


async def _items(request: web.Request) -> web.Response:
    page = max(int(_number(request, "page", default=1)), 1)
    per_page = min(max(int(_number(request, "per_page", default=PER_PAGE)), 1), MAX_PER_PAGE)
    numbers = range((page - 1) * per_page + 1, min(page * per_page, ITEMS_TOTAL) + 1)
    body = {
        "total": ITEMS_TOTAL,
        "pages": -(-ITEMS_TOTAL // per_page),
        "page": page,
        "items": [{"id": n, "name": f"item {n}", "price": n * 100} for n in numbers],
    }
    return web.json_response(body, headers={"X-Total-Count": str(ITEMS_TOTAL)})


async def _post(request: web.Request) -> web.Response:
    number = int(request.match_info["id"])
    if not 1 <= number <= POSTS_TOTAL:
        raise web.HTTPNotFound
    title = f"Post {number}, {'very ' * (number % 5)}short"
    return web.json_response({"id": number, "title": title, "body": "It was a fine day."})


async def _slow(request: web.Request) -> web.Response:
    await asyncio.sleep(min(_number(request, "seconds", default=3), 300))
    return web.Response(text="At last.")


async def _hang(request: web.Request) -> web.Response:
    state = request.app[STATE]
    async with state.changed:
        await state.changed.wait_for(lambda: state.is_closing)
    raise web.HTTPServiceUnavailable


async def _drip(request: web.Request) -> web.StreamResponse:
    octets = min(int(_number(request, "bytes", default=10)), 100_000)
    pause_seconds = min(_number(request, "seconds", default=5), 300) / max(octets, 1)
    answer = web.StreamResponse(headers={"Content-Type": "text/plain", "Content-Length": str(octets)})
    await answer.prepare(request)
    for _ in range(octets):
        await asyncio.sleep(pause_seconds)
        await answer.write(b".")
    return answer


async def _gate(request: web.Request) -> web.Response:
    key, state = request.match_info["key"], request.app[STATE]
    async with state.changed:
        state.waiting[key] += 1
        state.changed.notify_all()
        try:
            await state.changed.wait_for(lambda: key in state.open_gates or state.is_closing)
        finally:
            state.waiting[key] -= 1
            state.changed.notify_all()
    return web.Response(text="Through.")


async def _hook(request: web.Request) -> web.Response:
    # A receiver of webhooks: it refuses the first ?fail=n calls with ?status=, and remembers all.
    calls = request.app[STATE].hooks.setdefault(request.match_info["key"], [])
    headers = {name.lower(): value for name, value in request.headers.items()}
    calls.append(Call(headers, await request.text()))
    if len(calls) > _number(request, "fail", default=0):
        return web.Response(status=204)
    status = int(_number(request, "status", default=503))
    return web.Response(
        status=status, headers={"Location": "/hooks/elsewhere"} if 300 <= status < 400 else {}
    )


async def _control_hooks(request: web.Request) -> web.Response:
    calls = request.app[STATE].hooks.get(request.match_info["key"], [])
    return web.json_response([asdict(call) for call in calls])


async def _control_hits(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].hits)


async def _control_reset(request: web.Request) -> web.Response:
    request.app[STATE].forget()
    return web.Response(status=204)


async def _control_mend(request: web.Request) -> web.Response:
    request.app[STATE].mended.add(request.match_info["key"])
    return web.Response(status=204)


async def _control_open(request: web.Request) -> web.Response:
    state = request.app[STATE]
    async with state.changed:
        state.open_gates.add(request.match_info["key"])
        state.changed.notify_all()
    return web.Response(status=204)


async def _control_waiting(request: web.Request) -> web.Response:
    # With ?at_least=n the answer comes when so many wait, so that a test need not poll.
    key, state = request.match_info["key"], request.app[STATE]
    at_least = _number(request, "at_least", default=0)
    async with state.changed:
        await state.changed.wait_for(lambda: state.waiting[key] >= at_least or state.is_closing)
    return web.json_response({"waiting": state.waiting[key]})


async def _let_everybody_go(application: web.Application) -> None:
    state = application[STATE]
    async with state.changed:
        state.is_closing = True
        state.changed.notify_all()


def _number(request: web.Request, name: str, *, default: float) -> float:
    try:
        number = float(request.query.get(name, default))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise web.HTTPBadRequest(text=f"{name} must be a number, 0 or more")
    return number


if __name__ == "__main__":
    main()
