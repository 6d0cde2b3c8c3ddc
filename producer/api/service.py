"""The operations that show the service itself: its retention, its health, its metrics."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import Document
from producer.api.metrics import ApiMetrics
from producer.api.responses import json_response
from producer.parking import DELETED_STATES
from producer.store_probe import StoreProbe
from shared.clock import utc_now
from shared.settings import Settings
from shared.states import JobState


class Health(Document):
    """The service is well."""

    status: Literal["ok"] = "ok"


class Retention(Document):
    """How long jobs are kept after their end."""

    days: Annotated[int, Field(description="0: for ever.")]
    states: Annotated[list[JobState], Field(description="Only jobs in these states are deleted.")]
    ended_before: Annotated[
        datetime | None,
        Field(description="Jobs that ended before this time may be gone; null when all are kept."),
    ]


class ServiceHandlers:
    """Shows how the service is."""

    def __init__(self, probe: StoreProbe, metrics: ApiMetrics, settings: Settings) -> None:
        self._probe = probe
        self._metrics = metrics
        self._retention_days = settings.retention_days

    async def get_retention(self, _request: Request) -> Response:
        """Answer with how long jobs are kept after their end."""
        days = self._retention_days
        before = utc_now() - timedelta(days=days) if days else None
        return json_response(Retention(days=days, states=list(DELETED_STATES), ended_before=before))

    async def livez(self, _request: Request) -> Response:
        """Answer that the process lives, without the store and without a thread that could be busy."""
        return json_response(Health())

    async def readyz(self, _request: Request) -> Response:
        """Answer that requests can be served: the store answers soon, and its tables fit."""
        await self._probe.ask()
        return json_response(Health())

    async def metrics(self, _request: Request) -> Response:
        """Answer with all metrics for Prometheus."""
        return Response(await self._metrics.render(), media_type=CONTENT_TYPE_LATEST)
