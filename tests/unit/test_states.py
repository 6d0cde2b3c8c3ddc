"""The one number that says which of two reports is further on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.states import JobState, position

OPEN_STATES = [state for state in JobState if not state.is_final]
FINAL_STATES = [state for state in JobState if state.is_final]
runs = st.integers(min_value=1, max_value=1_000_000)
attempts = st.integers(min_value=0, max_value=1_000_000)
states = st.sampled_from(JobState)


def test_a_job_moves_forward_through_its_states() -> None:
    way = [
        position(run=1, attempt=0, state=JobState.SCHEDULED),
        position(run=1, attempt=0, state=JobState.ACCEPTED),
        position(run=1, attempt=0, state=JobState.QUEUED),
        position(run=1, attempt=0, state=JobState.DELAYED),
        position(run=1, attempt=1, state=JobState.RUNNING),
        position(run=1, attempt=1, state=JobState.DELAYED),
        position(run=1, attempt=2, state=JobState.RUNNING),
        position(run=1, attempt=2, state=JobState.PARKED),
        position(run=2, attempt=0, state=JobState.ACCEPTED),
        position(run=2, attempt=1, state=JobState.SUCCEEDED),
    ]

    assert way == sorted(set(way))


@given(run=runs, earlier=attempts, later=attempts, state=st.sampled_from(OPEN_STATES))
def test_nothing_of_a_run_comes_after_its_end(run: int, earlier: int, later: int, state: JobState) -> None:
    for final in FINAL_STATES:
        end = position(run=run, attempt=earlier, state=final)
        assert position(run=run, attempt=later, state=state) < end


@given(
    run=runs,
    one=attempts,
    other=attempts,
    ends=st.tuples(st.sampled_from(FINAL_STATES), st.sampled_from(FINAL_STATES)),
)
def test_the_first_end_of_a_run_wins(run: int, one: int, other: int, ends: tuple[JobState, JobState]) -> None:
    assert position(run=run, attempt=one, state=ends[0]) == position(run=run, attempt=other, state=ends[1])


@given(run=runs, one=attempts, other=attempts, states=st.tuples(states, states))
def test_a_redrive_comes_after_everything_of_the_run_before(
    run: int, one: int, other: int, states: tuple[JobState, JobState]
) -> None:
    before = position(run=run, attempt=one, state=states[0])
    assert before < position(run=run + 1, attempt=other, state=states[1])


def test_every_position_fits_the_store() -> None:
    assert position(run=1_000_000, attempt=1_000_000, state=JobState.PARKED) < 2**63


@pytest.mark.parametrize(("run", "attempt"), [(0, 0), (1, -1), (1, 1 << 24)])
def test_an_impossible_position_is_refused(run: int, attempt: int) -> None:
    with pytest.raises(ValueError, match="is not a position"):
        position(run=run, attempt=attempt, state=JobState.QUEUED)
