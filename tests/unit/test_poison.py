"""Unit tests of setting jobs apart with which workers have died."""

import pytest

from consumer.poison import quarantine
from shared.broker.topology import WORK_DELIVERY_LIMIT
from shared.identity import new_id
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred, Failed


def make_message(*, returns: int = 0) -> JobMessage:
    return JobMessage(id=new_id(), kind="check", args={"url": "https://example.com/"}, returns=returns)


@pytest.mark.parametrize("returns", [0, 1, 2])
def test_a_job_that_came_back_once_or_twice_is_tried_at_once(returns: int) -> None:
    assert quarantine(make_message(), returns=returns, random=lambda: 0.5) is None


def test_a_job_that_came_back_three_times_is_set_apart_without_costing_an_attempt() -> None:
    judged = quarantine(make_message(), returns=3, random=lambda: 0.5)

    assert isinstance(judged, Deferred)
    assert (judged.reason, judged.seconds) == (DeferralReason.RETURNED, 1.5)


def test_a_copy_that_was_set_apart_has_its_chance_again() -> None:
    assert quarantine(make_message(returns=6), returns=0, random=lambda: 0.0) is None


def test_the_wait_grows_with_all_returns_up_to_a_bound() -> None:
    waits = [
        judged.seconds
        for returns in (0, 6, 12)
        if isinstance(
            judged := quarantine(make_message(returns=returns), returns=3, random=lambda: 0.0), Deferred
        )
    ]

    assert waits == [1.0, 3.0, 5.0]


def test_suspects_do_not_come_out_together() -> None:
    draws = [quarantine(make_message(), returns=3, random=lambda draw=draw: draw) for draw in (0.0, 0.9)]  # type: ignore[misc]

    assert [judged.seconds for judged in draws if isinstance(judged, Deferred)] == [1.0, 1.9]


@pytest.mark.parametrize(("before", "returns"), [(0, WORK_DELIVERY_LIMIT + 1), (19, 2), (18, 3)])
def test_after_the_delivery_limit_over_all_copies_it_is_given_up(before: int, returns: int) -> None:
    judged = quarantine(make_message(returns=before), returns=returns, random=lambda: 0.5)

    assert isinstance(judged, Failed)
    assert (judged.reason, judged.transient) == ("worker_crashed", False)


def test_the_last_return_that_is_allowed_is_not_the_end() -> None:
    assert quarantine(make_message(returns=18), returns=2, random=lambda: 0.5) is None
