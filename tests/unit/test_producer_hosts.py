"""How hard a host is asked over the whole fleet: releases, retries, complaints, pauses and the breaker."""

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.hosts import (
    FIRST_REST_SECONDS,
    FLOOR,
    HORIZON_SECONDS,
    JITTER_SECONDS,
    NEAR_SECONDS,
    RESTS_BEFORE_ASKING_ANYWAY,
    Answer,
    HostChange,
    HostLimits,
    HostState,
    RecentHosts,
    changed,
    ready_at,
    release,
)
from shared.hosts import HostLimit, NamedLimit
from tests.support.factories import NOON

LIMIT = HostLimit(8, 20)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def heard(state: HostState, *answers: Answer, at: float, failures_to_open: int = 0) -> HostState:
    return changed(state, HostChange(answers=answers), failures_to_open=failures_to_open, now=later(at))


@given(steps=st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 9), st.integers(0, 4)), max_size=60))
def test_what_is_released_keeps_concurrency_and_rate_over_every_stretch_of_time(
    steps: list[tuple[float, int, int]],
) -> None:
    state, now, starts = HostState("a.example"), 0.0, list[float]()
    for wait, jobs, ended in steps:
        now += wait
        state = changed(
            state, HostChange(ended=min(ended, state.in_flight)), failures_to_open=0, now=later(now)
        )
        state, waits = release(state, LIMIT, jobs, now=later(now))
        starts += [now + each for each in waits]
        assert state.in_flight <= LIMIT.concurrency

    assert starts == sorted(starts)
    for count, start in enumerate(starts):
        assert start - starts[0] >= count / LIMIT.rate_per_second - 1e-4


def test_jobs_are_released_no_further_ahead_than_the_horizon() -> None:
    state, waits = release(HostState("a.example"), LIMIT, 100, now=NOON)

    interval = 0.05 * (1 + JITTER_SECONDS)
    assert waits == pytest.approx([number * interval for number in range(4)])
    assert ready_at(state, LIMIT, NOON) == later(4 * interval - HORIZON_SECONDS / 2)


def test_a_host_that_is_full_is_ready_when_a_report_makes_room() -> None:
    limit = HostLimit(2)
    state, waits = release(HostState("a.example", waiting=5), limit, 5, now=NOON)

    assert (len(waits), ready_at(state, limit, NOON)) == (2, None)
    state = changed(state, HostChange(ended=1), failures_to_open=0, now=later(1))
    assert ready_at(state, limit, later(1)) == later(1)


def test_a_retry_takes_a_place_when_its_time_is_near_and_the_part_of_the_rate_that_is_nearest_to_it() -> None:
    limit, due = HostLimit(2, 10), later(20).timestamp()
    state, _ = release(HostState("a.example"), limit, 2, now=NOON)
    state = changed(state, HostChange(ended=1, retries=[due]), failures_to_open=0, now=later(1))

    _, waits_far = release(state, limit, 9, now=later(2))
    near, waits_near = release(state, limit, 9, now=later(20 - NEAR_SECONDS))

    assert (len(waits_far), len(waits_near), near.taken(later(20 - NEAR_SECONDS))) == (1, 0, 2)
    # Before it is back it has neither place nor part, and when it ends it gives back the place that it has.
    gone = changed(near, HostChange(not_retries=[due]), failures_to_open=0, now=later(19.6))
    ended = changed(near, HostChange(not_retries=[due]), failures_to_open=0, now=later(20.1))
    assert (gone.in_flight, ended.in_flight, gone.retries, ended.retries) == (1, 1, [], [])


@pytest.mark.parametrize(
    ("rate", "late_seconds", "retries_a_look"),
    # A retry comes up to half an interval from the time that is left for it, which is lateness, too.
    [(20, JITTER_SECONDS, 0.0), (3, JITTER_SECONDS, 0.0), (20, 0.01, 0.1), (100, 0.05, 0.3)],
)
def test_no_second_has_more_than_the_limit_although_jobs_are_late_and_retries_come_back(
    rate: int, late_seconds: float, retries_a_look: float
) -> None:
    limit, chance = HostLimit(1_000, rate), Random(19)
    state, now, asked, seconds = HostState("a.example"), 0.0, list[float](), 60
    while now < seconds:
        state, waits = release(state, limit, 100, now=later(now))
        asked += [now + each + chance.uniform(0.0, late_seconds) for each in waits]
        if chance.random() < retries_a_look:
            asked.append(now + chance.choice([1.0, 2.0]))
            retry = HostChange(retries=[later(asked[-1]).timestamp()])
            state = changed(state, retry, failures_to_open=0, now=later(now))
        state = replace(state, in_flight=0)
        now += 0.1

    asked = sorted(each for each in asked if each < seconds)
    assert max(sum(start <= each < start + 1 for each in asked) for start in asked) <= rate
    assert len(asked) >= 0.9 * seconds * rate


def test_a_job_that_is_cancelled_while_it_is_delayed_leaves_no_place_taken() -> None:
    due = later(20).timestamp()
    state = HostState("a.example", retries=[due, due])

    state = changed(state, HostChange(not_retries=[due]), failures_to_open=0, now=NOON)

    assert state.retries == [due]


def test_pages_that_answer_503_among_others_that_answer_200_slow_nothing_down() -> None:
    state = HostState("a.example")
    for second in range(60):
        answers = [Answer.GOOD] * 18 + [Answer.BUSY] * 2
        state = heard(state, *answers, at=second)

    assert state.pace(later(60)) == 1.0


def test_the_rate_at_which_a_host_is_asked_is_told_by_its_answers() -> None:
    state = HostState("a.example")
    for number in range(600):
        state = heard(state, Answer.GOOD, at=number / 15)

    assert state.used_per_second(later(40)) == pytest.approx(15, rel=0.1)
    assert state.used_per_second(later(50)) == pytest.approx(15 / 4, rel=0.1)
    assert HostState("a.example").used_per_second(NOON) == 0.0


def test_a_host_of_which_most_answers_complain_falls_to_the_floor_and_is_back_within_ten_seconds() -> None:
    state = HostState("a.example")
    for second in range(20):
        state = heard(state, *[Answer.BUSY] * 8, Answer.GOOD, at=second)
    assert state.pace(later(19)) == pytest.approx(FLOOR)

    # One answer a second is enough.
    for second in range(20, 30):
        state = heard(state, Answer.GOOD, at=second)

    assert state.pace(later(30)) == 1.0
    assert state.allowed(LIMIT, later(30)) == LIMIT


def test_a_host_that_complains_of_a_third_is_asked_at_a_quarter_at_the_least() -> None:
    state = HostState("a.example")
    for second in range(30):
        state = heard(state, *[Answer.GOOD] * 6, *[Answer.BUSY] * 3, at=second)

    assert state.pace(later(29)) >= 1 / 4


def test_a_429_halves_the_pace_once_for_all_that_were_under_way_together() -> None:
    state = heard(HostState("a.example"), *[Answer.TOO_MANY] * 8, at=0)

    assert state.pace(NOON) == 0.5


def test_a_pause_releases_nothing_and_ends_to_the_second_at_full_pace() -> None:
    change = HostChange(pause_until=later(30))
    state = changed(HostState("a.example", waiting=9), change, failures_to_open=0, now=NOON)

    assert release(state, LIMIT, 9, now=later(29.9))[1] == []
    assert ready_at(state, LIMIT, NOON) == later(30)
    assert len(release(state, LIMIT, 9, now=later(30))[1]) > 1


def test_a_pause_is_capped() -> None:
    change = HostChange(pause_until=later(86_400))

    state = changed(HostState("a.example"), change, failures_to_open=0, now=NOON)

    assert state.paused_until == later(300)


def test_a_host_that_fails_again_and_again_is_left_alone_then_asked_by_one() -> None:
    state = heard(HostState("a.example"), *[Answer.SILENT] * 10, at=0, failures_to_open=10)

    assert release(state, LIMIT, 9, now=later(FIRST_REST_SECONDS - 1))[1] == []
    state, probes = release(state, LIMIT, 9, now=later(FIRST_REST_SECONDS))
    assert len(probes) == 1
    assert release(state, LIMIT, 9, now=later(FIRST_REST_SECONDS + 1))[1] == []
    state = changed(
        state,
        HostChange(ended=1, answers=[Answer.GOOD]),
        failures_to_open=10,
        now=later(FIRST_REST_SECONDS + 2),
    )
    assert len(release(state, LIMIT, 9, now=later(FIRST_REST_SECONDS + 2))[1]) > 1


def test_those_that_were_under_way_when_the_breaker_opened_make_no_rest_longer() -> None:
    state = heard(HostState("a.example"), *[Answer.SILENT] * 10, at=0, failures_to_open=10)

    again = heard(state, *[Answer.SILENT] * 5, at=1, failures_to_open=10)

    assert again.rests_until == state.rests_until


def test_a_dead_host_holds_up_no_batch_for_ever() -> None:
    state, now = heard(HostState("a.example"), *[Answer.SILENT] * 10, at=0, failures_to_open=10), 0.0
    for _ in range(RESTS_BEFORE_ASKING_ANYWAY):
        assert state.is_open() and state.rests_until is not None
        now = (state.rests_until - NOON).total_seconds()
        state = heard(state, Answer.SILENT, at=now, failures_to_open=10)

    assert not state.is_open()
    assert len(release(state, LIMIT, 9, now=later(now))[1]) > 1


def test_a_limit_of_run_time_goes_before_those_of_the_settings() -> None:
    limits = HostLimits(LIMIT, [NamedLimit("*.example", HostLimit(2, 1)), NamedLimit("b.example:81", LIMIT)])

    assert limits.of("a.example") == HostLimit(2, 1)
    assert limits.of("a.example", HostState("a.example", limit=HostLimit(50, 0))) == HostLimit(50, 0)
    assert limits.of("a.test") == LIMIT
    assert [limits.may_name(host) for host in ("a.example", "b.example", "a.test")] == [True, True, False]


def test_a_host_is_suspected_when_it_was_asked_within_the_last_minute() -> None:
    recent = RecentHosts()

    assert recent.note(["a.example", "b.example"], NOON) == set()
    assert recent.note(["a.example"], later(59)) == {"a.example"}
    assert recent.note(["b.example"], later(61)) == set()


def test_a_host_is_forgotten_only_when_nothing_of_it_matters_any_more() -> None:
    state = HostState("a.example")

    assert state.is_forgettable(NOON)
    for other in (
        replace(state, in_flight=1),
        replace(state, waiting=1),
        replace(state, retries=[later(9).timestamp()]),
        replace(state, paused_until=later(1)),
        replace(state, share=0.5, cut_at=NOON),
        replace(state, limit=LIMIT),
    ):
        assert not other.is_forgettable(NOON)
