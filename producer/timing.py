"""When a submitted job may run, and until when: from what the caller said to two moments. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from producer.api.models import MAX_AHEAD_SECONDS
from shared.errors import FieldError, JobInvalid

MAX_AHEAD = timedelta(seconds=MAX_AHEAD_SECONDS)


class TimedSubmission(Protocol):
    """The times of a submission, as they were sent."""

    @property
    def run_at(self) -> datetime | None:
        """Not before then."""

    @property
    def delay_seconds(self) -> float | None:
        """Not before so long from now."""

    @property
    def deadline_at(self) -> datetime | None:
        """No attempt from then on."""

    @property
    def expires_after_seconds(self) -> float | None:
        """No attempt so long after the first could have started."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Both in UTC. Without `due_at` a job runs now; without `deadline_at` it waits for ever."""

    due_at: datetime | None = None
    deadline_at: datetime | None = None


NOW = Timing()


def timing_of(submission: TimedSubmission, *, now: datetime) -> Timing:
    """Return when a job may run and until when.

    Raises:
        JobInvalid: two fields say the same thing, a time is over a year ahead, or the deadline comes first.
    """
    due_at = _due_at(submission, now)
    return Timing(due_at, _deadline_at(submission, due_at or now))


def _due_at(submission: TimedSubmission, now: datetime) -> datetime | None:
    if submission.run_at is not None and submission.delay_seconds is not None:
        raise _invalid("/delay_seconds", "Send either run_at or delay_seconds")
    due_at = submission.run_at
    if submission.delay_seconds is not None:
        due_at = now + timedelta(seconds=submission.delay_seconds)
    if due_at is None or due_at <= now:
        return None
    if due_at > now + MAX_AHEAD:
        raise _invalid("/run_at", "It is more than a year ahead")
    return due_at.astimezone(UTC)


def _deadline_at(submission: TimedSubmission, starts_at: datetime) -> datetime | None:
    if submission.deadline_at is not None and submission.expires_after_seconds is not None:
        raise _invalid("/expires_after_seconds", "Send either deadline_at or expires_after_seconds")
    if submission.expires_after_seconds is not None:
        return starts_at + timedelta(seconds=submission.expires_after_seconds)
    if submission.deadline_at is None:
        return None
    if submission.deadline_at <= starts_at:
        raise _invalid("/deadline_at", "It comes before the job may run")
    if submission.deadline_at > starts_at + MAX_AHEAD:
        raise _invalid("/deadline_at", "It is more than a year after the job may run")
    return submission.deadline_at.astimezone(UTC)


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
