"""What an agent counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from consumer.agent.held_task import Unreported


class AgentMetrics:
    """Counters of one agent process, in a registry of their own."""

    def __init__(self) -> None:
        """Register the metrics."""
        self.registry = CollectorRegistry()
        self.picked = Counter("retriever_agent_picked", "Tasks picked.", ["queue"], registry=self.registry)
        self._ended = Counter(
            "retriever_agent_finished",
            "Tasks whose end the API has from this agent.",
            ["queue", "outcome"],
            registry=self.registry,
        )
        self._lost = Counter(
            "retriever_agent_leases_lost",
            "Tasks whose lease ran out, or which ended otherwise, before this agent could say how.",
            ["queue"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "retriever_agent_task_seconds",
            "From a task's pick to the end that the API has.",
            ["queue", "outcome"],
            registry=self.registry,
        )
        self.in_hand = Gauge(
            "retriever_agent_tasks_in_hand", "Tasks in hand.", ["queue"], registry=self.registry
        )

    def count_end(self, queue: str, end: str, seconds: float) -> None:
        """Count a task that is no longer in hand: the name of its outcome, or why the API has none."""
        if end == Unreported.LEASE_LOST:
            self._lost.labels(queue).inc()
            return
        self._ended.labels(queue, end).inc()
        self._seconds.labels(queue, end).observe(seconds)
