"""Backoff, Retry-After and the ladder of delay queues."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.retry import (
    DAY_SECONDS,
    DELAY_STEPS_SECONDS,
    RetryPolicy,
    can_retry,
    deferral_step_seconds,
    delay_step_seconds,
    wait_seconds,
)


def wait(attempt: int, *, asked: float | None = None, random: float = 0.0, **policy: Any) -> float:
    return wait_seconds(RetryPolicy(**policy), attempt, retry_after_seconds=asked, random=lambda: random)


def test_waits_double_up_to_the_cap() -> None:
    waits = [wait(n, first_delay_seconds=5, max_delay_seconds=60, jitter=False) for n in range(1, 7)]

    assert waits == [5, 10, 20, 40, 60, 60]


def test_half_of_a_wait_is_fixed_and_half_is_random() -> None:
    assert wait(1, first_delay_seconds=10, random=0.0) == 5
    assert wait(1, first_delay_seconds=10, random=0.5) == 7.5


def test_a_target_that_asks_for_longer_is_obeyed() -> None:
    assert wait(1, first_delay_seconds=5, asked=90, random=0.9) == 90


def test_a_target_that_asks_for_less_changes_nothing() -> None:
    assert wait(1, first_delay_seconds=5, asked=1, jitter=False) == 5


def test_a_target_that_asks_for_longer_than_the_policy_allows_is_capped() -> None:
    assert wait(1, max_delay_seconds=60, asked=86_400) == 60


@given(
    attempt=st.integers(1, 1_000),
    factor=st.floats(1, 10),
    first=st.floats(0.001, DAY_SECONDS),
    cap=st.floats(0.001, DAY_SECONDS),
    random=st.floats(0, 1, exclude_max=True),
)
def test_every_wait_is_positive_and_within_the_cap(
    attempt: int, factor: float, first: float, cap: float, random: float
) -> None:
    seconds = wait(attempt, factor=factor, first_delay_seconds=first, max_delay_seconds=cap, random=random)

    assert 0 < seconds <= cap


@pytest.mark.parametrize(("attempt", "expected"), [(1, True), (4, True), (5, False), (6, False)])
def test_the_last_attempt_is_not_retried(attempt: int, expected: bool) -> None:
    assert can_retry(RetryPolicy(max_attempts=5), attempt) is expected


@given(seconds=st.floats(0.001, DAY_SECONDS))
def test_a_step_is_the_shortest_that_is_never_early(seconds: float) -> None:
    step = delay_step_seconds(seconds)

    assert step >= seconds
    assert all(shorter < seconds for shorter in DELAY_STEPS_SECONDS if shorter < step)


def test_steps_grow_and_round_a_wait_up_by_half_at_most_from_four_seconds_on() -> None:
    assert list(DELAY_STEPS_SECONDS) == sorted(set(DELAY_STEPS_SECONDS))
    longer = [step for step in DELAY_STEPS_SECONDS if 4 <= step <= 10_800]
    assert all(after / before <= 1.5 for before, after in pairwise(longer))


@given(wait=st.floats(min_value=0, max_value=2 * DAY_SECONDS))
def test_a_deferral_is_back_before_its_turn_and_by_a_third_at_most(wait: float) -> None:
    step = deferral_step_seconds(wait)

    assert step in DELAY_STEPS_SECONDS
    assert step <= max(wait, 1)
    if 4 <= wait <= DAY_SECONDS:
        assert wait - step <= wait / 2
