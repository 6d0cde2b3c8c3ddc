"""What the store takes and gives: plain values, so that no database row leaves `producer.store`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.kinds.registry import Lane
from shared.outcomes import OutcomeName
from shared.retry import RetryPolicy
from shared.states import JobState


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job that is about to be stored as `accepted`, run 1, attempt 0."""

    id: UUID
    kind: str
    lane: Lane
    args: Mapping[str, Any]
    retry: RetryPolicy
    host: str
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch that is about to be stored with its jobs."""

    id: UUID
    kind: str
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)


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
    state: JobState
    run: int
    attempt: int
    reason: str | None
    explanation: str | None
    result: Mapping[str, Any] | None
    due_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
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


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A stored batch; `counts` holds every state that at least one of its jobs is in."""

    id: UUID
    kind: str
    total: int
    labels: Mapping[str, str]
    counts: Mapping[JobState, int]
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; every field that is set must match."""

    state: JobState | None = None
    kind: str | None = None
    batch_id: UUID | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A change that a report really made to a job; reports that came late make none."""

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


@dataclass(frozen=True, slots=True)
class DeletedPage:
    """How many jobs were deleted, and the id to go on from; None after the last."""

    deleted: int
    following: UUID | None
