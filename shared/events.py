"""The bodies of the messages that tell the world: outcomes, completed batches, cancellations, pauses."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.messages import KindName, Run, WireMessage
from shared.states import JobState

# AMQP type property of snapshots of what is paused. They are no events: each says all there is to say.
PAUSES_TYPE: Final = "pauses"
# Instead of a kind or a lane: all of them.
EVERY: Final = "*"


class EventType(StrEnum):
    """Which body it is: AMQP type property and database name."""

    OUTCOME = "outcome"
    BATCH = "batch"
    CANCELLATION = "cancellation"


class JobEnded(WireMessage):
    """A job has ended: published to `outcomes` with the key `<kind>.<state>` once it is recorded."""

    job_id: UUID
    kind: KindName
    run: Run
    state: JobState
    attempt: int
    reason: str | None = None
    explanation: str | None = None
    result: dict[str, Any] | None = None
    batch_id: UUID | None = None
    finished_at: AwareDatetime


class BatchCompleted(WireMessage):
    """All jobs of a batch have ended for the first time: published to `outcomes`, key `batch.completed`."""

    id: UUID
    kind: KindName
    total: int
    counts: Mapping[JobState, int]
    labels: Mapping[str, str]
    created_at: AwareDatetime
    completed_at: AwareDatetime


class Cancellation(WireMessage):
    """What workers must not run any more: one job up to a run, or all jobs of a batch.

    `marker` is neither: a worker writes it to know when it has read all that came before.
    """

    job_id: UUID | None = None
    run: Run | None = None
    batch_id: UUID | None = None
    marker: UUID | None = None


class PausedQueues(BaseModel):
    """The work queues of a kind and a lane, or of `*`: every kind, or every lane."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    lane: str


class PauseSnapshot(WireMessage):
    """All that is paused; one with a smaller revision is older and is ignored, wherever it comes.

    One with a `marker` has no revision and says nothing: a worker writes it to know when it has read all
    that came before.
    """

    revision: Annotated[int, Field(ge=0)] | None = None
    pauses: tuple[PausedQueues, ...] = ()
    marker: UUID | None = None
