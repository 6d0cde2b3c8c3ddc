"""The bodies of our AMQP messages. Third parties read and write them: docs/messages.md."""

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from shared.errors import MessageUndecodable
from shared.kinds.registry import Lane
from shared.outcomes import EXPIRED, OutcomeName
from shared.retry import RetryPolicy
from shared.states import JobState

JOB_TYPE = "job"
REPORT_TYPE = "report"
# A message that could not be read, parked as it came. Its reason is in the header below.
RAW_TYPE = "raw"
REASON_HEADER = "x-retriever-reason"

# Bounded well inside the store's integers: nobody redrives a job a million times.
Run = Annotated[int, Field(ge=1, le=1_000_000)]
AttemptNumber = Annotated[int, Field(ge=1, le=1_000_000)]
# A part of routing keys, which may have 255 bytes, and of metric labels.
KindName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")]


class WireMessage(BaseModel):
    """A versioned JSON body. Unknown fields are ignored, so that new ones can be added."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1

    def encode(self) -> bytes:
        """Return the body as UTF-8 JSON."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return the message of a body.

        Raises:
            MessageUndecodable: the body is not JSON, of another version, or breaks the model.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = "/".join(str(part) for part in first["loc"]) or "body"
            raise MessageUndecodable(f"{place}: {first['msg']}") from error


class Job(WireMessage):
    """One job, asking for its attempt number `attempt`. No attempt starts from `expires_at` on."""

    id: UUID
    kind: KindName
    lane: Lane = Lane.INTERACTIVE
    args: dict[str, Any]
    retry: RetryPolicy = RetryPolicy()
    run: Run = 1
    attempt: AttemptNumber = 1
    batch_id: UUID | None = None
    expires_at: AwareDatetime | None = None


class Report(WireMessage):
    """What became of one attempt of a job; the recorder writes it down.

    `state` is the job's new state; `attempt` the attempt it belongs to. A report of state
    `running` has no end and no outcome yet; an attempt that was cancelled before it started has no start.
    One that travels alone brings its `job` along, for a store that does not know it.
    """

    job_id: UUID
    kind: KindName
    run: Run
    attempt: AttemptNumber
    state: JobState
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    outcome: OutcomeName | None = None
    reason: str | None = None
    explanation: str | None = None
    wait_seconds: float | None = None
    due_at: AwareDatetime | None = None
    result: dict[str, Any] | None = None
    worker: str
    job: Job | None = None

    @property
    def is_expiry(self) -> bool:
        """Whether no attempt was made, because the job's deadline had passed when it was delivered."""
        return self.state is JobState.PARKED and self.reason == EXPIRED


class JobMessage(Job):
    """A job on its way.

    Copies that are delayed or parked carry the report of the attempt that caused it, so one
    publish reaches both the delay or parking queue and the recorder.
    """

    report: Report | None = None
