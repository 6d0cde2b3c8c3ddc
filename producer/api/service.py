"""The operations that tell of the service itself: its retention, its health, its metrics."""

from datetime import timedelta

import flask
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from producer.api.guard import JSON_TYPE
from producer.api.metrics import ApiMetrics
from producer.api.models import Health
from producer.api.parking_models import Retention
from producer.parking import DELETED_STATES
from producer.store.database import Database
from producer.store_probe import StoreProbe
from shared.clock import utc_now
from shared.settings import Settings


class ServiceOperations:
    """Tells how the service is."""

    def __init__(self, store: Database, metrics: ApiMetrics, settings: Settings) -> None:
        self._store_probe = StoreProbe(store)
        self._retention_days = settings.retention_days
        self._metrics = metrics
        self._health = Health().model_dump_json()

    def get_retention(self) -> flask.Response:
        """Answer with how long jobs are kept after their end."""
        days = self._retention_days
        before = utc_now() - timedelta(days=days) if days else None
        document = Retention(days=days, states=list(DELETED_STATES), ended_before=before)
        return flask.Response(document.model_dump_json(), mimetype=JSON_TYPE)

    async def livez(self, _request: Request) -> Response:
        """Answer that the process lives: on the event loop, so a busy thread or store cannot hold it up."""
        return Response(self._health, media_type=JSON_TYPE)

    async def readyz(self, _request: Request) -> Response:
        """Answer that requests can be served: the store answers soon, and its tables fit."""
        await self._store_probe.ask()
        return Response(self._health, media_type=JSON_TYPE)

    def metrics(self) -> flask.Response:
        """Answer with all metrics for Prometheus."""
        return flask.Response(self._metrics.render(), content_type=CONTENT_TYPE_LATEST)
