"""What the API counts of tasks, by queue, for Prometheus."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from producer.records import AttemptRecord
from producer.tasks import QueueLength
from shared.bounded_names import BoundedNames

# Up to a day, which is the longest lease.
_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 86_400)
_LENGTHS = ("ready", "delayed", "running")


class TaskMetrics:
    """Counters of one API process. The lengths of the queues are those of the store, the same in each."""

    def __init__(self, registry: CollectorRegistry, count_waiters: Callable[[], int]) -> None:
        """Register the metrics."""
        self._names = BoundedNames()
        self._lengths = _QueueLengths(self._names)
        registry.register(self._lengths)
        self._picks = Counter(
            "retriever_task_picks", "Tasks that agents picked here.", ("queue",), registry=registry
        )
        self._seconds = Histogram(
            "retriever_task_seconds",
            "Time from a pick to the end that the agent reported here.",
            ("queue", "outcome"),
            buckets=_BUCKETS,
            registry=registry,
        )
        waiters = Gauge("retriever_task_waiters", "Agents that wait here for a task.", registry=registry)
        waiters.set_function(count_waiters)

    def show_lengths(self, lengths: Sequence[QueueLength] | None) -> None:
        """Show how long the queues are; None when nobody knows."""
        self._lengths.known = lengths

    def count_picks(self, queue: str, tasks: int) -> None:
        """Count tasks that were picked."""
        self._picks.labels(self._names.label(queue)).inc(tasks)

    def observe_end(self, queue: str, attempt: AttemptRecord) -> None:
        """Count an attempt that its agent ended."""
        if attempt.ended_at is not None and attempt.outcome is not None:
            seconds = (attempt.ended_at - attempt.started_at).total_seconds()
            self._seconds.labels(self._names.label(queue), attempt.outcome.value).observe(seconds)


class _QueueLengths(Collector):
    """`retriever_task_queue_length{queue,state}`; without lengths it has no values."""

    def __init__(self, names: BoundedNames) -> None:
        self.known: Sequence[QueueLength] | None = None
        self._names = names

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "retriever_task_queue_length",
            "Unfinished tasks: ready to be picked, delayed until their next attempt, running with an agent.",
            labels=("queue", "state"),
        )
        for (queue, state), tasks in self._sums(self.known or ()).items():
            family.add_metric([queue, state], tasks)
        yield family

    def _sums(self, lengths: Iterable[QueueLength]) -> dict[tuple[str, str], int]:
        sums: dict[tuple[str, str], int] = {}
        for each in lengths:
            queue = self._names.label(each.queue)
            for state in _LENGTHS:
                sums[queue, state] = sums.get((queue, state), 0) + getattr(each, state)
        return sums
