"""What a worker counts, for Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from consumer.compute.pool import ComputePool


class WorkerMetrics:
    """Counters of one worker process, in a registry of their own."""

    def __init__(self, compute: ComputePool | None = None) -> None:
        """Register the metrics, and those of what looks at answers."""
        self.registry = CollectorRegistry()
        if compute is not None:
            self.registry.register(_ComputeCollector(compute))
        self.attempts = Counter(
            "retriever_attempts", "Attempts settled.", ["kind", "outcome"], registry=self.registry
        )
        self.attempt_seconds = Histogram(
            "retriever_attempt_seconds", "How long attempts took.", ["kind"], registry=self.registry
        )
        self.deferrals = Counter(
            "retriever_deferrals",
            "Jobs sent back unattempted, because their host had no turn.",
            ["kind", "reason"],
            registry=self.registry,
        )
        # Looking up a child by its labels costs more than counting.
        self._settled: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self.in_hand = Gauge(
            "retriever_deliveries_in_hand",
            "Jobs in hand: a delivery brings one job, or a bundle of several.",
            registry=self.registry,
        )
        self.backlog = Gauge(
            "retriever_backlog_jobs",
            "Jobs in hand that wait for a slot, where fewer run at once than are in hand.",
            registry=self.registry,
        )

    def count_attempt(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a settled attempt of a kind, which took so many seconds."""
        children = self._settled.get((kind, outcome))
        if children is None:
            children = self.attempts.labels(kind, outcome), self.attempt_seconds.labels(kind)
            self._settled[kind, outcome] = children
        attempts, attempt_seconds = children
        attempts.inc()
        attempt_seconds.observe(seconds)


class _ComputeCollector(Collector):
    """Reads the compute processes of a worker when somebody asks."""

    def __init__(self, pool: ComputePool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of this moment."""
        pool = self._pool
        yield GaugeMetricFamily(
            "retriever_compute_processes", "Processes that look at answers.", value=pool.processes
        )
        yield GaugeMetricFamily(
            "retriever_compute_waiting_calls", "Calls that wait for such a process.", value=pool.waiting
        )
        yield CounterMetricFamily(
            "retriever_compute_processes_ended",
            "Such processes that were killed, died, or ended because they kept too much memory.",
            value=pool.ended,
        )
        calls = CounterMetricFamily(
            "retriever_compute_calls", "Calls to such processes, by what came of them.", labels=["outcome"]
        )
        for outcome, count in pool.counts.items():
            calls.add_metric([outcome], count)
        yield calls
