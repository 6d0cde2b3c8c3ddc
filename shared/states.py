"""The states of a job, and the number by which of two reports the further one is known.

scheduled → accepted → queued → running → succeeded | parked | cancelled
                               ↘ delayed → running (a retry)
parked → accepted (a redrive: the next run)

A job whose host has no turn for it, or with which workers died, is `delayed` at the attempt before, 0 before
the first.
"""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is. Wire and database names: only ever added to."""

    SCHEDULED = "scheduled"
    ACCEPTED = "accepted"
    QUEUED = "queued"
    RUNNING = "running"
    DELAYED = "delayed"
    SUCCEEDED = "succeeded"
    PARKED = "parked"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended in this state."""
        return self in _FINAL


_FINAL = frozenset({JobState.SUCCEEDED, JobState.PARKED, JobState.CANCELLED})

UNDER_WAY = (JobState.QUEUED, JobState.DELAYED, JobState.RUNNING)
"""The states of jobs that have a message in the broker, or in a worker's hand."""

_RANKS = {
    JobState.SCHEDULED: 0,
    JobState.ACCEPTED: 1,
    JobState.QUEUED: 2,
    JobState.RUNNING: 3,
    JobState.DELAYED: 4,
    JobState.SUCCEEDED: 5,
    JobState.PARKED: 5,
    JobState.CANCELLED: 5,
}

_RANK_BITS = 4
_ATTEMPT_BITS = 24
_LAST_ATTEMPT = (1 << _ATTEMPT_BITS) - 1


def position(*, run: int, attempt: int, state: JobState) -> int:
    """Return how far a job is, as a number that only grows: by run, then attempt, then state.

    A stored job is changed only by a report of a greater position, so late and duplicate reports
    change nothing. Every final state is the last position of its run: the first one recorded
    wins, and a copy of the job that is still on its way cannot reopen it.

    Args:
        run: From 1; a redrive starts the next.
        attempt: The attempt the state belongs to; 0 before the first.

    Raises:
        ValueError: run or attempt is out of range.
    """
    if run < 1 or not 0 <= attempt < _LAST_ATTEMPT:
        raise ValueError(f"run {run}, attempt {attempt} is not a position")
    place = _LAST_ATTEMPT if state.is_final else attempt
    return (run << _ATTEMPT_BITS | place) << _RANK_BITS | _RANKS[state]
