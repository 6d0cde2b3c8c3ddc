"""What the API shows of task queues: by name for a bounded number of names."""

from datetime import timedelta

from prometheus_client import CollectorRegistry, generate_latest

from producer.api.task_metrics import TaskMetrics
from producer.records import AttemptRecord
from producer.tasks import QueueLength
from shared.bounded_names import MAX_NAMES
from shared.outcomes import OutcomeName
from tests.support.factories import NOON


def shown(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_queues_are_shown_by_name_and_those_beyond_a_hundred_together() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics(registry, lambda: 3)

    metrics.show_lengths(
        [QueueLength(f"q{number}", ready=number, running=1) for number in range(MAX_NAMES + 2)]
    )
    lines = shown(registry)

    assert 'retriever_task_queue_length{queue="q7",state="ready"} 7.0' in lines
    assert 'retriever_task_queue_length{queue="q7",state="delayed"} 0.0' in lines
    assert (
        f'retriever_task_queue_length{{queue="other",state="ready"}} {MAX_NAMES + MAX_NAMES + 1}.0' in lines
    )
    assert 'retriever_task_queue_length{queue="other",state="running"} 2.0' in lines
    assert "retriever_task_waiters 3.0" in lines


def test_lengths_that_nobody_knows_are_not_shown() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics(registry, lambda: 0)
    metrics.show_lengths([QueueLength("films", ready=1)])

    metrics.show_lengths(None)

    assert not any(line.startswith("retriever_task_queue_length") for line in shown(registry))


def test_an_end_counts_from_its_pick() -> None:
    registry = CollectorRegistry()
    metrics = TaskMetrics(registry, lambda: 0)
    attempt = AttemptRecord(1, 1, NOON, NOON + timedelta(seconds=90), OutcomeName.FAILED_TRANSIENT, "x", 5.0)

    metrics.observe_end("films", attempt)

    named = '{outcome="failed_transient",queue="films"}'
    assert f"retriever_task_seconds_sum{named} 90.0" in shown(registry)
