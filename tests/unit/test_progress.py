"""How fast a batch goes and when it will have ended, over simulated batches of every pace."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.progress import Points, moved_points, progress_of
from producer.records import BatchRecord, ProgressPoint
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON

BATCH_ID = new_id()


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Simulation:
    """A batch that keeps its points as the store does, told of each end at its time."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ended = 0
        self.points = Points(None, ProgressPoint(NOON, 0))
        self.last_at: datetime | None = None

    def end(self, now: float, *, jobs: int, began: float | None) -> None:
        """Let some jobs end in one transaction; a negative number is redriven."""
        was_complete = self.ended == self.total
        self.ended += jobs
        self.points = moved_points(
            self.points,
            ended=self.ended,
            change=jobs,
            is_reopened=jobs < 0 and was_complete,
            began_at=None if began is None else at(began),
            last_at=self.last_at or NOON,
            now=at(now),
        )
        self.last_at = at(now)

    def estimate(self, now: float, *, latest_due: float | None = None) -> float | None:
        """Return when the batch will have ended, in seconds from its submission."""
        end_at = progress_of(self.record(latest_due=latest_due), now=at(now)).estimated_end_at
        return None if end_at is None else (end_at - NOON).total_seconds()

    def rate(self, now: float) -> float:
        """Return the jobs that end a second."""
        return progress_of(self.record(), now=at(now)).rate_per_second

    def record(self, *, latest_due: float | None = None) -> BatchRecord:
        """Return the batch as the store would."""
        return BatchRecord(
            id=BATCH_ID,
            kind="check",
            total=self.total,
            labels={},
            counts={JobState.SUCCEEDED: self.ended, JobState.QUEUED: self.total - self.ended},
            schedule_id=None,
            created_at=NOON,
            finished_at=None,
            previous_point=self.points.previous,
            current_point=self.points.current,
            last_ended_at=self.last_at,
            latest_due_at=None if latest_due is None else at(latest_due),
            project="default",
        )


def work(total: int, *, starts: float, workers: int, seconds: float) -> list[tuple[float, float]]:
    """Return (begun, ended) of jobs that so many workers do, each for so long."""
    rounds = [starts + index // workers * seconds for index in range(total)]
    return [(begun, begun + seconds) for begun in rounds]


def run(
    simulation: Simulation, jobs: Iterable[tuple[float, float]]
) -> Iterator[tuple[float, float | None, float | None]]:
    """Yield the time after each end, what is estimated then, and just before the end that follows."""
    by_end = [(end, list(each)) for end, each in groupby(jobs, key=lambda job: job[1])]
    for (now, ended), (following, _) in pairwise([*by_end, (by_end[-1][0] + 1, [])]):
        simulation.end(now, jobs=len(ended), began=min(begun for begun, _ in ended))
        yield now, simulation.estimate(now), simulation.estimate(following - 0.001)


durations = st.floats(0.01, 900)
many = st.integers(40, 600)


@settings(max_examples=150, deadline=None)
@given(total=many, workers=st.integers(1, 40), seconds=durations, wait=st.floats(0, 7200))
def test_at_a_steady_pace_the_estimate_is_right_from_its_first_value_and_stays(
    total: int, workers: int, seconds: float, wait: float
) -> None:
    simulation = Simulation(total)
    jobs = work(total, starts=wait, workers=workers, seconds=seconds)
    last_end = jobs[-1][1]

    told = [each for each in run(simulation, jobs) if each[1] is not None]

    # Never null once it was told, and never off by more than the jobs that run side by side.
    assert len(told) >= 0.8 * len({end for _, end in jobs}) - 1
    for now, just_after, just_before in told[:-1]:
        for estimate in (just_after, just_before):
            assert estimate is not None and estimate >= now
            assert abs(estimate - last_end) <= 1.1 * seconds + 1.5
    for (_, first, _), (_, second, _) in pairwise(told[:-1]):
        assert first is not None and second is not None
        assert abs(second - first) <= 1.1 * seconds + 1.5


@settings(max_examples=150, deadline=None)
@given(workers=st.sampled_from([1, 2, 4, 5, 8, 10]), seconds=durations, factor=st.floats(0.1, 10))
def test_after_a_change_of_pace_the_estimate_moves_to_the_new_end_and_does_not_jump_back(
    workers: int, seconds: float, factor: float
) -> None:
    total, half = 400, 200
    simulation = Simulation(total)
    before = work(half, starts=0, workers=workers, seconds=seconds)
    after = work(half, starts=before[-1][1], workers=workers, seconds=seconds * factor)
    last_end, slower = after[-1][1], max(seconds, seconds * factor)

    told = list(run(simulation, [*before, *after]))

    turned = before[-1][1]
    estimates = [(now, estimate) for now, estimate, _ in told[:-1] if now >= turned and estimate is not None]
    # Between what it was, and what it will be; each estimate is nearer, but for the jobs side by side.
    old_end = turned + half * seconds / workers
    low, high = sorted((old_end, last_end))
    assert all(low - 1.1 * slower - 2 <= each <= high + 1.1 * slower + 2 for _, each in estimates)
    errors = [abs(each - last_end) for _, each in estimates]
    assert all(later <= earlier + 1.1 * slower + 2 for earlier, later in pairwise(errors))
    # A quarter of what had ended suffices to forget the old pace, if half a minute has passed twice.
    settled = [
        error
        for (now, _), error in zip(estimates, errors, strict=True)
        if now > turned + 61 and now > turned + (2 * 20 + 400 / 4) * seconds * factor / workers
    ]
    assert all(error <= 1.1 * slower + 2 for error in settled)


@settings(max_examples=100, deadline=None)
@given(seconds=st.floats(0.05, 300), pause=st.floats(600, 200_000))
def test_a_pause_moves_the_estimate_on_and_is_not_averaged_into_the_pace(
    seconds: float, pause: float
) -> None:
    simulation = Simulation(200)
    before = work(100, starts=0, workers=1, seconds=seconds)
    stopped = before[-1][1]
    pause = max(pause, 3 * stopped)
    after = work(100, starts=stopped + pause, workers=1, seconds=seconds)
    list(run(simulation, before))

    during = [simulation.estimate(stopped + pause * share) for share in (0.1, 0.3, 0.6, 0.999)]

    for share, estimate in zip((0.1, 0.3, 0.6, 0.999), during, strict=True):
        assert estimate is not None and estimate >= stopped + pause * share
    assert simulation.rate(stopped + pause * 0.999) == 0
    resumed = [estimate for _, estimate, _ in run(simulation, after)]
    for estimate in resumed[:-1]:
        assert estimate is not None and abs(estimate - after[-1][1]) <= 1.1 * seconds + 1.5


def test_jobs_that_wait_for_another_attempt_hold_the_estimate() -> None:
    # It said when the others would have ended, then null while only those that wait were left.
    simulation = Simulation(1_000)
    list(run(simulation, work(990, starts=0, workers=10, seconds=1)))
    told = [simulation.estimate(now, latest_due=400) for now in (99.5, 130, 200, 399)]

    assert told == [400.0] * 4


def test_jobs_that_are_redriven_do_not_slow_the_others_down() -> None:
    simulation = Simulation(100)
    list(run(simulation, work(80, starts=0, workers=1, seconds=2)))
    before = simulation.estimate(160)

    simulation.end(160.5, jobs=-10, began=None)

    after = simulation.estimate(160.5)
    assert before == pytest.approx(200) and after == pytest.approx(220, abs=2)


def test_a_batch_that_is_redriven_after_its_end_is_measured_anew() -> None:
    simulation = Simulation(100)
    list(run(simulation, work(100, starts=0, workers=1, seconds=1)))

    simulation.end(50_000, jobs=-20, began=None)
    assert (simulation.estimate(50_001), simulation.rate(50_001)) == (None, 0)
    list(run(simulation, work(5, starts=50_100, workers=1, seconds=10)))

    assert simulation.estimate(50_150) == pytest.approx(50_300, abs=2)


def test_ends_without_an_attempt_count_from_the_submission() -> None:
    simulation = Simulation(100)

    simulation.end(50, jobs=50, began=None)

    assert simulation.estimate(50) == pytest.approx(100)


def make_batch(*, points: Sequence[ProgressPoint], finished: float | None = None) -> BatchRecord:
    simulation = Simulation(100)
    simulation.ended, simulation.points = 20, Points(None, points[0])
    record = simulation.record()
    return BatchRecord(
        **{
            **{name: getattr(record, name) for name in record.__dataclass_fields__},
            "finished_at": None if finished is None else at(finished),
        },
    )


def test_a_finished_batch_says_its_overall_rate_and_no_end() -> None:
    progress = progress_of(make_batch(points=[ProgressPoint(at(9), 0)], finished=50), now=at(1_000))

    assert (progress.rate_per_second, progress.estimated_end_at) == (2.0, None)


def test_a_batch_whose_points_version_0_1_0_kept_has_an_estimate() -> None:
    progress = progress_of(make_batch(points=[ProgressPoint(at(40), 10)]), now=at(50))

    assert progress.rate_per_second == 1.0 and progress.estimated_end_at is not None


def test_a_clock_that_is_ahead_of_ours_makes_no_rate_without_end() -> None:
    progress = progress_of(make_batch(points=[ProgressPoint(at(70), 10)]), now=at(60))

    assert progress.rate_per_second == 10.0 and progress.estimated_end_at is not None


def test_an_end_beyond_a_century_is_none() -> None:
    simulation = Simulation(10**15)
    simulation.end(60, jobs=10, began=0)

    assert simulation.rate(60) > 0 and simulation.estimate(60) is None
