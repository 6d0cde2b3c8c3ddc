"""What the queue watch makes of its looks: the depths of lanes, and the queues that are quiet."""

from producer.ledger.queue_watch import QuietQueues, lanes_seen
from shared.broker.topology import QueueDepth


def looked(*looks: tuple[float, int]) -> QuietQueues:
    """Return what is known after looks at a queue, each as (seconds, messages)."""
    quiet = QuietQueues(20)
    for now, messages in looks:
        quiet.note({"jobs": messages}, now=now)
    return quiet


def test_a_queue_is_quiet_when_it_was_empty_long_enough() -> None:
    assert not looked((0, 0)).are_quiet(["jobs"])
    assert not looked((0, 0), (10, 0)).are_quiet(["jobs"])
    assert looked((0, 0), (10, 0), (20, 0)).are_quiet(["jobs"])


def test_one_message_seen_between_begins_the_time_anew() -> None:
    assert not looked((0, 0), (10, 1), (20, 0)).are_quiet(["jobs"])
    assert looked((0, 0), (10, 1), (20, 0), (40, 0)).are_quiet(["jobs"])


def test_nothing_is_known_of_the_time_when_nobody_looked() -> None:
    assert not looked((0, 0), (31, 0)).are_quiet(["jobs"])
    assert looked((0, 0), (31, 0), (51, 0)).are_quiet(["jobs"])


def test_what_was_forgotten_is_not_known() -> None:
    quiet = looked((0, 0), (20, 0))
    quiet.forget()

    assert not quiet.are_quiet(["jobs"])
    assert not quiet.are_quiet(["other"])


def test_both_queues_of_a_lane_are_seen_as_one_with_the_workers_that_take_from_both() -> None:
    depths = [QueueDepth("jobs.check.bulk", 3, 4), QueueDepth("jobs.check.bundles", 20, 2)]

    (seen,) = lanes_seen(depths)

    assert (seen.name, seen.kind, seen.lane) == ("jobs.check.bulk", "check", "bulk")
    assert (seen.ready, seen.consumers) == (23, 2)


def test_a_lane_of_which_a_queue_is_missing_is_not_seen() -> None:
    depths = [QueueDepth("jobs.check.bundles", 1, 1), QueueDepth("jobs.webhook.bulk", 2, 1)]

    assert [seen.name for seen in lanes_seen(depths)] == ["jobs.webhook.bulk"]
