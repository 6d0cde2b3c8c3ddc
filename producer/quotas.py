"""What one project may store and occupy. Pure: the store counts and refuses, `producer/store/quotas.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from producer.submission_models import MAX_LABELS
from shared.errors import ProjectLimitReached
from shared.events import EVERY
from shared.kinds.task import TASK

EVERY_PROJECT_LIMITS: Final = EVERY
"""The name under which the limits are kept of each project that has none of its own."""

MAX_LIMIT: Final = 1_000_000_000_000


class LimitName(StrEnum):
    """What is limited. Wire and database names: only ever added to."""

    STORED_JOBS = "stored_jobs"
    STORED_TASKS = "stored_tasks"
    STORED_BYTES = "stored_bytes"
    UNFINISHED_BATCHES = "unfinished_batches"
    SCHEDULES = "schedules"
    BATCH_JOBS = "batch_jobs"
    REJECTED_LINES = "rejected_lines"
    LABELS = "labels"
    AUDIT_DAYS = "audit_days"
    REJECTED_DAYS = "rejected_days"


DESCRIPTIONS: Final[Mapping[LimitName, str]] = {
    LimitName.STORED_JOBS: "Jobs in the store, of every kind and in every state.",
    LimitName.STORED_TASKS: "Those among them that are tasks.",
    LimitName.STORED_BYTES: "Arguments, results and bodies of its jobs, as the ledger measured them last.",
    LimitName.UNFINISHED_BATCHES: "Batches that have a job which has not ended.",
    LimitName.SCHEDULES: "Schedules, paused or not.",
    LimitName.BATCH_JOBS: "Jobs of one batch.",
    LimitName.REJECTED_LINES: "Lines of one batch that became no job and are listed; all are counted.",
    LimitName.LABELS: "Labels of one job, batch or schedule.",
    LimitName.AUDIT_DAYS: "For how long the audit log keeps what was done to it.",
    LimitName.REJECTED_DAYS: "For how long lines that became no job are listed.",
}
LEAST: Final[Mapping[LimitName, int]] = {
    LimitName.BATCH_JOBS: 1,
    # So many are in the answer to a batch.
    LimitName.REJECTED_LINES: 20,
    LimitName.AUDIT_DAYS: 1,
    LimitName.REJECTED_DAYS: 1,
}
MOST: Final[Mapping[LimitName, int]] = {
    LimitName.LABELS: MAX_LABELS,
    # A hundred years.
    LimitName.AUDIT_DAYS: 36_500,
    LimitName.REJECTED_DAYS: 36_500,
}
# A project with one of these has a row of its usage, which is changed with what it counts, or locked for it.
_COUNTED = frozenset(
    {
        LimitName.STORED_JOBS,
        LimitName.STORED_TASKS,
        LimitName.STORED_BYTES,
        LimitName.UNFINISHED_BATCHES,
        LimitName.SCHEDULES,
    }
)
_WHAT = {
    LimitName.STORED_JOBS: "store {value:,} jobs, and stores {used:,}",
    LimitName.STORED_TASKS: "store {value:,} tasks, and stores {used:,}",
    LimitName.STORED_BYTES: "store {value:,} bytes, and stored {used:,} when they were measured last",
    LimitName.UNFINISHED_BATCHES: "have {value:,} unfinished batches, and has {used:,}",
    LimitName.SCHEDULES: "have {value:,} schedules, and has {used:,}",
    LimitName.BATCH_JOBS: "hand in {value:,} jobs in one batch, and this has {used:,} or more",
}
_ROOM = {
    LimitName.UNFINISHED_BATCHES: "Wait until one has ended, or cancel it.",
    LimitName.SCHEDULES: "Delete one of them first.",
    LimitName.BATCH_JOBS: "Send it in parts.",
}
_RETENTION = "What has ended makes room when its retention is over."


def refusal(project: str, name: LimitName, *, value: int, used: int, more: int = 1) -> ProjectLimitReached:
    """Return what a caller is told who wants more than a project may have.

    Args:
        project: Whose limit it is.
        name: Of the limit.
        value: How much is allowed.
        used: How much there is.
        more: How much more was wanted.
    """
    what = _WHAT[name].format(value=value, used=used)
    wanted = f" {more:,} more do not fit." if more > 1 else ""
    said = f"The project {project} may {what} ({name}).{wanted} {_ROOM.get(name, _RETENTION)}"
    return ProjectLimitReached(said, project=project, name=name, value=value, used=used)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of all projects, by project and name; those of `*` hold where a project has none."""

    by_project: Mapping[str, Mapping[LimitName, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.by_project)

    def of(self, project: str) -> Mapping[LimitName, int]:
        """Return what holds for a project."""
        if not self.by_project:
            return {}
        return {**self.by_project.get(EVERY_PROJECT_LIMITS, {}), **self.by_project.get(project, {})}

    def counted(self, projects: Iterable[str]) -> list[str]:
        """Return those of the projects whose usage is counted, in the order in which they are locked."""
        if not self.by_project:
            return []
        return sorted(project for project in set(projects) if self.of(project).keys() & _COUNTED)


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of the store a project has. Bytes and their time are None until they were measured."""

    jobs: int
    tasks: int
    stored_bytes: int | None = None
    measured_at: datetime | None = None


@dataclass(slots=True)
class Room:
    """How much more a project may store, while its usage is locked."""

    project: str
    limits: Mapping[LimitName, int]
    usage: Usage
    jobs: int = 0
    tasks: int = 0

    def refusal(self, kind: str, *, more: int = 1) -> ProjectLimitReached | None:
        """Return why jobs of a kind do not fit; None if they do."""
        used = {
            LimitName.STORED_JOBS: self.usage.jobs + self.jobs,
            LimitName.STORED_TASKS: self.usage.tasks + self.tasks,
        }
        for name, there in used.items():
            is_of_it = name is LimitName.STORED_JOBS or kind == TASK
            if is_of_it and (value := self.limits.get(name)) is not None and there + more > value:
                return refusal(self.project, name, value=value, used=there, more=more)
        measured, value = self.usage.stored_bytes, self.limits.get(LimitName.STORED_BYTES)
        if value is not None and measured is not None and measured >= value:
            return refusal(self.project, LimitName.STORED_BYTES, value=value, used=measured)
        return None

    def take(self, kind: str, *, more: int = 1) -> None:
        """Let jobs of a kind in."""
        self.jobs += more
        self.tasks += more if kind == TASK else 0

    def free(self, kind: str) -> int | None:
        """Return how many more jobs of a kind fit; None for any number."""
        if (refused := self.refusal(kind)) is not None and refused.name == LimitName.STORED_BYTES:
            return 0
        rooms = []
        if (value := self.limits.get(LimitName.STORED_JOBS)) is not None:
            rooms.append(value - self.usage.jobs - self.jobs)
        if kind == TASK and (value := self.limits.get(LimitName.STORED_TASKS)) is not None:
            rooms.append(value - self.usage.tasks - self.tasks)
        return max(0, min(rooms)) if rooms else None
