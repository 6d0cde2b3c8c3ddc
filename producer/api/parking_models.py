"""The documents about parked jobs, operations, the audit log and retention."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from producer.parking import (
    DEFAULT_RATE_PER_SECOND,
    MAX_RATE_PER_SECOND,
    AuditAction,
    OperationAction,
    OperationState,
)
from shared.states import JobState

MAX_IDS = 1_000
# A hundred years.
MAX_AGE_SECONDS = 3_153_600_000

_Text = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]

_ACTIONS = ", ".join(f"`{action}`" for action in AuditAction)


class RedriveRequest(BaseModel):
    """How a single job is sent back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    args: Annotated[
        dict[str, Any] | None,
        Field(description="Instead of all its arguments. The old ones are kept in the audit log."),
    ] = None


class ParkedJobFilter(BaseModel):
    """Which parked jobs: every field that is given must match, and at least one must be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"minProperties": 1})

    group: Annotated[
        str | None, Field(min_length=1, max_length=2_000, description="The id of a group of `GET /parked`.")
    ] = None
    batch_id: UUID | None = None
    kind: Annotated[_Text | None, Field(description="The jobs of this kind.")] = None
    host: Annotated[_Text | None, Field(description="The jobs that talk to exactly this host.")] = None
    reason: Annotated[_Text | None, Field(description="The jobs parked for this reason.")] = None
    older_than_seconds: Annotated[
        int | None, Field(ge=0, le=MAX_AGE_SECONDS, description="Parked at least that long; 0 is all jobs.")
    ] = None
    ids: Annotated[
        list[UUID] | None, Field(min_length=1, max_length=MAX_IDS, description="The jobs with these ids.")
    ] = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("Say which jobs; for all of them send older_than_seconds: 0")
        return self


class OperationRequest(BaseModel):
    """What to do with parked jobs, and how fast."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filter: ParkedJobFilter
    dry_run: Annotated[bool, Field(description="Only count the jobs that match.")] = False
    rate_per_second: Annotated[
        int, Field(ge=1, le=MAX_RATE_PER_SECOND, description="Jobs a second, over all ledgers.")
    ] = DEFAULT_RATE_PER_SECOND


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class ParkedGroupDocument(_Document):
    """The parked jobs of one kind, reason and host."""

    group: Annotated[str, Field(description="Its id: the same for the same kind, reason and host, always.")]
    kind: str
    reason: Annotated[str, Field(description="The first 100 characters of the reason; empty for none.")]
    host: str
    count: int
    first_parked_at: datetime
    last_parked_at: datetime
    sample_job_id: Annotated[UUID, Field(description="The newest of its jobs.")]
    sample_explanation: str | None


class ParkedGroupList(_Document):
    """The largest groups of parked jobs."""

    items: list[ParkedGroupDocument]
    total_groups: Annotated[int, Field(description="How many groups match in all.")]
    total_jobs: Annotated[int, Field(description="How many parked jobs match in all.")]


class DryRun(_Document):
    """How many parked jobs match; nothing was done."""

    matching: int


class OperationDocument(_Document):
    """A redrive or discard of many parked jobs: those that matched when it began."""

    id: UUID
    action: OperationAction
    filter: Mapping[str, Any]
    rate_per_second: int
    state: OperationState
    total: Annotated[int, Field(description="Jobs that matched when it began.")]
    done: Annotated[int, Field(description="Jobs redriven or discarded so far.")]
    skipped: Annotated[int, Field(description="Jobs that were no longer parked when their turn came.")]
    created_at: datetime
    finished_at: datetime | None
    by: Annotated[str, Field(description="The `Retriever-Actor` who ordered it.")]


class OperationPageDocument(_Document):
    """One page of operations, newest first."""

    items: list[OperationDocument]
    next: Annotated[str | None, Field(description="Send it as `cursor` for the next page; null on the last.")]


class AuditEntryDocument(_Document):
    """One thing that an operator did."""

    id: UUID
    at: datetime
    by: Annotated[str, Field(description="The `Retriever-Actor`, or `anonymous`.")]
    action: Annotated[str, Field(description=f"One of {_ACTIONS}, or what a newer version has done.")]
    target: Annotated[str, Field(description="`job/<id>` or `operation/<id>`.")]
    details: Annotated[
        Mapping[str, Any], Field(description="An edited redrive has `old_args` and `new_args` here.")
    ]


class AuditPage(_Document):
    """One page of the audit log, newest first."""

    items: list[AuditEntryDocument]
    next: Annotated[str | None, Field(description="Send it as `cursor` for the next page; null on the last.")]


class Retention(_Document):
    """How long jobs are kept after their end."""

    days: Annotated[int, Field(description="0: for ever.")]
    states: Annotated[list[JobState], Field(description="Jobs in these states are deleted then; no others.")]
    ended_before: Annotated[
        datetime | None, Field(description="What ended before this time may be gone; null when all is kept.")
    ]
