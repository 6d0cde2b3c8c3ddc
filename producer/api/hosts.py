"""The operations on hosts: which come near their limits, what they allow now, and limits set at run time."""

import logging
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Document
from producer.api.problems import HttpProblem
from producer.api.requests import Query, check_operator, read_actor, read_document
from producer.api.responses import json_response
from producer.hosts import TrackedHost
from producer.store import hosts
from producer.store.database import Store
from shared.clock import utc_now
from shared.errors import FieldError
from shared.hosts import MAX_CONCURRENCY, MAX_RATE_PER_SECOND, HostLimit, host_named

logger = logging.getLogger(__name__)

_NOT_YOURS = "Hosts are those of all projects: only an operator sees and limits them."
_UNKNOWN = "This host is nowhere near its limit, and none was set for it."


class BreakerState(StrEnum):
    """Whether a host that fails is left alone."""

    CLOSED = "closed"
    OPEN = "open"
    GIVEN_UP = "given_up"


class HostLimitDocument(Document):
    """How hard a host may be asked, over all workers together."""

    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY, description="Jobs at once.")]
    rate_per_second: Annotated[float, Field(ge=0, description="Jobs a second; 0 is no limit.")]


class HostDocument(Document):
    """A host that came near its limit lately, or for which a limit was set."""

    host: Annotated[str, Field(description="Its name, with its port where that is not the scheme's own.")]
    waiting: Annotated[int, Field(description="Accepted jobs that wait until it has room.")]
    in_flight: Annotated[int, Field(description="Jobs that were released and have not ended.")]
    limit: Annotated[
        HostLimitDocument | None, Field(description="Null before a ledger has looked at the host.")
    ]
    is_set: Annotated[bool, Field(description="Whether the limit was set at run time.")]
    allowed: Annotated[
        HostLimitDocument | None, Field(description="The limit at its present pace; null as `limit`.")
    ]
    pace: Annotated[float, Field(description="How much of its limit it is asked for now: 1 is all of it.")]
    used_per_second: Annotated[
        float, Field(description="How many of its requests were answered a second, over some five seconds.")
    ]
    answers: Annotated[float, Field(description="How many were heard lately; older ones count less.")]
    complaints: Annotated[float, Field(description="How many of them were 429 or 503.")]
    paused_until: Annotated[datetime | None, Field(description="As its `Retry-After` asked.")]
    breaker: Annotated[
        BreakerState, Field(description="`given_up`: it failed for so long that its jobs go ahead.")
    ]
    breaker_until: Annotated[datetime | None, Field(description="When one job tries an open one.")]


class HostList(Document):
    """Hosts by name, and the name to go on behind; null after the last."""

    items: list[HostDocument]
    next: str | None


class HostLimitRequest(BaseModel):
    """The limit of a host, over all workers together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY, description="Jobs at once.")]
    rate_per_second: Annotated[
        float,
        Field(ge=0, le=MAX_RATE_PER_SECOND, allow_inf_nan=False, description="Jobs a second; 0 is no limit."),
    ] = 0.0


class HostHandlers:
    """Shows hosts that come near their limits, and limits them at run time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list_hosts(self, request: Request) -> Response:
        """Answer with a page of tracked hosts, by name."""
        check_operator(request, _NOT_YOURS)
        query = Query(request)
        found = await self._store.read(hosts.list_hosts, after=query.text("after"), limit=query.limit + 1)
        page = [_document(host) for host in found[: query.limit]]
        following = page[-1].host if len(found) > query.limit else None
        return json_response(HostList(items=page, next=following))

    async def get_host(self, request: Request) -> Response:
        """Answer with a tracked host."""
        check_operator(request, _NOT_YOURS)
        found = await self._store.read(hosts.get_host, _name(request))
        if found is None:
            raise HttpProblem(HTTPStatus.NOT_FOUND, _UNKNOWN)
        return json_response(_document(found))

    async def set_host_limit(self, request: Request) -> Response:
        """Set the limit of a host over the whole fleet, at once."""
        check_operator(request, _NOT_YOURS)
        asked = read_document(HostLimitRequest, await request.body())
        return await self._set(request, HostLimit(asked.concurrency, asked.rate_per_second))

    async def clear_host_limit(self, request: Request) -> Response:
        """Let the settings say the limit of a host again."""
        check_operator(request, _NOT_YOURS)
        return await self._set(request, None)

    async def _set(self, request: Request, limit: HostLimit | None) -> Response:
        name, by = _name(request), read_actor(request)
        found = await self._store.write(hosts.set_limit, name, limit, by=by, now=utc_now())
        logger.info("host_limit_set", extra={"host": name, "is_set": limit is not None, "by": by})
        return json_response(_document(found))


def _name(request: Request) -> str:
    """Return the host in the path of a request, as limits know it.

    Raises:
        HttpProblem: 400: it is none.
    """
    try:
        return host_named(request.path_params["host"])
    except ValueError as error:
        fault = FieldError("/path/host", str(error)[0].upper() + str(error)[1:])
        raise HttpProblem(HTTPStatus.BAD_REQUEST, f"{fault.loc}: {fault.msg}.", errors=[fault]) from None


def _document(host: TrackedHost) -> HostDocument:
    now, state, limit = utc_now(), host.state, host.limit
    breaker = BreakerState.CLOSED
    if state.rests_until is not None:
        breaker = BreakerState.OPEN if state.is_open() else BreakerState.GIVEN_UP
    is_paused = state.paused_until is not None and state.paused_until > now
    return HostDocument(
        host=state.name,
        waiting=state.waiting,
        in_flight=state.in_flight,
        limit=_limit(limit),
        is_set=state.limit is not None,
        allowed=None if limit is None else _limit(state.allowed(limit, now)),
        pace=round(state.pace(now), 4),
        used_per_second=round(state.used_per_second(now), 1),
        answers=round(state.asked, 1),
        complaints=round(state.complained, 1),
        paused_until=state.paused_until if is_paused else None,
        breaker=breaker,
        breaker_until=state.rests_until if breaker is BreakerState.OPEN else None,
    )


def _limit(limit: HostLimit | None) -> HostLimitDocument | None:
    if limit is None:
        return None
    return HostLimitDocument(concurrency=limit.concurrency, rate_per_second=limit.rate_per_second)
