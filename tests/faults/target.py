"""The counting target: a web site in this process that keeps a ledger of every effect it saw."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

_FAILURES_OF_FLAKY = 2
# Whoever asks for poison is killed meanwhile.
_SECONDS = {"slow": 0.3, "long": 7.0, "poison": 300.0}


@dataclass(frozen=True, slots=True)
class Effect:
    """One request: when it came, on the clock of the event loop, and which worker made it."""

    at: float
    worker: str


@dataclass(slots=True)
class Target:
    """What was seen so far, by key: the last part of a page's path."""

    url: str
    effects: defaultdict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    calls: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids of the webhooks that came for a key."""
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _flaky: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def page(self, kind: str, key: str) -> str:
        """Return the URL of a page: `ok`, `slow` (0.3 s), `long` (7 s), `flaky` (fails twice), `poison`."""
        return f"{self.url}/{kind}/{key}"

    def hook(self, key: str) -> str:
        """Return the URL that takes webhooks for a key."""
        return f"{self.url}/hook/{key}"

    async def wait_for_effects(self, key: str, *, more_than: int) -> Effect:
        """Return the latest effect of a key once there are more than so many."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.effects[key]) > more_than)
        return self.effects[key][-1]

    async def answer(self, request: web.Request) -> web.Response:
        """Note the request, then answer as its page does."""
        kind, key = request.match_info["kind"], request.match_info["key"]
        # The worker's name is the end of its User-Agent: see `tests.faults.world`.
        worker = request.headers.get("User-Agent", "").rpartition("/")[2]
        async with self.news:
            self.effects[key].append(Effect(asyncio.get_running_loop().time(), worker))
            self.news.notify_all()
        await asyncio.sleep(_SECONDS.get(kind, 0.0))
        self._flaky[key] += kind == "flaky"
        is_failing = kind == "flaky" and self._flaky[key] <= _FAILURES_OF_FLAKY
        return web.Response(status=503 if is_failing else 200, text=key)

    async def take_call(self, request: web.Request) -> web.Response:
        """Note a webhook."""
        await request.read()
        self.calls[request.match_info["key"]].add(request.headers.get("webhook-id", ""))
        return web.Response()


@asynccontextmanager
async def open_target() -> AsyncIterator[Target]:
    """Serve the site while inside."""
    target = Target(url="")
    app = web.Application()
    app.add_routes([web.post("/hook/{key}", target.take_call)])
    # HEAD comes with GET.
    app.add_routes([web.get("/{kind:ok|slow|long|flaky|poison}/{key}", target.answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        target.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield target
    finally:
        await runner.cleanup()
