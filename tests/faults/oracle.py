"""What came of the jobs that were acknowledged: the counters, from what strangers saw. Pure."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

FINAL_STATES = frozenset({"succeeded", "parked", "cancelled"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one acknowledged job.

    Attributes:
        state: What the API says; None when it does not know the job.
        attempts: Run and number of each attempt, as the API lists them.
        effects: How often the target was asked for the job's page; None when it was not counted.
        ends: How many different ends were told on `outcomes`.
        expected: The state that it should end in.
    """

    job_id: str
    state: str | None
    attempts: tuple[tuple[int, int], ...]
    effects: int | None
    ends: int
    expected: str = "succeeded"


@dataclass(frozen=True, slots=True)
class Counts:
    """The counters of a run; all but the first two should be zero, and duplicated effects be explained."""

    acknowledged: int = 0
    finished: int = 0
    lost: int = 0
    duplicated_effects: int = 0
    recorded_twice: int = 0
    stuck: int = 0
    unexpected: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Return the sums."""
        return Counts(
            *(getattr(self, each.name) + getattr(other, each.name) for each in fields(Counts)),
        )

    def __str__(self) -> str:
        """Return them in one line."""
        return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in asdict(self).items())

    @property
    def is_kept(self) -> bool:
        """Whether the promise was kept: nothing lost, recorded twice, stuck or unexpected."""
        return not (self.lost or self.recorded_twice or self.stuck or self.unexpected)


def count(jobs: Iterable[Evidence], *, unexpected: int = 0) -> Counts:
    """Return the counters of some jobs.

    A job is lost when the API does not know it, and when it succeeded without having been done. It is
    stuck when it has not ended. It is recorded twice when an attempt is listed twice, or two different
    ends of it were told. An effect is a duplicate when the target saw more than there were attempts.

    Args:
        unexpected: What else went wrong: wrong batch counts, processes that crashed, answers of 500.
    """
    seen = list(jobs)
    return Counts(
        acknowledged=len(seen),
        finished=sum(job.state in FINAL_STATES for job in seen),
        lost=sum(_is_lost(job) for job in seen),
        duplicated_effects=sum(max(0, (job.effects or 0) - len(job.attempts)) for job in seen),
        recorded_twice=sum(len(job.attempts) != len(set(job.attempts)) or job.ends > 1 for job in seen),
        stuck=sum(job.state is not None and job.state not in FINAL_STATES for job in seen),
        unexpected=unexpected + sum(_is_unexpected(job) for job in seen),
    )


def _is_lost(job: Evidence) -> bool:
    if job.state is None:
        return True
    return job.state == "succeeded" and job.effects is not None and job.effects < len(job.attempts)


def _is_unexpected(job: Evidence) -> bool:
    if job.state not in FINAL_STATES:
        return False
    return job.state != job.expected or job.ends == 0
