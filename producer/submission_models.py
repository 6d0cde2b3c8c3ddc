"""The documents that clients submit: jobs, batches, schedules. The contract takes their schemas from here."""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from producer.records import Overlap
from producer.timetable import CatchUp
from shared.few import few_names
from shared.kinds.registry import Lane
from shared.kinds.task import DEFAULT_QUEUE, TASK, QueueName
from shared.kinds.webhook import WebhookUrl
from shared.messages import Ref
from shared.retry import RetryPolicy
from shared.times import Rfc3339Time

T = TypeVar("T")

MAX_LABELS = 20
MAX_LABEL_LENGTH = 200
# Each may be named several times; there are four.
MAX_EVENTS = 20
# A leap year.
MAX_AHEAD_SECONDS = 366 * 86_400

LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=MAX_LABEL_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Labels = Annotated[
    dict[LabelName, LabelValue],
    Field(max_length=MAX_LABELS, description="Your own names for the job: no control characters."),
    few_names(MAX_LABELS),
]
ScheduleName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
KindName = Annotated[str, Field(min_length=1, max_length=100, description="See `GET /kinds`.")]


JobEnd = Literal["succeeded", "parked", "cancelled"]
BatchEvent = Literal["succeeded", "parked", "cancelled", "batch.completed"]


def _once(events: list[T] | None) -> list[T] | None:
    return events and list(dict.fromkeys(events))


class RetryOverride(RetryPolicy):
    """What differs from the kind's own policy; leave out the rest."""

    # Only the fields that were sent count, so the defaults here are never used.
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimedSubmission(BaseModel):
    """When a job may run, and until when, as it was sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_at: Annotated[
        Rfc3339Time | None,
        Field(description="Not before this time, up to a year ahead; a time that has passed means now."),
    ] = None
    delay_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            le=MAX_AHEAD_SECONDS,
            description="Not before this many seconds from now. Not with `run_at`.",
        ),
    ] = None
    deadline_at: Annotated[
        Rfc3339Time | None,
        Field(
            description="When no attempt has started by then, the job is parked with the reason `expired`."
        ),
    ] = None
    expires_after_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            le=MAX_AHEAD_SECONDS,
            description="A deadline this long after the job may first run. Not with `deadline_at`.",
        ),
    ] = None


class _Submission(TimedSubmission):
    """What jobs and batches have in common."""

    callback_url: Annotated[
        WebhookUrl | None,
        Field(description="The URL that gets a signed webhook at the end. Not for webhook jobs."),
    ] = None
    retry: Annotated[RetryOverride, Field(default_factory=RetryOverride)]
    labels: Labels = {}


class _SingleSubmission(_Submission):
    """What every single job has."""

    callback_events: Annotated[
        list[JobEnd] | None,
        Field(
            min_length=1,
            max_length=MAX_EVENTS,
            description="The ends that `callback_url` is told of; all, when left out.",
        ),
        AfterValidator(_once),
    ] = None
    unique_for_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            le=31_536_000,
            description="Answer with an existing job that asks for the same, if it was submitted or finished "
            "within this time, or is unfinished. Jobs of batches do not count.",
        ),
    ] = None
    ref: Ref | None = None
    lane: Lane = Lane.INTERACTIVE


class JobSubmission(_SingleSubmission):
    """One job to accept."""

    ARGS_AT: ClassVar = "/args"

    kind: KindName
    args: Annotated[dict[str, Any], Field(description="As the kind's arguments say.")]


class TaskSubmission(_SingleSubmission):
    """One task to accept, for agents to pick: a job of kind `task`, whose arguments are not nested."""

    ARGS_AT: ClassVar = ""

    queue: QueueName = DEFAULT_QUEUE
    # Validated as an argument of the kind, which names the places of errors.
    command: Annotated[
        Any,
        Field(
            description="What the agent runs: a line for its shell, where its operator allows one; a program "
            "with its arguments; or all that a job of kind `command` may say."
        ),
    ] = None
    payload: Annotated[Any, Field(description="Any JSON but null, in place of `command`.")] = None

    @property
    def kind(self) -> str:
        """The kind of the job."""
        return TASK

    @property
    def args(self) -> dict[str, Any]:
        """The arguments of the job."""
        match self.command:
            case str() as line:
                command: Any = {"shell": line}
            case list() as argv:
                command = {"argv": argv}
            case other:
                command = other
        return {"queue": self.queue, "command": command, "payload": self.payload}


class _BatchSubmission(_Submission):
    kind: KindName
    callback_events: Annotated[
        list[BatchEvent] | None,
        Field(
            min_length=1,
            max_length=MAX_EVENTS,
            description="What `callback_url` is told of: ends of each job, and that all have ended "
            "(`batch.completed`). The latter alone, when left out.",
        ),
        AfterValidator(_once),
    ] = None
    defaults: Annotated[
        dict[str, Any], Field(description="Arguments of every item that does not give its own.")
    ] = {}
    lane: Lane = Lane.BULK
    strict: Annotated[
        bool,
        Field(description="Store nothing when an item is invalid, instead of the others."),
    ] = False
    dedupe: Annotated[
        bool,
        Field(
            description="Ask once for checks that ask the same, the fragment of the URL aside, and answer "
            "all of them with that."
        ),
    ] = True
    reuse_within_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            le=31_536_000,
            description="Answer a check that asks the same as one that found the URL good within this time, "
            "and was submitted singly or in a batch with this field; ask for the others. Only for checks.",
        ),
    ] = None


class BatchSubmission(_BatchSubmission):
    """Jobs of one kind to accept together."""

    items: Annotated[
        list[Any],
        Field(
            min_length=1,
            description="The arguments of each job, and its `ref` if it has one. An invalid item does not "
            "affect the others.",
        ),
    ]


class StreamedBatchSubmission(_BatchSubmission):
    """The fields of a batch in the query, when its items come as a stream."""

    kind: KindName = "check"


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
        Field(max_length=100, description="IANA name of the time zone of `cron`. Default: UTC."),
    ] = None
    every_seconds: Annotated[int | None, Field(ge=1, le=MAX_AHEAD_SECONDS)] = None
    starts_at: Annotated[
        Rfc3339Time | None,
        Field(description="No run before this time; `every_seconds` counts from it. Within a year."),
    ] = None
    job: Annotated[
        JobSubmission | None, Field(description="Each run is this job. Its only time is an expiry.")
    ] = None
    batch: Annotated[
        BatchSubmission | None, Field(description="Each run is this batch. Its only time is an expiry.")
    ] = None
    overlap: Annotated[
        Overlap, Field(description="`skip` makes no run while jobs of the last one are unfinished.")
    ] = Overlap.SKIP
    catch_up: Annotated[
        CatchUp,
        Field(
            description="Which runs missed in a downtime to make: none, the latest one, or all, up to 100."
        ),
    ] = CatchUp.ONE
    labels: Annotated[
        Labels, Field(description="The jobs and batches that it makes have them too, beside their own.")
    ] = {}
