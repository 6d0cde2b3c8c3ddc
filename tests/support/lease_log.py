"""A proxy between agents and an API that writes down each lease that the API grants, extends and ends."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Call:
    """What an agent asked with a token, and what the API said. Times are of the wall clock."""

    name: str
    status: int
    sent_at: float
    answered_at: float
    expires_at: float | None


@dataclass(slots=True)
class Grant:
    """A task that a pick gave to an agent, and all that followed under its token."""

    task_id: str
    attempt: int
    token: str
    agent: str
    asked_at: float
    answered_at: float
    expires_at: float
    calls: list[Call] = field(default_factory=list)

    @property
    def end(self) -> Call | None:
        """The end that the API took from its holder, if it did."""
        ends = [call for call in self.calls if call.name != "extend" and call.status == 200]
        return ends[0] if ends else None

    @property
    def held_until(self) -> float:
        """Until when the API gave it, by its own words; no later than its end was on the way."""
        if self.end is not None:
            return self.end.sent_at
        granted = [call.expires_at for call in self.calls if call.status == 200 and call.expires_at]
        return max([self.expires_at, *granted])

    @property
    def refused(self) -> list[Call]:
        """What the API would not do for its holder any more."""
        return [call for call in self.calls if call.status == 409]


class LeaseLog:
    """All grants, in the order in which their answers came."""

    def __init__(self) -> None:
        self.grants: list[Grant] = []
        self._by_token: dict[str, Grant] = {}
        self._has_grown = asyncio.Event()

    def by_task(self) -> dict[str, list[Grant]]:
        """Return the grants of each task, the first attempt first."""
        grants: dict[str, list[Grant]] = defaultdict(list)
        for grant in sorted(self.grants, key=lambda grant: grant.attempt):
            grants[grant.task_id].append(grant)
        return grants

    def held_by(self, agent: str) -> list[Grant]:
        """Return what an agent has been granted and has not ended."""
        return [grant for grant in self.grants if grant.agent == agent and grant.end is None]

    async def grown(self) -> None:
        """Return when something was written down."""
        self._has_grown.clear()
        await self._has_grown.wait()

    def note(
        self, path: str, asked: dict[str, Any], status: int, answer: dict[str, Any], sent_at: float
    ) -> None:
        """Write down one exchange."""
        answered_at = time.time()
        if path.endswith("/pick"):
            for task in answer.get("tasks", ()):
                token, until = task["lease"]["token"], _seconds(task["lease"]["expires_at"])
                assert until is not None and token not in self._by_token
                grant = Grant(task["id"], task["attempt"], token, asked["agent"], sent_at, answered_at, until)
                self.grants.append(grant)
                self._by_token[token] = grant
        elif asked["token"] in self._by_token:
            call = Call(
                path.rsplit("/", maxsplit=1)[1],
                status,
                sent_at,
                answered_at,
                _seconds(answer.get("expires_at")),
            )
            self._by_token[asked["token"]].calls.append(call)
        self._has_grown.set()


def _seconds(at: str | None) -> float | None:
    return datetime.fromisoformat(at).timestamp() if at else None


@asynccontextmanager
async def logged_api(api_url: str, log: LeaseLog) -> AsyncIterator[str]:
    """Yield an address that passes everything on to an API, and writes down what agents ask it."""

    async def exchange(path: str, asked: dict[str, Any]) -> web.Response:
        sent_at = time.time()
        async with session.post(f"{api_url}{path}", json=asked) as answer:
            document = await answer.json(content_type=None)
        log.note(path, asked, answer.status, document, sent_at)
        return web.json_response(document, status=answer.status)

    async def pass_on(request: web.Request) -> web.Response:
        passing = exchanges.create_task(exchange(request.path, await request.json()))
        if request.path.endswith("/pick"):
            return await passing
        # What became of it is written down, also when its agent no longer waits.
        return await asyncio.shield(passing)

    app = web.Application()
    app.router.add_post("/{path:.*}", pass_on)
    # An agent that goes away is seen to be gone by the API.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as exchanges:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()
