"""The counting target: a web site in this process that keeps a ledger of every effect it saw."""

import asyncio
import time
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

# Whoever asks for poison is killed meanwhile; who asks for an endless page is told to stop.
_SECONDS = {"slow": 0.3, "long": 7.0, "poison": 300.0, "endless": 300.0}
# Far above what a report may carry without going to the queue for large ones.
_LARGE_BYTES = 600_000
_KINDS = ("ok", "slow", "long", "large", "flaky", "once", "busy", "endless", "poison")
_FAILURES = {"flaky": 2, "once": 1}
# Alone, so that no other job waits for it.
_BUSY_HOST = "127.0.0.99"
BUSY_SECONDS = 6
"""How long the busy host asks to be left alone."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One request: when it came, on the clock of the event loop, and which worker made it."""

    at: float
    worker: str


@dataclass(slots=True)
class Target:
    """What was seen so far, by key: the last part of a page's path."""

    hosts: int = 1
    """How many addresses stand for hosts; limits are kept for each."""
    port: int = 0
    busy_until: float = 0.0
    """Until when, on a monotonic clock, the busy host refuses all."""
    effects: defaultdict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    calls: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids of the webhooks that came for a key."""
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _flaky: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def page(self, kind: str, key: str) -> str:
        """Return the URL of a page.

        Args:
            kind: `ok`, `slow` (0.3 s), `long` (7 s), `large` (600 kB), `flaky` (fails twice), `once` (fails
                once), `busy` (refuses all while it is busy), `endless` or `poison`.
            key: By which its effects are counted.
        """
        host = _BUSY_HOST if kind == "busy" else f"127.0.0.{1 + zlib.crc32(key.encode()) % self.hosts}"
        return f"http://{host}:{self.port}/{kind}/{key}"

    def hook(self, key: str) -> str:
        """Return the URL that takes webhooks for a key."""
        return f"http://127.0.0.1:{self.port}/hook/{key}"

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
        if kind == "busy" and time.monotonic() < self.busy_until:
            return web.Response(status=429, headers={"Retry-After": str(BUSY_SECONDS)})
        if kind == "large":
            return web.Response(text=key * (_LARGE_BYTES // len(key)))
        self._flaky[key] += 1
        is_failing = self._flaky[key] <= _FAILURES.get(kind, 0)
        return web.Response(status=503 if is_failing else 200, text=key)

    async def take_call(self, request: web.Request) -> web.Response:
        """Note a webhook."""
        await request.read()
        self.calls[request.match_info["key"]].add(request.headers.get("webhook-id", ""))
        return web.Response()


@asynccontextmanager
async def open_target(*, hosts: int) -> AsyncIterator[Target]:
    """Serve the site while inside, on so many addresses and a busy one."""
    target = Target(hosts)
    app = web.Application()
    app.add_routes([web.post("/hook/{key}", target.take_call)])
    # HEAD comes with GET.
    app.add_routes([web.get(f"/{{kind:{'|'.join(_KINDS)}}}/{{key}}", target.answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    try:
        for address in [*(f"127.0.0.{number}" for number in range(1, hosts + 1)), _BUSY_HOST]:
            await web.TCPSite(runner, address, target.port).start()
            # The first takes any port, the others take the same.
            target.port = runner.addresses[0][1]
        yield target
    finally:
        await runner.cleanup()
