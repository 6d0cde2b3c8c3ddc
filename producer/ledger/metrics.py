"""What the ledger counts, for Prometheus."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge


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
        self.jobs_adopted = Counter(
            "retriever_jobs_adopted",
            "Jobs stored that somebody else than the relay had published.",
            registry=self.registry,
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
        self.operation_jobs = Counter(
            "retriever_operation_jobs",
            "Jobs redriven or discarded by operations on many.",
            ["action"],
            registry=self.registry,
        )
        self.parked_removed = Counter(
            "retriever_parked_messages_removed",
            "Messages taken out of jobs.parked.",
            ["by"],
            registry=self.registry,
        )
        self.parked_republished = Counter(
            "retriever_parked_messages_republished",
            "Messages of parked jobs that were missing in jobs.parked and put there again.",
            registry=self.registry,
        )
        self.counts_corrected = Counter(
            "retriever_batch_counts_corrected",
            "Batches whose counts were not what their jobs say, and were mended.",
            registry=self.registry,
        )
        self.jobs_deleted = Counter(
            "retriever_jobs_deleted", "Jobs deleted after their retention.", registry=self.registry
        )
        self.jobs_republished = Counter(
            "retriever_jobs_republished",
            "Unfinished jobs sent again, because their message was lost.",
            ["why"],
            registry=self.registry,
        )
        self.jobs_overdue = Gauge(
            "retriever_jobs_overdue",
            "Jobs that ought to have been heard of, at most 10,000 of a state; one ledger says it.",
            ["state"],
            registry=self.registry,
        )
        self.queue_messages = Gauge(
            "retriever_queue_messages",
            "Messages of our queues, as the management API counts them; one ledger says it.",
            ["queue", "state"],
            registry=self.registry,
        )
        self.dead_letters_stuck = Gauge(
            "retriever_dead_letters_stuck",
            "Messages on their way to another queue, of queues that have had some for a minute.",
            registry=self.registry,
        )
        # Not 0: nobody has looked yet, and perhaps nobody ever will.
        self.dead_letters_stuck.set(math.nan)
