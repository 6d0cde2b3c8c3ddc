"""Unit tests of the counters of the fault suite: each tells when its promise is broken."""

from dataclasses import replace

import pytest

from tests.faults.oracle import Counts, Evidence, count

GOOD = Evidence(job_id="a", state="succeeded", attempts=((1, 1), (1, 2)), effects=2, ends=1)


def test_a_job_that_was_done_and_told_once_breaks_no_promise() -> None:
    counts = count([GOOD])

    assert counts == Counts(acknowledged=1, finished=1) and counts.is_kept


@pytest.mark.parametrize(
    ("seen", "broken"),
    [
        (replace(GOOD, state=None), "lost"),
        (replace(GOOD, effects=1), "lost"),
        (replace(GOOD, state="queued"), "stuck"),
        (replace(GOOD, attempts=((1, 1), (1, 1))), "recorded_twice"),
        (replace(GOOD, ends=2), "recorded_twice"),
        (replace(GOOD, state="parked"), "unexpected"),
        (replace(GOOD, ends=0), "unexpected"),
    ],
)
def test_each_broken_promise_is_counted(seen: Evidence, broken: str) -> None:
    counts = count([GOOD, seen])

    assert getattr(counts, broken) == 1 and not counts.is_kept


def test_effects_above_the_attempts_are_duplicates_and_no_broken_promise() -> None:
    counts = count([replace(GOOD, effects=5)])

    assert counts.duplicated_effects == 3 and counts.is_kept


def test_what_else_went_wrong_breaks_the_promise() -> None:
    assert not count([GOOD], unexpected=1).is_kept
