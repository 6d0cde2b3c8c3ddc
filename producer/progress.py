"""How fast a batch goes and when it will have ended. Pure: records and times.

A batch's row keeps two points, each a time and how many jobs had ended by then. The pace is measured from the
older one to the last end, so it changes only when a job ends. A window of so many jobs, not of so many
seconds, suits a job a second and a job an hour alike.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from producer.records import BatchRecord, ProgressPoint
from shared.states import JobState

# A point is moved when it is so old ...
POINT_EVERY: Final = timedelta(seconds=30)
# ... and so many jobs have ended since, or this share of all that have ended: the further, the steadier.
POINT_JOBS: Final = 20
POINT_SHARE: Final = 8
# When none ends for so long, and for as long as the pace was measured over, the batch stands still.
PAUSE: Final = timedelta(seconds=60)

# The first moments make no rate.
_SHORTEST = timedelta(seconds=1)
# Nothing ends in no time.
_INSTANT = timedelta(milliseconds=10)
# Jobs that run side by side end side by side: the first alone would say that the rest takes much longer.
_FIRST_JOBS = 10
# Beyond this an estimate says nothing, and the calendar has an end.
_FAR_SECONDS = 100 * 366 * 86_400.0
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """Jobs ended a second, and when the last one will have; None when nobody can tell, or when it has."""

    rate_per_second: float
    estimated_end_at: datetime | None


@dataclass(frozen=True, slots=True)
class Points:
    """The points of a batch; the pace is measured from the older one."""

    previous: ProgressPoint | None
    current: ProgressPoint | None

    @property
    def since(self) -> ProgressPoint | None:
        """The older one."""
        return self.previous or self.current


def moved_points(
    points: Points,
    *,
    ended: int,
    change: int,
    is_reopened: bool,
    began_at: datetime | None,
    last_at: datetime | None,
    now: datetime,
) -> Points:
    """Return the points of a batch of which some jobs have just ended.

    Args:
        points: As they were.
        ended: How many have ended now.
        change: How many of these just now; negative when some were redriven.
        is_reopened: All had ended before.
        began_at: When the first of those that ended now was started, if it was.
        last_at: When the number of ended jobs changed before.
        now: The time of this change.
    """
    since, current, before = points.since, points.current, ended - change
    if since is None or current is None or is_reopened:
        return Points(None, ProgressPoint(_clamp(began_at or now, last_at, now), min(before, ended)))
    if change < 0:
        # What was redriven has not slowed the others down.
        return Points(_lowered(points.previous, change), _lowered(current, change))
    if before <= since.ended or _stood_still(since, last_at, now):
        # Measured from when the work began again: the time in which there was none says nothing of the pace.
        return Points(None, ProgressPoint(_clamp(began_at or since.at, last_at, now), before))
    wanted = max(POINT_JOBS, ended // POINT_SHARE)
    if now - current.at >= POINT_EVERY and ended - current.ended >= wanted:
        return Points(current, ProgressPoint(now, ended))
    return points


def progress_of(batch: BatchRecord, *, now: datetime) -> Progress:
    """Return how fast a batch goes now; for a finished one, its rate from submission to end."""
    if batch.finished_at is not None:
        return Progress(_rate(batch.total, batch.finished_at - batch.created_at), None)
    ended = sum(number for state, number in batch.counts.items() if JobState(state).is_final)
    since = Points(batch.previous_point, batch.current_point).since
    if since is None or ended <= since.ended:
        return Progress(0.0, None)
    gained = ended - since.ended
    # Rows of version 0.1.0 have none; the clock of another process may be ahead.
    last_at = min(max(batch.last_ended_at or since.at, since.at), now)
    stands_still = _stood_still(since, last_at, now)
    rate = 0.0 if stands_still else _rate(gained, now - since.at)
    if since.ended <= 0 and gained < min(_FIRST_JOBS, batch.total // _FIRST_JOBS):
        return Progress(rate, None)
    pace_seconds = max(_INSTANT, last_at - since.at).total_seconds() / gained
    return Progress(rate, _estimated_end(batch, (batch.total - ended) * pace_seconds, last_at, now))


def _estimated_end(
    batch: BatchRecord, rest_seconds: float, last_at: datetime, now: datetime
) -> datetime | None:
    if rest_seconds > _FAR_SECONDS:
        return None
    rest = timedelta(seconds=rest_seconds)
    # Counted from the last end. While no other follows, the rest moves on with the clock.
    end_at = max(last_at + rest, now + min(rest, now - last_at))
    # No pace brings a job on before its time.
    return max(end_at, batch.latest_due_at) if batch.latest_due_at else end_at


def _stood_still(since: ProgressPoint, last_at: datetime | None, now: datetime) -> bool:
    last_at = last_at or since.at
    return now - last_at > max(PAUSE, last_at - since.at)


def _lowered(point: ProgressPoint | None, change: int) -> ProgressPoint | None:
    return ProgressPoint(point.at, point.ended + change) if point else None


def _clamp(at: datetime, earliest: datetime | None, latest: datetime) -> datetime:
    return min(max(at, earliest or at), latest)


def _rate(ended: int, time: timedelta) -> float:
    return round(max(0, ended) / max(_SHORTEST, time).total_seconds(), _DIGITS)
