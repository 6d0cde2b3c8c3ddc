"""Requests a second of each caller: counted in memory, and shared among API processes through the store.

Whoever is limited hears of it in each answer, as draft-ietf-httpapi-ratelimit-headers-10 says. While the
store is away each process keeps to the part of the rate that it had last.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.api.problems import HttpProblem
from producer.api.refusals import Refusal, Refusals, client_of
from producer.api.slow_work import caller_of
from producer.callers import NOBODY, Caller
from producer.rates import Account
from producer.store.database import Store
from producer.store.rates import exchange_demands
from shared.clock import utc_now
from shared.errors import StoreRefused, StoreUnavailable
from shared.identity import new_id
from shared.repeated_warning import RepeatedWarning
from shared.settings import Settings

logger = logging.getLogger(__name__)

EXCHANGE_SECONDS: Final = 0.1
# The callers that ask for most; thousands of others, each above a twentieth of its rate, are none to share.
_MOST_TOLD = 1_000
_HEADERS: Final = "retriever.rate_headers"
_POLICY = '"caller"'


class RateLimits:
    """The accounts of one API process."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        refusals: Refusals,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._refusals = refusals
        self._clock = clock
        self._key_rate = settings.key_rate_per_second
        self._address_rate = settings.address_rate_per_second
        self._process = new_id()
        self._accounts: dict[str, Account] = {}
        self._told: set[str] = set()

    def rate_of(self, caller: Caller) -> int:
        """Return how many requests a second a caller may send; 0 for any number."""
        if caller is NOBODY:
            return self._address_rate
        return self._key_rate if caller.rate_per_second is None else caller.rate_per_second

    def charge(self, caller: Caller, request: Request) -> None:
        """Count a request of a caller, and tell them in its answer how many more they may send.

        Raises:
            HttpProblem: 429: they have sent too many.
        """
        if not (rate := self.rate_of(caller)):
            return
        name = f"address:{caller_of(request)}" if caller is NOBODY else caller.actor
        now = self._clock()
        account = self._accounts.get(name)
        if account is None or account.rate_per_second != rate:
            account = self._accounts[name] = Account(rate, now=now)
        is_let_in = account.take(now)
        left, seconds = (account.left, 1) if is_let_in else (0, account.wait_seconds)
        request.scope[_HEADERS] += (
            (b"ratelimit-policy", f"{_POLICY};q={rate};w=1".encode()),
            (b"ratelimit", f"{_POLICY};r={left};t={seconds}".encode()),
        )
        if not is_let_in:
            self._refusals.count(Refusal.RATE, client=client_of(request.scope), what=name)
            detail = f"{name} may send {rate:,} requests a second. Send it again after Retry-After seconds."
            headers = {"Retry-After": str(seconds)}
            raise HttpProblem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers=headers)

    async def run(self) -> None:
        """Share the rates with other processes, again and again, until cancelled."""
        warning = RepeatedWarning(logger)
        while True:
            try:
                await self.exchange()
                warning = RepeatedWarning(logger)
            except (StoreUnavailable, StoreRefused) as error:
                warning.tell("rates_not_shared", {"error": str(error)[:300]})
            await asyncio.sleep(EXCHANGE_SECONDS)

    async def exchange(self) -> None:
        """Tell other processes what this one is asked for, and hear the same of them.

        Nothing is read or written for callers who send less than a twentieth of what they may.

        Raises:
            StoreUnavailable: the store does not answer; the parts of the rates stay as they are.
        """
        now = self._clock()
        for name, account in [*self._accounts.items()]:
            account.measure(now)
            if account.is_over(now):
                del self._accounts[name]
        loud = {name: account for name, account in self._accounts.items() if account.is_loud}
        most = heapq.nlargest(_MOST_TOLD, loud, key=lambda name: loud[name].asked_per_second)
        asked = {name: loud[name].asked_per_second for name in most}
        if not asked and not self._told:
            return
        ended = self._told - asked.keys()
        others = await self._store.write(exchange_demands, self._process, asked, ended=ended, now=utc_now())
        self._told = set(asked)
        for name in asked:
            loud[name].share(others.get(name, 0.0))


class RateHeaders:
    """Puts into each answer to a limited caller what is left of their rate."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = []
        # The scope is copied on its way, the list is not.
        scope[_HEADERS] = headers

        async def tell(message: Message) -> None:
            if headers and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self._app(scope, receive, tell)
