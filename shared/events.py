"""The bodies of the messages that tell the world: outcomes, completed batches, cancellations, pauses."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.messages import KindName, ProjectName, Ref, Run, WireMessage
from shared.redaction import redact_text
from shared.states import JobState
from shared.times import WireTime

# AMQP type property of snapshots of all pauses. They are no events: each is complete by itself.
PAUSES_TYPE: Final = "pauses"
# Stands for all kinds, or all lanes.
EVERY: Final = "*"
# Microseconds until the year 2200: one beyond could never be followed by another.
_LAST_REVISION = 7_258_118_400_000_000


def _redact(text: str | None) -> str | None:
    return text and redact_text(text)


class EventType(StrEnum):
    """The type of an event: AMQP type property and database name."""

    OUTCOME = "outcome"
    BATCH = "batch"
    CANCELLATION = "cancellation"


class JobEnded(WireMessage):
    """A job has ended: published to `outcomes` with the key `<kind>.<state>` once it is recorded."""

    job_id: UUID
    kind: KindName
    run: Run
    state: JobState
    attempt: Annotated[int, Field(ge=0)]
    reason: str | None = None
    # Agents write it, too, and listeners may be anybody.
    explanation: Annotated[str | None, AfterValidator(_redact)] = None
    result: dict[str, Any] | None = None
    batch_id: UUID | None = None
    ref: Ref | None = None
    # None is the default project.
    project: ProjectName | None = None
    finished_at: WireTime


class BatchCompleted(WireMessage):
    """All jobs of a batch have ended for the first time: published to `outcomes`, key `batch.completed`."""

    id: UUID
    kind: KindName
    total: int
    counts: Mapping[JobState, int]
    labels: Mapping[str, str]
    project: ProjectName | None = None
    created_at: WireTime
    completed_at: WireTime


class Cancellation(WireMessage):
    """An order to run no more attempts of a job up to a run, or of all jobs of a batch in their first run.

    Pages of a paged fetch, and jobs that were redriven, have an order each. One with a `marker` orders
    nothing: it is a worker's barrier, by which it knows that it has read all before.
    """

    job_id: UUID | None = None
    run: Run | None = None
    batch_id: UUID | None = None
    marker: UUID | None = None


class PausedQueues(BaseModel):
    """The work queues of a kind and a lane, or of `*`: every kind, or every lane."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Annotated[str, Field(max_length=100)]
    lane: Annotated[str, Field(max_length=100)]


class PauseSnapshot(WireMessage):
    """All pauses in force; a snapshot with a smaller revision is older and is ignored, wherever it comes.

    One with a `marker` has no revision and pauses nothing: it is a worker's barrier, by which it knows that
    it has read all before.
    """

    revision: Annotated[int, Field(ge=0, le=_LAST_REVISION)] | None = None
    pauses: Annotated[tuple[PausedQueues, ...], Field(max_length=10_000)] = ()
    marker: UUID | None = None
