"""What the store takes and gives: plain values, so that no database row leaves `producer.store`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

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
    """A validated job that is about to be stored as `accepted`, run 1, attempt 0.

    `unique_key` is the same for jobs that ask for the same. With `unique_for_seconds` the job is stored
    only if no such job was submitted or finished within that time, or is unfinished.
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
    unique_key: bytes | None = None
    unique_for_seconds: float | None = None
    idempotency: IdempotencyKey | None = None


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
    state: JobState
    run: int
    attempt: int
    reason: str | None
    explanation: str | None
    result: Mapping[str, Any] | None
    due_at: datetime | None
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
