"""The metrics for Prometheus: requests by operation, unfinished jobs by state, and those of tasks."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.api.connections import Connections
from producer.api.routes import RouteTable
from producer.api.task_metrics import TaskMetrics
from producer.store import queries
from producer.store.database import Connection, Store
from producer.store.tasks import queue_lengths
from producer.tasks import QueueLength
from shared.errors import StoreUnavailable
from shared.states import JobState

logger = logging.getLogger(__name__)

COUNTS_KEPT_SECONDS = 5.0
# Those beyond the names that are told apart add up to one.
_COUNTED_QUEUES = 1_000
# A request that nobody answered: the client left first.
NO_STATUS = 499
# Parked jobs count as unfinished: somebody has to decide on them.
FINISHED = frozenset({JobState.SUCCEEDED, JobState.CANCELLED})
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ApiMetrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, store: Store, count_waiters: Callable[[], int], connections: Connections) -> None:
        self._store = store
        self._unfinished = _UnfinishedJobs()
        self._counted_at = float("-inf")
        self._registry = CollectorRegistry()
        self._registry.register(self._unfinished)
        self._requests = Counter(
            "retriever_http_requests",
            "HTTP requests that were answered.",
            ("operation", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "retriever_http_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("operation",),
            registry=self._registry,
        )
        self._registry.register(connections.refusals.counter)
        gauge = Gauge("retriever_api_connections", "Connections that are open.", registry=self._registry)
        gauge.set_function(connections.__len__)
        self.tasks = TaskMetrics(self._registry, count_waiters)

    def observe(self, operation: str, *, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(operation, method, status).inc()
        self._seconds.labels(operation).observe(seconds)

    async def render(self) -> bytes:
        """Return all metrics in Prometheus' text format; asks the store at most every few seconds."""
        if time.monotonic() - self._counted_at > COUNTS_KEPT_SECONDS:
            try:
                self._unfinished.counts, lengths = await self._store.read(_count)
                self.tasks.show_lengths(lengths)
                self._counted_at = time.monotonic()
            except StoreUnavailable as error:
                # A gauge that is gone is honest; a stale or zero one would look like an empty queue.
                logger.warning("jobs_not_counted", extra={"error": str(error)[:200]})
                self._unfinished.counts = None
                self.tasks.show_lengths(None)
        return await asyncio.to_thread(generate_latest, self._registry)


def _count(connection: Connection) -> tuple[Mapping[JobState, int], list[QueueLength]]:
    counts = queries.count_unfinished(connection)
    return counts, queue_lengths(connection, limit=_COUNTED_QUEUES)


class _UnfinishedJobs(Collector):
    """`retriever_jobs{state}`; without counts it has no values."""

    counts: Mapping[JobState, int] | None = None

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("retriever_jobs", "Unfinished jobs by state.", labels=("state",))
        if self.counts is not None:
            for state in JobState:
                if state not in FINISHED:
                    family.add_metric([state], self.counts.get(state, 0))
        yield family


class MeteredApp:
    """Counts and times every request around all else; labels are bounded by the contract, not by clients."""

    def __init__(self, app: ASGIApp, *, routes: RouteTable, metrics: ApiMetrics) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), NO_STATUS

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._observe(scope, status=status, seconds=time.monotonic() - started)

    def _observe(self, scope: Scope, *, status: int, seconds: float) -> None:
        route = self._routes.find(scope["path"])
        operation = route.operation(scope["method"]) if route else None
        name = operation.id if operation else "none"
        method = scope["method"] if scope["method"] in KNOWN_METHODS else "other"
        self._metrics.observe(name, method=method, status=status, seconds=seconds)
        logger.debug("request_answered", extra={"operation": name, "method": method, "status": status})
