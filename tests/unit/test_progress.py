"""How fast a batch goes, from two points, its counts and the time."""

from datetime import datetime, timedelta

import pytest

from producer.progress import progress_of
from producer.records import BatchRecord, ProgressPoint
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def batch(
    *, ended: int, points: list[ProgressPoint], total: int = 100, finished_at: datetime | None = None
) -> BatchRecord:
    previous, current = points if len(points) == 2 else (None, points[0] if points else None)
    return BatchRecord(
        id=new_id(),
        kind="check",
        total=total,
        labels={},
        counts={JobState.SUCCEEDED: ended, JobState.QUEUED: total - ended},
        schedule_id=None,
        created_at=NOON,
        finished_at=finished_at,
        previous_point=previous,
        current_point=current,
    )


@pytest.mark.parametrize(
    ("points", "rate"),
    [
        ([ProgressPoint(at(50), 0)], 2.0),
        ([ProgressPoint(at(20), 10), ProgressPoint(at(50), 18)], 0.25),
        # The older one is too old: what happened then says nothing of now.
        ([ProgressPoint(at(-10), 0), ProgressPoint(at(40), 15)], 0.25),
        # Nothing has changed for a minute.
        ([ProgressPoint(at(-100), 0), ProgressPoint(at(-61), 10)], 0.0),
        # A redrive took ends back.
        ([ProgressPoint(at(20), 30)], 0.0),
        # A clock that is ahead of ours.
        ([ProgressPoint(at(70), 10)], 10.0),
        ([], 0.0),
    ],
)
def test_the_rate_is_that_of_the_last_minute(points: list[ProgressPoint], rate: float) -> None:
    progress = progress_of(batch(ended=20, points=points), now=at(60))

    assert progress.rate_per_second == rate
    assert progress.estimated_end_at == (at(60 + 80 / rate) if rate else None)


def test_a_finished_batch_says_its_overall_rate_and_no_end() -> None:
    progress = progress_of(
        batch(ended=100, points=[ProgressPoint(at(9), 90)], finished_at=at(50)), now=at(1_000)
    )

    assert (progress.rate_per_second, progress.estimated_end_at) == (2.0, None)


def test_an_end_beyond_a_century_is_none() -> None:
    progress = progress_of(batch(ended=1, points=[ProgressPoint(NOON, 0)], total=10**15), now=at(60))

    assert progress.rate_per_second > 0 and progress.estimated_end_at is None
