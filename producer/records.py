"""What the store takes and gives: plain values, so that no database row leaves `producer.store`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from producer.timetable import CatchUp, Timetable
from shared.events import EventType
from shared.kinds.registry import Lane
from shared.outcomes import OutcomeName
from shared.retry import RetryPolicy
from shared.states import JobState


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's own name for a request, and what the request was: SHA-256 of all that it said."""

    key: str
    fingerprint: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job that is about to be stored in run 1, attempt 0.

    It is stored as `scheduled` when it has a `due_at`, which lies ahead, else as `accepted`. `unique_key`
    is the same for jobs that ask for the same. With `unique_for_seconds` the job is stored only if no
    such job was submitted or finished within that time, or is unfinished.
    """

    id: UUID
    kind: str
    lane: Lane
    args: Mapping[str, Any]
    retry: RetryPolicy
    host: str
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: UUID | None = None
    due_at: datetime | None = None
    deadline_at: datetime | None = None
    schedule_id: UUID | None = None
    unique_key: bytes | None = None
    unique_for_seconds: float | None = None
    idempotency: IdempotencyKey | None = None

    @property
    def state(self) -> JobState:
        """The state it is stored in."""
        return JobState.SCHEDULED if self.due_at else JobState.ACCEPTED


@dataclass(frozen=True, slots=True)
class AdoptedJob:
    """A job that came over the broker and is about to be stored as `queued`; `attempt` is its last one."""

    job: NewJob
    run: int
    attempt: int


class How(StrEnum):
    """What a submission came to."""

    STORED = "stored"
    REPLAYED = "replayed"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Admitted:
    """The job or batch that answers a submission: the one handed in, or one that was there before.

    In a conflict it is what the idempotency key was used for, by a request that said something else.
    """

    id: UUID
    how: How = How.STORED


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch that is about to be stored with its jobs."""

    id: UUID
    kind: str
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    schedule_id: UUID | None = None
    idempotency: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt, as it was reported."""

    run: int
    number: int
    started_at: datetime
    ended_at: datetime | None
    outcome: OutcomeName | None
    reason: str | None
    wait_seconds: float | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A stored job. `attempts` is filled by `get_job` only, oldest first."""

    id: UUID
    kind: str
    lane: Lane
    args: Mapping[str, Any]
    retry: RetryPolicy
    host: str
    labels: Mapping[str, str]
    batch_id: UUID | None
    schedule_id: UUID | None
    state: JobState
    run: int
    attempt: int
    reason: str | None
    explanation: str | None
    result: Mapping[str, Any] | None
    due_at: datetime | None
    deadline_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    cancel_requested_at: datetime | None = None
    attempts: Sequence[AttemptRecord] = ()


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """An accepted job that one relay has leased for publishing."""

    id: UUID
    kind: str
    lane: Lane
    args: Mapping[str, Any]
    retry: RetryPolicy
    run: int
    batch_id: UUID | None
    deadline_at: datetime | None


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A stored batch; `counts` holds every state that at least one of its jobs is in."""

    id: UUID
    kind: str
    total: int
    labels: Mapping[str, str]
    counts: Mapping[JobState, int]
    schedule_id: UUID | None
    created_at: datetime
    finished_at: datetime | None
    cancelled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An event that one relay has leased for publishing; `body` is a message of `shared.events`."""

    id: UUID
    type: EventType
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; every field that is set must match."""

    state: JobState | None = None
    kind: str | None = None
    batch_id: UUID | None = None
    host: str | None = None
    schedule_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A change that was really made to a job; a report that came late makes none."""

    job_id: UUID
    kind: str
    run: int
    attempt: int
    state: JobState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What recording reports came to; of `unknown_job_ids` there is no row, so nothing was kept."""

    transitions: Sequence[Transition]
    unknown_job_ids: frozenset[UUID]


class Overlap(StrEnum):
    """What becomes of a run while jobs of the run before it are unfinished."""

    SKIP = "skip"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A validated schedule that is about to be stored; `template` is a submission, under `job` or `batch`."""

    id: UUID
    name: str | None
    timetable: Timetable
    template: Mapping[str, Any]
    overlap: Overlap
    catch_up: CatchUp
    labels: Mapping[str, str]
    created_at: datetime
    next_run_at: datetime | None


@dataclass(frozen=True, slots=True)
class ScheduleRecord(NewSchedule):
    """A stored schedule. `last_run_at` is the time that the last run was for; a skipped run is none."""

    paused_at: datetime | None
    revision: int
    runs: int
    skipped: int
    last_run_at: datetime | None
    last_job_id: UUID | None
    last_batch_id: UUID | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """What one run of a schedule is to store: a batch with its jobs, or one job."""

    run_at: datetime
    jobs: Sequence[NewJob]
    batch: NewBatch | None = None

    @property
    def path(self) -> str:
        """Where the API shows it."""
        return f"/batches/{self.batch.id}" if self.batch else f"/jobs/{self.jobs[0].id}"

    @property
    def facts(self) -> dict[str, str]:
        """What the log says of it."""
        made = {"batch_id": str(self.batch.id)} if self.batch else {"job_id": str(self.jobs[0].id)}
        return {"run_at": self.run_at.isoformat(), **made}


@dataclass(frozen=True, slots=True)
class DeletedPage:
    """How many jobs were deleted, and the id to go on from; None after the last."""

    deleted: int
    following: UUID | None
