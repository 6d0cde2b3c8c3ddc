"""The documents about kinds, their queues, and orders to pause and resume them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from shared.kinds.registry import Lane
from shared.retry import RetryPolicy

Note = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=500,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="Why; shown with every job that waits for it. No control characters.",
    ),
]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class PauseDocument(_Document):
    """A pause; its kind or lane is `*` when it is of all of them."""

    kind: str
    lane: str
    since: datetime
    by: Annotated[str, Field(description="The `Retriever-Actor` who ordered it.")]
    note: str | None


class QueueDocument(_Document):
    """The queue of a kind and lane, as a ledger last saw it; the figures are null when none has yet."""

    name: str
    kind: str
    lane: Lane
    ready: Annotated[
        int | None,
        Field(
            description="Messages that wait in it: each is a job. Of the lane `bulk`, also those in "
            "`jobs.<kind>.bundles`, where one carries several jobs of a batch."
        ),
    ]
    consumers: Annotated[int | None, Field(description="Workers that take from it; of a paused one none do.")]
    observed_at: Annotated[datetime | None, Field(description="Every few seconds, while a ledger is well.")]
    paused: Annotated[PauseDocument | None, Field(description="The oldest pause that covers it.")]


class QueueList(_Document):
    """The queues that an order to pause or resume was for, as they are now."""

    items: list[QueueDocument]


class KindPauseRequest(BaseModel):
    """An order to pause or resume a kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lane: Annotated[Lane | None, Field(description="In this lane only; in all of them when left out.")] = None
    note: Note = None


class LanePauseRequest(BaseModel):
    """An order to pause or resume a lane over all kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    note: Note = None


class KindDocument(_Document):
    """One kind of job: what it does, what it takes, what it gives. The schemas are JSON Schema 2020-12."""

    name: str
    description: str
    args: Annotated[Mapping[str, Any], Field(description="JSON Schema of the arguments.")]
    result: Annotated[Mapping[str, Any], Field(description="JSON Schema of the result.")]
    retry: Annotated[RetryPolicy, Field(description="The policy of a job that does not ask for another.")]
    queues: Annotated[list[QueueDocument], Field(description="One for each lane.")]


class KindList(_Document):
    """Every kind of job that this server takes."""

    items: list[KindDocument]
