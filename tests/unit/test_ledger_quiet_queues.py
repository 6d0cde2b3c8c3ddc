"""When a queue counts as empty: two looks far enough apart, and none between that saw anything."""

from producer.ledger.quiet_queues import QuietQueues


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
