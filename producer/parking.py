"""What is said of parked jobs: which, in which groups, what an operator does with them. Plain values."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self
from uuid import UUID

from shared.states import JobState

# Who did it, when the request does not say.
ANONYMOUS: Final = "anonymous"
# Who makes, skips and misses the runs of schedules.
SCHEDULER: Final = "scheduler"
# The reason of a job that an operator has ended.
DISCARDED: Final = "discarded"
# That of a job that an operator cancelled before it ended.
CANCELLED: Final = "cancelled"
# A reason is a short code; of a stranger's long one this much tells groups apart.
FINGERPRINT_CHARACTERS: Final = 100
# What is deleted after the retention. A person has decided on a cancelled job; parked ones wait for that.
DELETED_STATES: Final = (JobState.SUCCEEDED, JobState.CANCELLED)
DEFAULT_RATE_PER_SECOND: Final = 50
MAX_RATE_PER_SECOND: Final = 1_000


class OperationAction(StrEnum):
    """What an operation does with each job. Wire and database names: only ever added to.

    Jobs that are redriven or discarded are parked; those that are cancelled have not ended.
    """

    REDRIVE = "redrive"
    DISCARD = "discard"
    CANCEL = "cancel"


class OperationState(StrEnum):
    """Where an operation is. Wire and database names: only ever added to."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class AuditAction(StrEnum):
    """What an operator, or the scheduler, did. Wire and database names: only ever added to."""

    JOB_REDRIVEN = "job_redriven"
    JOB_DISCARDED = "job_discarded"
    REDRIVE_STARTED = "redrive_started"
    DISCARD_STARTED = "discard_started"
    CANCEL_STARTED = "cancel_started"
    OPERATION_CANCELLED = "operation_cancelled"
    PAUSED = "paused"
    RESUMED = "resumed"
    REPUBLISHED = "republished"
    JOB_CANCELLED = "job_cancelled"
    BATCH_CANCELLED = "batch_cancelled"
    SCHEDULE_CREATED = "schedule_created"
    SCHEDULE_PAUSED = "schedule_paused"
    SCHEDULE_RESUMED = "schedule_resumed"
    SCHEDULE_DELETED = "schedule_deleted"
    SCHEDULE_RUN_MADE = "schedule_run_made"
    SCHEDULE_RUN_SKIPPED = "schedule_run_skipped"
    SCHEDULE_RUN_FAILED = "schedule_run_failed"
    SCHEDULE_RUNS_MISSED = "schedule_runs_missed"
    KEY_CREATED = "key_created"
    KEY_ROTATED = "key_rotated"
    KEY_REVOKED = "key_revoked"
    SECRET_CREATED = "secret_created"  # noqa: S105
    SECRET_REPLACED = "secret_replaced"  # noqa: S105
    SECRET_DELETED = "secret_deleted"  # noqa: S105
    LIMITS_SET = "limits_set"
    HOST_LIMIT_SET = "host_limit_set"
    HOST_LIMIT_CLEARED = "host_limit_cleared"


# What the scheduler does by itself, as often as its schedules say; such entries go with the retention.
RUN_ACTIONS: Final = (
    AuditAction.SCHEDULE_RUN_MADE,
    AuditAction.SCHEDULE_RUN_SKIPPED,
    AuditAction.SCHEDULE_RUN_FAILED,
    AuditAction.SCHEDULE_RUNS_MISSED,
)


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What the jobs of one group have in common; the reason is empty when none was given."""

    kind: str
    reason: str
    host: str

    @property
    def id(self) -> str:
        """The group's id: the key itself in URL-safe base64, so it is stable and needs no table."""
        key = json.dumps([self.kind, self.reason, self.host], ensure_ascii=False, separators=(",", ":"))
        return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")

    @classmethod
    def of(cls, group_id: str) -> Self:
        """Return the key of a group's id.

        Raises:
            ValueError: it is the id of no group.
        """
        try:
            key = json.loads(base64.urlsafe_b64decode(group_id.encode() + b"=" * (-len(group_id) % 4)))
        except (binascii.Error, UnicodeError, ValueError, RecursionError):
            key = None
        match key:
            case [str(kind), str(reason), str(host)]:
                return cls(kind, reason, host)
            case _:
                raise ValueError("not the id of a group")


@dataclass(frozen=True, slots=True)
class ParkedFilter:
    """Which parked jobs; every field that is set must match. Only `parked_after` itself counts in."""

    group: GroupKey | None = None
    batch_id: UUID | None = None
    kind: str | None = None
    host: str | None = None
    reason: str | None = None
    parked_after: datetime | None = None
    parked_before: datetime | None = None
    ids: Sequence[UUID] | None = None


@dataclass(frozen=True, slots=True)
class ParkedGroup:
    """The parked jobs of one kind, reason and host; the sample is the newest of them."""

    key: GroupKey
    count: int
    first_parked_at: datetime
    last_parked_at: datetime
    sample_job_id: UUID
    sample_explanation: str | None


@dataclass(frozen=True, slots=True)
class ParkedGroups:
    """The largest groups, and how many groups and jobs there are in all."""

    largest: Sequence[ParkedGroup]
    total_groups: int
    total_jobs: int


@dataclass(frozen=True, slots=True)
class NewOperation:
    """An operation that is about to be stored; `filter_document` is the filter as it was asked for.

    It is on the jobs of its project; None is an operator's, on those of all projects.
    """

    id: UUID
    action: OperationAction
    filter_document: Mapping[str, Any]
    rate_per_second: int
    by: str
    created_at: datetime
    project: str | None = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Operation:
    """A stored operation. `total` jobs were chosen when it began; `skipped` ones were dealt with before."""

    id: UUID
    action: OperationAction
    filter_document: Mapping[str, Any]
    rate_per_second: int
    by: str
    state: OperationState
    total: int
    done: int
    skipped: int
    created_at: datetime
    finished_at: datetime | None
    project: str | None


@dataclass(frozen=True, slots=True)
class MovedJob:
    """A job that an operation has dealt with, in the run and state that it is in now.

    One that runs, and is to be cancelled, is ended by its worker.
    """

    id: UUID
    kind: str
    run: int
    state: JobState


@dataclass(frozen=True, slots=True)
class OperationPage:
    """What one page of an operation came to."""

    operation: Operation
    moved: Sequence[MovedJob]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that an operator, or the scheduler, did."""

    id: UUID
    at: datetime
    by: str
    action: str
    target: str
    details: Mapping[str, Any]
    project: str | None
