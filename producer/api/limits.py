"""The operations on the limits of projects: what a project may have and has; operators set it."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Document
from producer.api.problems import HttpProblem
from producer.api.requests import check_operator, read_actor, read_caller, read_document
from producer.api.responses import json_response
from producer.api.slow_work import caller_of
from producer.quotas import DESCRIPTIONS, LEAST, MAX_LIMIT, MOST, LimitName, Usage
from producer.store import quotas
from producer.store.database import Connection, LongCall, Store
from shared.clock import utc_now

logger = logging.getLogger(__name__)

_NOT_YOURS = "Only an operator sets what a project may have."
_NO_PROJECT = "No project that you may see has this name."


class LimitSource(StrEnum):
    """For whom a limit was set."""

    PROJECT = "project"
    EVERY = "every"


class LimitDocument(Document):
    """One limit of a project, and how much of it is used."""

    name: LimitName
    description: str
    value: Annotated[int | None, Field(description="How much is allowed; null: what any may have.")]
    source: Annotated[
        LimitSource | None,
        Field(description="`every`: it holds for all projects without one of their own."),
    ]
    used: Annotated[
        int | None, Field(description="How much there is; null where nothing is counted, or not yet.")
    ]


class ProjectLimits(Document):
    """What a project may have and has."""

    project: Annotated[str, Field(description="`*` is every project without a limit of its own.")]
    items: list[LimitDocument]
    measured_at: Annotated[datetime | None, Field(description="When `stored_bytes` were measured.")]


def _field(name: LimitName) -> Any:
    least, most = LEAST.get(name, 0), MOST.get(name, MAX_LIMIT)
    return Annotated[int | None, Field(ge=least, le=most, description=DESCRIPTIONS[name])], None


LimitsRequest: type[BaseModel] = create_model(
    "LimitsRequest",
    __config__=ConfigDict(extra="forbid", frozen=True),
    __doc__="All limits of a project; one that is left out, or null, is none.",
    **{name.value: _field(name) for name in LimitName},
)


class LimitHandlers:
    """Shows and sets what projects may have."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get_own_limits(self, request: Request) -> Response:
        """Answer with what the caller's project may have, and has."""
        return await self._answer(request, read_caller(request).home)

    async def get_limits(self, request: Request) -> Response:
        """Answer with what a project may have, and has."""
        project, own = request.path_params["project"], read_caller(request).project
        if own is not None and project != own:
            raise HttpProblem(HTTPStatus.NOT_FOUND, _NO_PROJECT)
        return await self._answer(request, project)

    async def set_limits(self, request: Request) -> Response:
        """Set the limits of a project, and answer when all processes go by them."""
        project, asked = request.path_params["project"], read_document(LimitsRequest, await request.body())
        check_operator(request, _NOT_YOURS)
        wanted = {LimitName(name): value for name, value in asked.model_dump(exclude_none=True).items()}
        await self._store.write(quotas.set_limits, project, wanted, by=read_actor(request), now=utc_now())
        self._store.known_limits.forget()
        logger.info("limits_set", extra={"project": project, "limits": dict(wanted)})
        await asyncio.sleep(quotas.SETTLED_SECONDS)
        async with self._store.long_call(LongCall.CHANGE, caller_of(request)):
            await self._store.write(quotas.recount, project, now=utc_now())
        return await self._answer(request, project)

    async def _answer(self, request: Request, project: str) -> Response:
        # What is not counted yet is counted for this answer.
        async with self._store.long_call(LongCall.READ, caller_of(request)):
            return json_response(await self._store.read(_document, project))


def _document(connection: Connection, project: str) -> ProjectLimits:
    limits = quotas.read_limits(connection)
    allowed, own = limits.of(project), limits.by_project.get(project, {})
    if not quotas.is_project(project):
        own = {}
    usage, used = _used(connection, project)
    items = [
        LimitDocument(
            name=name,
            description=DESCRIPTIONS[name],
            value=allowed.get(name),
            source=_source(name, allowed, own),
            used=used.get(name),
        )
        for name in LimitName
    ]
    return ProjectLimits(project=project, items=items, measured_at=usage.measured_at if usage else None)


def _source(
    name: LimitName, allowed: Mapping[LimitName, int], own: Mapping[LimitName, int]
) -> LimitSource | None:
    if name not in allowed:
        return None
    return LimitSource.PROJECT if name in own else LimitSource.EVERY


def _used(connection: Connection, project: str) -> tuple[Usage | None, Mapping[LimitName, int | None]]:
    if not quotas.is_project(project):
        return None, {}
    counted = quotas.read_usage(connection, [project]).get(project)
    usage = counted or quotas.count_jobs(connection, project)
    return usage, {
        LimitName.STORED_JOBS: usage.jobs,
        LimitName.STORED_TASKS: usage.tasks,
        LimitName.STORED_BYTES: usage.stored_bytes,
        LimitName.UNFINISHED_BATCHES: quotas.count_unfinished(connection, project),
        LimitName.SCHEDULES: quotas.count_schedules(connection, project),
    }
