"""The bodies of our AMQP messages. Third parties read and write them: docs/messages.md."""

from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from shared import exact_json
from shared.bodies import StoredBody
from shared.errors import MessageUndecodable
from shared.kinds.command import OutputSnapshot
from shared.kinds.pages import PageReport
from shared.kinds.registry import Lane
from shared.outcomes import UNTRIED, OutcomeName
from shared.retry import RetryPolicy
from shared.sealed import MAX_SEALED, SealedSecret
from shared.states import JobState
from shared.times import WireTime

JOB_TYPE = "job"
REPORT_TYPE = "report"
# Bundles of them, one a line: `shared.broker.bundle`.
JOBS_TYPE = "jobs"
REPORTS_TYPE = "reports"
# A message that could not be read, parked as it came. Its reason is in the header below.
RAW_TYPE = "raw"
REASON_HEADER = "x-retriever-reason"

# Beside the largest report, of 8 MiB, a job of this size stays below the 16 MiB that RabbitMQ 4 takes.
MAX_JOB_BYTES = 4 * 1_048_576
"""The largest message of a job."""
MAX_COPY_BYTES = 6 * 1_048_576
"""The largest copy of a job that carries the report of an attempt; a result has a few hundred KiB at most."""

# Bounded well inside the store's integers: nobody redrives a job a million times.
MAX_RUN = 1_000_000
"""The last run that a redrive or a discard begins."""
# Version 0.1.0 began one more, which must be read to be ended.
Run = Annotated[int, Field(ge=1, le=MAX_RUN + 1)]
AttemptNumber = Annotated[int, Field(ge=1, le=1_000_000)]
# Deferrals of one attempt. A host that is busy for a month defers a job some thirty times.
MAX_DEFERRALS = 1_000_000
Deferrals = Annotated[int, Field(ge=0, le=MAX_DEFERRALS)]
# Far more than a worker of ours says; the recorder would put the report aside.
MAX_REASON_LENGTH = 1_000
MAX_EXPLANATION_LENGTH = 20_000
# The ladder of delays ends at a day.
_MOST_WAIT_SECONDS = 10 * 86_400
# A part of routing keys, which may have 255 bytes, and of metric labels.
KindName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
DEFAULT_PROJECT: Final = "default"
"""Where work belongs that nobody gave another project. Messages do not name it."""
PROJECT_PATTERN: Final = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
ProjectName = Annotated[str, Field(pattern=PROJECT_PATTERN)]
# A user of the broker, as the AMQP property `user_id` has it: a short string.
PublisherName = Annotated[str, Field(max_length=255)]
# Opaque to all but the ledger; room for a longer one of a version to come.
Token = Annotated[str, Field(max_length=200)]
# JSON is read 200 levels deep; fewer brackets than this never are.
_DEPTH_THAT_FITS = 190
MAX_REF_LENGTH = 512
# Four bytes a character at most: it fits into an entry of an index.
Ref = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_REF_LENGTH,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="Your own name for it, given back wherever the job is shown: a file and line, the key of "
        "a row. No control characters.",
    ),
]
# A value that can be sent as a header again.
FieldValue = Annotated[str, Field(pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$", max_length=1_000)]


class WireMessage(BaseModel):
    """A versioned JSON body. Unknown fields are ignored, so that new ones can be added."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1

    def encode(self) -> bytes:
        """Return the body as UTF-8 JSON."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)

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
    """One job, asking for its attempt number `attempt`. No attempt starts from `expires_at` on.

    A job of the ledger has a `token`, which all copies and the jobs in reports pass on: with it the recorder
    believes what is said of this run, and whose `project` the job is. In a job of a third party its first
    worker notes the `publisher`: the user whom the broker vouches for, who is mapped to a project.
    """

    id: UUID
    kind: KindName
    lane: Lane = Lane.INTERACTIVE
    args: dict[str, Any]
    retry: RetryPolicy = RetryPolicy()
    run: Run = 1
    attempt: AttemptNumber = 1
    batch_id: UUID | None = None
    expires_at: WireTime | None = None
    token: Token | None = None
    ref: Ref | None = None
    project: ProjectName | None = None
    publisher: PublisherName | None = None


class HostWord(BaseModel):
    """What one attempt has heard of a host: how many requests it made there, and how they were answered.

    A host is named as limits are kept: with its port, where that is not the scheme's own.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: Annotated[str, Field(min_length=1, max_length=2_100)]
    requests: Annotated[int, Field(ge=1, le=10_000)] = 1
    good: Annotated[int, Field(ge=0, le=10_000)] = 0
    busy: Annotated[int, Field(ge=0, le=10_000)] = 0
    too_many: Annotated[int, Field(ge=0, le=10_000)] = 0
    broken: Annotated[int, Field(ge=0, le=10_000)] = 0
    silent: Annotated[int, Field(ge=0, le=10_000)] = 0
    pause_seconds: Annotated[float | None, Field(ge=0, le=86_400 * 366, allow_inf_nan=False)] = None


class Report(WireMessage):
    """What became of one attempt of a job; the recorder writes it down.

    `state` is the job's new state; `attempt` the attempt it belongs to. A report of state
    `running` has no end and no outcome yet, and may say what the attempt has written so far, its `output`; an
    attempt that was cancelled before it started has no start.
    A deferral, of state `delayed`, is no attempt: it has no start and no outcome, and `attempt` is the last
    that was made, 0 before the first.
    `asked` says which hosts were asked how often, where that is not once, of the job's own host, with a good
    answer.
    One of state `accepted` reports on no attempt: somebody has moved a parked message to a work queue.
    One that travels alone brings its `job` along: its token, and all of it for a store that does not know it.
    """

    job_id: UUID
    kind: KindName
    run: Run
    attempt: Annotated[int, Field(ge=0, le=1_000_000)]
    state: JobState
    started_at: WireTime | None = None
    ended_at: WireTime | None = None
    outcome: OutcomeName | None = None
    reason: Annotated[str | None, Field(max_length=MAX_REASON_LENGTH)] = None
    explanation: Annotated[str | None, Field(max_length=MAX_EXPLANATION_LENGTH)] = None
    wait_seconds: Annotated[float | None, Field(ge=0, le=_MOST_WAIT_SECONDS, allow_inf_nan=False)] = None
    due_at: WireTime | None = None
    result: dict[str, Any] | None = None
    body: StoredBody | None = None
    page: PageReport | None = None
    output: OutputSnapshot | None = None
    asked: Annotated[tuple[HostWord, ...] | None, Field(max_length=200)] = None
    worker: Annotated[str, Field(max_length=1_000)]
    job: Job | None = None

    @property
    def is_untried(self) -> bool:
        """Whether the job was given up without an attempt, because its deadline had passed, say."""
        return self.state is JobState.PARKED and self.reason in UNTRIED

    @property
    def asks_for_redrive(self) -> bool:
        """Whether nothing was tried, because the message had been moved here from `jobs.parked`."""
        return self.state is JobState.ACCEPTED

    @property
    def is_deferral(self) -> bool:
        """Whether no attempt was made, because the host had no permit for the job."""
        return self.state is JobState.DELAYED and self.outcome is None and self.started_at is None

    def encode(self) -> bytes:
        """Return the body as UTF-8 JSON; data in the result may be JSON already."""
        if self.result is None or not isinstance(self.result.get("data"), orjson.Fragment):
            return super().encode()
        document = self.model_dump(mode="json", exclude_none=True, exclude={"result"})
        return exact_json.dumps({**document, "result": self.result})


class KnownCopy(BaseModel):
    """A copy of a URL from before: the job that has it, and what the target called this version of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: UUID
    etag: FieldValue | None = None
    last_modified: FieldValue | None = None


class JobMessage(Job):
    """A job on its way.

    Copies that are delayed or parked carry the report of the attempt that caused it, so one
    publish reaches both the delay or parking queue and the recorder. `known` is the last copy of what the
    job fetches, when the job asks for changes alone. A copy that was deferred asks for the same attempt
    again: `deferrals` says how often it was; `turn_at` is of version 0.1.0. `returns` says
    how often workers died with copies before this one, or lost them, during the present attempt. No request
    is made before `starts_at`: so the ledger spaces the jobs of a host over all workers. `sealed` are
    the secrets of its project that it names, or that its webhook is signed with, as they were when the ledger
    sent it; a copy that is parked has none. Its `args` are masked there, and all of them in `sealed_args`.
    """

    deferrals: Deferrals = 0
    returns: Deferrals = 0
    turn_at: WireTime | None = None
    starts_at: WireTime | None = None
    known: KnownCopy | None = None
    sealed: Annotated[tuple[SealedSecret, ...] | None, Field(max_length=MAX_SEALED)] = None
    sealed_args: Annotated[str | None, Field(max_length=MAX_JOB_BYTES)] = None
    report: Report | None = None

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return the message of a body.

        Raises:
            MessageUndecodable: as for every message; or it is so large that what follows an attempt might be
                more than the broker takes.
        """
        size = len(body)
        # First, because reading it would take seconds.
        if size > MAX_COPY_BYTES:
            raise MessageUndecodable(f"body: {size} bytes, and a job has at most {MAX_JOB_BYTES}")
        job = super().decode(body)
        if size > MAX_JOB_BYTES and job.report is None:
            raise MessageUndecodable(f"body: {size} bytes, and a job has at most {MAX_JOB_BYTES}")
        if _is_too_deep(body):
            raise MessageUndecodable("body: values are nested too deeply for a report to hold them")
        return job

    @property
    def is_parked_copy(self) -> bool:
        """Whether it is the message of a parked job, which waits in `jobs.parked` for a person."""
        report = self.report
        return report is not None and report.state is JobState.PARKED and report.attempt == self.attempt


def _is_too_deep(body: bytes) -> bool:
    """Return whether a report could not be read that holds this job, one level deeper.

    The job would run, its report would be put aside, and the job be sent again.
    """
    if body.count(b"{") + body.count(b"[") < _DEPTH_THAT_FITS:
        return False
    try:
        from_json(b'{"job":%b}' % body)
    except ValueError:
        return True
    return False
