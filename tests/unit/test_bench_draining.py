"""Tests of `bench.draining`."""

import pytest

from bench.draining import Look, pace_between


def test_the_pace_is_that_between_the_first_and_the_last_look_that_found_jobs() -> None:
    looks = [
        Look(at_seconds=10.0, waiting=900, worker_cpu_seconds=2.0, broker_cpu_seconds=5.0),
        Look(at_seconds=11.0, waiting=500, worker_cpu_seconds=2.6, broker_cpu_seconds=5.1),
        Look(at_seconds=12.0, waiting=100, worker_cpu_seconds=3.2, broker_cpu_seconds=5.2),
        Look(at_seconds=19.0, waiting=0, worker_cpu_seconds=9.9, broker_cpu_seconds=9.9),
    ]

    pace = pace_between(looks)

    assert (pace.jobs, pace.seconds, pace.jobs_per_second) == (800, 2.0, 400.0)
    assert pace.worker_cpu_seconds_per_1000 == 1.5
    assert pace.broker_cpu_seconds_per_1000 == 0.25


@pytest.mark.parametrize("waiting", [(0,), (50, 0), (50, 50, 0)])
def test_a_queue_that_was_empty_too_soon_has_no_pace(waiting: tuple[int, ...]) -> None:
    looks = [Look(float(at), count, 0.0, 0.0) for at, count in enumerate(waiting)]

    with pytest.raises(ValueError, match="too soon"):
        pace_between(looks)
