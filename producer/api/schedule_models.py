"""The documents of schedules. Their schemas in the contract are made from these models."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from producer.api.models import MAX_AHEAD_SECONDS, BatchSubmission, JobSubmission, Labels
from producer.records import Overlap
from producer.timetable import CatchUp

ScheduleName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class ScheduleSubmission(BaseModel):
    """A job or a batch to submit again and again: `cron` or `every_seconds`, and `job` or `batch`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ScheduleName | None = None
    cron: Annotated[
        str | None,
        Field(
            max_length=200, description="Minute, hour, day of month, month, day of week; as in Debian's cron."
        ),
    ] = None
    timezone: Annotated[
        str | None,
        Field(max_length=100, description="IANA name of the zone that `cron` is in; UTC when left out."),
    ] = None
    every_seconds: Annotated[int | None, Field(ge=1, le=MAX_AHEAD_SECONDS)] = None
    starts_at: Annotated[
        AwareDatetime | None,
        Field(
            description="No run before it. The times of `every_seconds` are counted from it. Within a year."
        ),
    ] = None
    job: Annotated[
        JobSubmission | None, Field(description="Each run is this job. Its only time is an expiry.")
    ] = None
    batch: Annotated[
        BatchSubmission | None, Field(description="Each run is this batch. Its only time is an expiry.")
    ] = None
    overlap: Annotated[
        Overlap, Field(description="`skip` leaves a run out while jobs of the last one are unfinished.")
    ] = Overlap.SKIP
    catch_up: Annotated[
        CatchUp,
        Field(description="Of the runs missed in a downtime: make none, the latest one, or all, up to 100."),
    ] = CatchUp.ONE
    labels: Labels = {}


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
