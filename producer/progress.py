"""How fast a batch goes and when it will have ended. Pure: a record and a time."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from producer.records import BatchRecord
from shared.states import JobState

# A batch keeps two points of its progress, at least so far apart ...
POINT_EVERY = timedelta(seconds=30)
# ... and its rate is that since the older one, if it is no older than this.
WINDOW = timedelta(seconds=60)

# The first moments make no rate.
_SHORTEST = timedelta(seconds=1)
# Beyond this an estimate says nothing, and the calendar has an end.
_FAR_SECONDS = 100 * 366 * 86_400.0
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """Jobs ended a second, and when the last one will have; None when nobody can tell, or when it has."""

    rate_per_second: float
    estimated_end_at: datetime | None


def progress_of(batch: BatchRecord, *, now: datetime) -> Progress:
    """Return how fast a batch goes now; for a finished one, its rate from submission to end."""
    if batch.finished_at is not None:
        return Progress(_rate(batch.total, batch.finished_at - batch.created_at), None)
    ended = sum(number for state, number in batch.counts.items() if JobState(state).is_final)
    rate = _recent_rate(batch, ended, now)
    return Progress(rate, _estimated_end(batch.total - ended, rate, now))


def _recent_rate(batch: BatchRecord, ended: int, now: datetime) -> float:
    points = (batch.previous_point, batch.current_point)
    since = next((point for point in points if point is not None and now - point.at <= WINDOW), None)
    # Without a point in the last minute, nothing has changed for half a minute at least.
    return 0.0 if since is None else _rate(ended - since.ended, now - since.at)


def _rate(ended: int, time: timedelta) -> float:
    # A redrive takes ends back.
    return round(max(0, ended) / max(_SHORTEST, time).total_seconds(), _DIGITS)


def _estimated_end(unfinished: int, rate: float, now: datetime) -> datetime | None:
    if not rate or unfinished / rate > _FAR_SECONDS:
        return None
    return now + timedelta(seconds=unfinished / rate)
