"""The operation that shows how much there is to do, and how fast it is done: one look every few seconds."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Document
from producer.api.requests import read_caller
from producer.api.responses import json_response
from producer.api.slow_work import caller_of
from producer.store import stats
from producer.store.database import LongCall, Store
from shared.clock import utc_now
from shared.states import JobState

KEPT_SECONDS = 5.0
# Of so many projects the last figures are kept.
_MOST_PROJECTS = 1_000


class Stats(Document):
    """How much there is to do, and how fast it is done."""

    at: Annotated[datetime, Field(description="When it was looked at; at most a few seconds ago.")]
    jobs: Annotated[
        Mapping[JobState, int], Field(description="How many jobs need work, time or a person, by state.")
    ]
    ended_last_minute: Annotated[
        Mapping[JobState, int], Field(description="How many jobs ended in the last minute, by how.")
    ]
    ended_last_hour: Mapping[JobState, int]
    unfinished_batches: int
    running_operations: int
    cut: Annotated[
        list[str],
        Field(
            description="The states, and `ended_last_minute` or `ended_last_hour`, of which only the newest "
            "100,000 jobs of all projects were looked at: there may be more."
        ),
    ]


class StatsHandlers:
    """Shows figures, and looks once for all who ask at the same time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[str | None, tuple[float, Stats]] = {}
        self._looking = asyncio.Lock()

    async def get_stats(self, request: Request) -> Response:
        """Answer with the figures of the caller's project; those of all to an operator."""
        project, clock = read_caller(request).project, asyncio.get_running_loop().time
        async with self._looking:
            looked_at, found = self._kept.get(project, (0.0, None))
            if found is None or clock() - looked_at > KEPT_SECONDS:
                async with self._store.long_call(LongCall.READ, caller_of(request)):
                    record = await self._store.read(stats.read_stats, project=project, now=utc_now())
                found = Stats.of(record, cut=sorted(record.cut))
                self._kept.pop(project, None)
                self._kept[project] = clock(), found
                if len(self._kept) > _MOST_PROJECTS:
                    del self._kept[next(iter(self._kept))]
        return json_response(found)
