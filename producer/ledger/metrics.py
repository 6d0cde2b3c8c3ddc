"""What the ledger counts, for Prometheus."""

import logging
import math
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from producer.records import Transition

logger = logging.getLogger(__name__)


class LedgerMetrics:
    """Counters of one ledger process, in a registry of their own."""

    def __init__(self) -> None:
        """Register the metrics."""
        self.registry = CollectorRegistry()
        self.relayed = self._counter("jobs_relayed", "Jobs published and marked queued.")
        self.events = self._counter("events_announced", "Outcomes, batches and cancellations published.")
        self.reports = self._counter("reports", "Reports taken from the broker.", "effect")
        self.reports_put_aside = self._counter(
            "reports_put_aside",
            "Messages to the recorder that were not recorded, or not all of them, by why.",
            "reason",
        )
        self.rows_put_aside = self._counter(
            "rows_put_aside", "Rows that a part of the ledger cannot work on, by the part.", "service"
        )
        self.service_failures = self._counter(
            "service_failures", "Parts of the ledger that failed and were started anew.", "service"
        )
        self.jobs_adopted = self._counter("jobs_adopted", "Jobs stored that a third party had published.")
        self.schedule_runs = self._counter(
            "schedule_runs", "Runs of schedules that were due, by what became of them.", "effect"
        )
        self.transitions = self._counter("job_transitions", "Changes of state recorded.", "kind", "state")
        self.operation_jobs = self._counter(
            "operation_jobs", "Jobs redriven or discarded by operations on many.", "action"
        )
        self.jobs_republished = self._counter(
            "jobs_republished", "Unfinished jobs sent again, because their message was lost.", "why"
        )
        self.leases_expired = self._counter(
            "task_leases_expired",
            "Leases of tasks that ran out before their agent ended them; of a hundred queues by name.",
            "queue",
        )
        self._register_leader()

    def note_transitions(self, changes: Iterable[Transition]) -> None:
        """Count changes of state that were recorded, and write a log line of each."""
        for change in changes:
            self.transitions.labels(change.kind, change.state).inc()
            facts = {"job_id": str(change.job_id), "run": change.run, "attempt": change.attempt}
            logger.info(
                "job_state_changed", extra={**facts, "state": change.state.value, "reason": change.reason}
            )

    def _register_leader(self) -> None:
        """Register what the leader counts; the other ledgers show no sample, or NaN, of its gauges."""
        self.is_leader = self._gauge("ledger_is_leader", "1 in the ledger that leads.")
        self.parked_removed = self._counter(
            "parked_messages_removed", "Messages taken out of jobs.parked.", "by"
        )
        self.parked_republished = self._counter(
            "parked_messages_republished",
            "Messages of parked jobs that were missing in jobs.parked and published again.",
        )
        self.counts_corrected = self._counter(
            "batch_counts_corrected",
            "Batches whose counts did not match their jobs and were corrected.",
        )
        self.projects_full = self._gauge(
            "projects_full", "Projects that may store no more, by the limit; only the leader looks.", "limit"
        )
        self.jobs_deleted = self._counter("jobs_deleted", "Jobs deleted after their retention.")
        self.hosts_tracked = self._gauge("hosts_tracked", "Hosts that came near their limits lately.")
        self.hosts_holding = self._gauge("hosts_holding", "Hosts that have no room for all their jobs.")
        self.jobs_held = self._gauge("jobs_held", "Accepted jobs that wait until their host has room.")
        self.jobs_overdue = self._gauge(
            "jobs_overdue",
            "Jobs that ought to have been heard of, at most 10,000 of a state; only the leader counts.",
            "state",
        )
        self.queue_messages = self._gauge(
            "queue_messages",
            "Messages of our queues, as the management API counts them; only the leader asks.",
            "queue",
            "state",
        )
        self.dead_letters_stuck = self._gauge(
            "dead_letters_stuck",
            "Dead letters in queues that have had some for a minute.",
        )
        # Not 0: nobody has looked yet, and perhaps nobody ever will.
        self.dead_letters_stuck.set(math.nan)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"retriever_{name}", says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"retriever_{name}", says, labels, registry=self.registry)
