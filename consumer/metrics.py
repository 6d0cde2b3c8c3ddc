"""What a worker counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class WorkerMetrics:
    """Counters of one worker process, in a registry of their own."""

    def __init__(self) -> None:
        """Register the metrics."""
        self.registry = CollectorRegistry()
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
