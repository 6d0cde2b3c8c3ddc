"""What the observer makes of the depths of single queues."""

from producer.ledger.observer import _seen
from shared.broker.queue_depths import QueueDepth


def test_both_queues_of_a_lane_are_seen_as_one_with_the_workers_that_take_from_both() -> None:
    depths = [QueueDepth("jobs.check.bulk", 3, 4), QueueDepth("jobs.check.bundles", 20, 2)]

    (seen,) = _seen(depths)

    assert (seen.name, seen.kind, seen.lane) == ("jobs.check.bulk", "check", "bulk")
    assert (seen.ready, seen.consumers) == (23, 2)


def test_a_lane_of_which_a_queue_is_missing_is_not_seen() -> None:
    depths = [QueueDepth("jobs.check.bundles", 1, 1), QueueDepth("jobs.webhook.bulk", 2, 1)]

    assert [seen.name for seen in _seen(depths)] == ["jobs.webhook.bulk"]
