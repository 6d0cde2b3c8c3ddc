"""What the ledger counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter


class LedgerMetrics:
    """Counters of one ledger process, in a registry of their own."""

    def __init__(self) -> None:
        """Register the metrics."""
        self.registry = CollectorRegistry()
        self.relayed = Counter(
            "retriever_jobs_relayed", "Jobs published and marked queued.", registry=self.registry
        )
        self.events = Counter(
            "retriever_events_announced", "Outcomes, batches and cancellations told.", registry=self.registry
        )
        self.reports = Counter(
            "retriever_reports", "Reports taken from the broker.", ["effect"], registry=self.registry
        )
        self.schedule_runs = Counter(
            "retriever_schedule_runs",
            "Runs of schedules that were due, by what became of them.",
            ["effect"],
            registry=self.registry,
        )
        self.transitions = Counter(
            "retriever_job_transitions",
            "Changes of state recorded.",
            ["kind", "state"],
            registry=self.registry,
        )
