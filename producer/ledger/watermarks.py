"""Until which time everything that had entered a queue has left it again: the order of queues, used. Pure.

A quorum queue delivers in the order in which messages entered; those that consumers give back come first
again. So a queue that was seen empty, or delivered a message, has none left of those that had entered
before. What is in a consumer's hand is not in the queue.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from producer.records import WaitingJob
from shared.broker.topology import bundle_queue, work_queue
from shared.kinds.registry import is_bundled
from shared.states import JobState

# Longer than any attempt may be silent.
_KEPT_SECONDS = 900.0
# Markers of a queue that are remembered; when there are more, every other one is forgotten.
_MARKERS = 60
_NEW_MARKERS = 3
_V7 = 7
_UNIX_MILLISECONDS_SHIFT = 80


class Watermarks:
    """The watermark of each queue, and when it was seen to be there.

    Times of entering are of the wall clock, as they are stored; times of seeing are of a clock that only goes
    forward.
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        self._seen: dict[str, list[float]] = {}
        self._until: dict[str, list[datetime]] = {}

    def note(self, queue: str, until: datetime, *, now: float) -> None:
        """Note that what had entered the queue until a time has left it, as is seen now."""
        seen, reached = self._seen.setdefault(queue, []), self._until.setdefault(queue, [])
        if reached and until <= reached[-1]:
            return
        seen.append(now)
        reached.append(until)
        # The newest of the old ones stays: it holds for all times before.
        old = max(bisect_right(seen, now - _KEPT_SECONDS) - 1, 0)
        del seen[:old], reached[:old]

    def forget(self, queues: Iterable[str] | None = None) -> None:
        """Begin anew with some queues, or all: messages may have come back that had left before."""
        for queue in list(self._seen) if queues is None else queues:
            self._seen.pop(queue, None)
            self._until.pop(queue, None)

    def reached(self, queues: Sequence[str], *, seen_by: float) -> datetime | None:
        """Return the watermark of the slowest of some queues as it was seen by a time; None before any."""
        each = [self._reached(queue, seen_by) for queue in queues]
        known = [until for until in each if until is not None]
        return min(known) if known and len(known) == len(each) else None

    def passed_at(self, queues: Sequence[str], entered_at: datetime) -> float | None:
        """Return when a message was first seen to be in none of the queues, if it entered one by a time."""
        each = [self._passed_at(queue, entered_at) for queue in queues]
        known = [seen for seen in each if seen is not None]
        return max(known) if known and len(known) == len(each) else None

    def _reached(self, queue: str, seen_by: float) -> datetime | None:
        place = bisect_right(self._seen.get(queue, []), seen_by)
        return self._until[queue][place - 1] if place else None

    def _passed_at(self, queue: str, entered_at: datetime) -> float | None:
        reached = self._until.get(queue, [])
        place = bisect_left(reached, entered_at)
        return self._seen[queue][place] if place < len(reached) else None


class Markers:
    """Jobs that were seen waiting in busy queues. When one of them starts, its queue has come so far."""

    def __init__(self) -> None:
        """Remember none."""
        self._by_queue: dict[str, dict[UUID, WaitingJob]] = {}

    @property
    def ids(self) -> list[UUID]:
        """The jobs that are remembered."""
        return [job_id for markers in self._by_queue.values() for job_id in markers]

    def forget(self) -> None:
        """Remember none any more."""
        self._by_queue.clear()

    def remember(self, waiting: Iterable[WaitingJob]) -> None:
        """Remember a few of these for each queue, the first ones; they wait at this moment."""
        new: dict[str, int] = {}
        for job in waiting:
            queue = queue_of(job)
            if queue is None or entered_after(job) is None or new.get(queue, 0) == _NEW_MARKERS:
                continue
            new[queue] = new.get(queue, 0) + 1
            self._by_queue.setdefault(queue, {}).setdefault(job.id, job)
        for queue, markers in self._by_queue.items():
            if len(markers) > _MARKERS:
                self._by_queue[queue] = dict(list(markers.items())[::2])

    def compare(self, present: Iterable[WaitingJob]) -> list[tuple[str, datetime]]:
        """Return which queues have come how far, as jobs that were remembered show; those are forgotten."""
        rows = {job.id: job for job in present}
        come: list[tuple[str, datetime]] = []
        for queue, markers in self._by_queue.items():
            for job_id, marker in list(markers.items()):
                row = rows.get(job_id)
                if row is not None and not has_moved(marker, row):
                    continue
                del markers[job_id]
                entered = entered_after(marker)
                if row is not None and entered is not None and was_delivered(marker, row):
                    come.append((queue, entered))
        return come


def queue_of(job: WaitingJob) -> str | None:
    """Return the queue in which a job waits; None when nobody knows."""
    if job.state is JobState.DELAYED or not is_bundled(job.kind, job.lane):
        return work_queue(job.kind, job.lane)
    if job.is_bundled is None:
        return None
    return bundle_queue(job.kind) if job.is_bundled else work_queue(job.kind, job.lane)


def entered_after(job: WaitingJob) -> datetime | None:
    """Return a time before which a job cannot have entered the queue that it waits in; None if unknown."""
    if job.state is JobState.DELAYED:
        return job.due_at
    if job.id.version != _V7:
        return None
    # A third party's job may have entered long before the store knew of it; its id is from before that.
    made_at = datetime.fromtimestamp(0, tz=job.created_at.tzinfo) + timedelta(
        milliseconds=job.id.int >> _UNIX_MILLISECONDS_SHIFT
    )
    return min(made_at, job.created_at)


def has_moved(marker: WaitingJob, row: WaitingJob) -> bool:
    """Return whether a job is no longer where it waited."""
    return (marker.state, marker.run, marker.attempt, marker.due_at, marker.is_bundled) != (
        row.state,
        row.run,
        row.attempt,
        row.due_at,
        row.is_bundled,
    )


def was_delivered(marker: WaitingJob, row: WaitingJob) -> bool:
    """Return whether a job that waited was taken by a worker since; one that was ended there was not."""
    if row.run != marker.run or row.is_bundled != marker.is_bundled:
        # Redriven, or sent again: nobody knows by which message it came.
        return False
    return row.attempt > marker.attempt or (
        row.state is JobState.DELAYED and row.due_at is not None and row.due_at != marker.due_at
    )
