"""The `task` kind: work for agents that pull it over HTTP; Retriever leases it and records its end."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.kinds.command import CommandArgs, OutputText

TASK: Final = "task"
DEFAULT_QUEUE: Final = "default"
MAX_QUEUE_LENGTH = 100
MAX_TASK_SECONDS = 86_400
"""How long the command of a task may take."""

# A part of metric labels and of what PostgreSQL notifies.
QueueName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=MAX_QUEUE_LENGTH,
        description="Agents ask for the tasks of a queue. A queue is there as soon as a task names it.",
    ),
]


class PickOrder(StrEnum):
    """Which tasks of a queue come first, by when they were created."""

    OLDEST = "oldest"
    NEWEST = "newest"


class TaskCommand(CommandArgs):
    """A command for an agent, which may take longer than a worker may: the agent extends its lease."""

    timeout_seconds: Annotated[
        float,
        Field(ge=0.1, le=MAX_TASK_SECONDS, description="Then the program and all that it started are ended."),
    ] = 60.0


class TaskArgs(BaseModel):
    """A command for an agent to run, or any JSON that its agents understand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: QueueName = DEFAULT_QUEUE
    command: TaskCommand | None = None
    payload: Annotated[Any, Field(description="Any JSON but null.")] = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.command is None) == (self.payload is None):
            raise ValueError("Send either command or payload")
        return self


class TaskResult(BaseModel):
    """What the agent reported."""

    model_config = ConfigDict(frozen=True)

    output: Annotated[Any, Field(description="Any JSON that the agent sent.")] = None
    exit_code: Annotated[int | None, Field(description="Of a command.")] = None
    signal: Annotated[str | None, Field(description="The signal that ended a command.")] = None
    limit: Annotated[str | None, Field(description="The limit that a command was ended for.")] = None
    timed_out: bool | None = None
    seconds: Annotated[float | None, Field(description="How long a command ran.")] = None
    stdout: OutputText | None = None
    stderr: OutputText | None = None
    agent: Annotated[str, Field(description="Who did it.")]


def queue_of(kind: str, args: Mapping[str, Any]) -> str | None:
    """Return the queue of a job by its stored arguments, which need not be valid; None if it is no task."""
    if kind != TASK:
        return None
    queue = args.get("queue", DEFAULT_QUEUE)
    return queue[:MAX_QUEUE_LENGTH] if isinstance(queue, str) else DEFAULT_QUEUE
