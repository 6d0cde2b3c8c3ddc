"""The documents of schedules. Their schemas in the contract are made from these models."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from producer.records import Overlap
from producer.timetable import CatchUp


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class LastRun(_Document):
    """The last run that a schedule made: a job or a batch."""

    run_at: Annotated[datetime, Field(description="The time that it was for.")]
    job_id: UUID | None
    batch_id: UUID | None


class Schedule(_Document):
    """A schedule, its next times and its last run."""

    id: UUID
    name: str | None
    cron: str | None
    timezone: str | None
    every_seconds: int | None
    starts_at: datetime | None
    job: Mapping[str, Any] | None
    batch: Mapping[str, Any] | None
    overlap: Overlap
    catch_up: CatchUp
    labels: Mapping[str, str]
    paused: bool
    next_runs: Annotated[list[datetime], Field(description="The next five times; none while it is paused.")]
    last_run: LastRun | None
    runs: Annotated[int, Field(description="How many runs it has made.")]
    skipped: Annotated[
        int, Field(description="How many runs it left out, because the last one was unfinished.")
    ]
    last_error: Annotated[
        str | None, Field(description="Why its last run could not be made; null when it was.")
    ]
    created_at: datetime


class SchedulePage(_Document):
    """One page of schedules, newest first."""

    items: list[Schedule]
    next: Annotated[str | None, Field(description="Send it as `cursor` for the next page; null on the last.")]
