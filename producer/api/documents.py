"""The documents about jobs, batches and problems; the contract takes their schemas from these models."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from producer.api.explanation import explain, explain_new
from producer.pausing import Circumstances
from producer.progress import progress_of
from producer.records import REJECTED, BatchRecord, JobRecord, NewJob
from producer.stored_json import embed, json_text
from shared.clock import utc_now
from shared.kinds.registry import Lane
from shared.outcomes import OutcomeName
from shared.redaction import may_hide, redact_args, redact_text, redact_url
from shared.states import JobState

NEXT = "Send it as `cursor` for the next page; null on the last."
NEXT_OF_SEARCH = (
    "Send it as `cursor` for the next page, also when this one is short or empty; null on the last."
)

ShownText = Annotated[str, AfterValidator(redact_text)]
ShownUrl = Annotated[str, AfterValidator(redact_url)]


class Document(BaseModel):
    """What the API answers with, read from a record whose fields have the same names."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    @classmethod
    def of(cls, record: object, **computed: object) -> Self:
        """Return the document of a record; `computed` are the fields that the record lacks."""
        if not computed:
            return cls.model_validate(record)
        read = {name: getattr(record, name) for name in cls.model_fields if name not in computed}
        return cls.model_validate(read | computed)


class Attempt(Document):
    """One execution of a job. `ended_at` and `outcome` are null while it runs."""

    run: int
    number: Annotated[int, Field(description="From 1 in every run.")]
    started_at: datetime
    ended_at: datetime | None
    outcome: OutcomeName | None
    reason: Annotated[str | None, Field(description="A stable code such as `http_503` or `timeout`.")]
    wait_seconds: Annotated[
        float | None, Field(description="How long the job then waits for the next attempt.")
    ]
    worker: Annotated[
        str | None, Field(description="Who made it: the name of a worker, or the one that an agent gave.")
    ]


class JobSummary(Document):
    """A job without its attempts, as lists and exports show it."""

    id: UUID
    kind: str
    args: Annotated[
        Mapping[str, Any],
        AfterValidator(redact_args),
        Field(description="As they were handed in; passwords and keys are `***…`, which is no argument."),
    ]
    lane: Lane
    state: JobState
    reason: Annotated[str | None, Field(description="The code of the last failure, such as `http_503`.")]
    explanation: Annotated[
        ShownText | None, Field(description="Why it is not finished, or why it is parked.")
    ]
    run: Annotated[int, Field(description="From 1; a redrive starts the next.")]
    attempt: Annotated[int, Field(description="The latest attempt of this run; 0 before the first.")]
    result: Annotated[Mapping[str, Any] | None, Field(description="As the kind's result says.")]
    host: Annotated[str, Field(description="The host that the job talks to; empty when it has none.")]
    batch_id: UUID | None
    schedule_id: Annotated[UUID | None, Field(description="The schedule that made it.")]
    labels: Mapping[str, str]
    project: Annotated[str, Field(description="Whose it is; `default` when nobody gave another.")]
    ref: Annotated[str | None, Field(description="Your own name for it, as it was handed in.")]
    line: Annotated[
        int | None, Field(description="The line or item of its batch that it came from, counted from 1.")
    ]
    given_url: Annotated[
        ShownUrl | None,
        Field(description="Its URL as it was handed in; null when that is the one in `args`."),
    ]
    same_as: Annotated[
        UUID | None,
        Field(description="The job of its batch that asks for this one too, and whose answer this one gets."),
    ]
    due_at: Annotated[
        datetime | None,
        Field(description="When a scheduled job is accepted, or a delayed one is tried again."),
    ]
    deadline_at: Annotated[
        datetime | None, Field(description="No attempt starts from then on: the job is parked as `expired`.")
    ]
    callback_url: Annotated[str | None, Field(description="Who is told each time that it ends.")]
    callback_events: Annotated[
        list[str] | None, Field(description="The ends that it is told of; null when it is told of all.")
    ]
    created_at: datetime
    finished_at: datetime | None


class Job(JobSummary):
    """A job with every attempt, oldest first."""

    attempts: list[Attempt]
    duplicate_of: Annotated[
        UUID | None, Field(description="Only in the answer to a submission: the job that was there before.")
    ] = None


class JobPage(Document):
    """One page of jobs, newest first."""

    items: list[JobSummary]
    next: Annotated[str | None, Field(description=NEXT_OF_SEARCH)]


class RejectedLine(Document):
    """A line or an item of a batch that became no job."""

    number: Annotated[
        int,
        Field(
            description="The line of the body, from 1; for CSV the line in which its record begins; "
            "for a JSON batch the item, from 1."
        ),
    ]
    loc: Annotated[str, Field(description="Where: a JSON pointer such as `/lines/7/url` or `/items/6/url`.")]
    msg: Annotated[ShownText, Field(description="Why.")]
    ref: Annotated[str | None, Field(description="Your own name for it.")]
    given: Annotated[
        ShownUrl | None,
        Field(description="The beginning of it, as it was handed in; null when that was not kept."),
    ]


class RejectedResult(Document):
    """A line or an item of a batch that became no job, as its results show it."""

    state: Literal["rejected"] = REJECTED
    line: Annotated[int, Field(validation_alias="number")]
    ref: str | None
    given: Annotated[ShownUrl | None, Field(description="The beginning of what was handed in.")]
    loc: str
    explanation: Annotated[ShownText, Field(validation_alias="msg")]


class Rejections(Document):
    """How many lines or items of a batch became no job, and the first 20 of them."""

    count: int
    listed: Annotated[
        int,
        Field(
            description="How many of them are listed: the first. The last of these says how many more "
            "there were, if that is not all."
        ),
    ]
    errors: list[RejectedLine]


class RejectedPage(Document):
    """One page of the rejected lines or items of a batch, in their order."""

    items: list[RejectedLine]
    next: Annotated[str | None, Field(description=NEXT)]


class Batch(Document):
    """A batch and how many of its jobs are in each state."""

    id: UUID
    kind: str
    total: int
    repeats: Annotated[
        int, Field(description="How many of its jobs ask what another asks: they have its id as `same_as`.")
    ]
    counts: Mapping[JobState, int]
    labels: Mapping[str, str]
    project: Annotated[str, Field(description="Whose it is; `default` when nobody gave another.")]
    schedule_id: Annotated[UUID | None, Field(description="The schedule that made it.")]
    created_at: datetime
    finished_at: Annotated[datetime | None, Field(description="When its last job ended; null until then.")]
    rate_per_second: Annotated[
        float,
        Field(
            description="How many jobs ended per second lately: over half a minute and 20 jobs at least. "
            "0 when it stands still; for a finished batch, from its submission to its end."
        ),
    ]
    estimated_end_at: Annotated[
        datetime | None,
        Field(
            description="When its last job will have ended at the pace of late, and not before the time that "
            "jobs of it wait for. Null until a pace can be told, and when it has ended."
        ),
    ]
    rejected: Rejections
    cancelled_at: Annotated[
        datetime | None,
        Field(description="When jobs of it were last cancelled together; those redriven since run."),
    ]
    callback_url: Annotated[
        str | None,
        Field(description="Who is told when all its jobs have ended, or what `callback_events` says."),
    ]
    callback_events: Annotated[
        list[str] | None,
        Field(description="What it is told of, ends of its jobs among it; null is `batch.completed` alone."),
    ]


class BatchPage(Document):
    """One page of batches, newest first."""

    items: list[Batch]
    next: Annotated[str | None, Field(description=NEXT_OF_SEARCH)]


class ProblemField(Document):
    """One thing wrong in a request."""

    loc: Annotated[
        ShownText, Field(description="Where: a JSON pointer such as `/args/url` or `/query/limit`.")
    ]
    msg: Annotated[ShownText, Field(description="Why.")]


class ProblemLimit(Document):
    """The limit of a project that was reached."""

    name: Annotated[str, Field(description="Such as `stored_jobs`: see `GET /limits`.")]
    project: str
    value: Annotated[int, Field(description="How much is allowed.")]
    used: Annotated[int, Field(description="How much there is.")]


class Problem(Document):
    """What went wrong, as RFC 9457 says."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    type: Annotated[
        str, Field(description="`about:blank`, or a stable name such as `urn:retriever:job-invalid`.")
    ]
    title: str
    status: int
    detail: ShownText
    errors: Annotated[list[ProblemField] | None, Field(description="The first 20 fields at fault.")] = None
    limit: Annotated[
        ProblemLimit | None, Field(description="The limit of the project that does not allow it.")
    ] = None


_STORED = {"args", "result"}
# What a job shows before its first attempt.
_UNTRIED: Mapping[str, object] = {
    "reason": None,
    "run": 1,
    "attempt": 0,
    "result": None,
    "finished_at": None,
    "attempts": (),
    "same_as": None,
    "duplicate_of": None,
}


def accepted_document(job: NewJob) -> Job:
    """Return the document of a job as it is stored: the answer to its submission and to each replay."""
    return Job.of(job, explanation=explain_new(job), **_UNTRIED)


def job_document(record: JobRecord, known: Circumstances | None = None, **computed: object) -> bytes:
    """Return the document of a stored job as JSON, with its attempts.

    Args:
        record: The job.
        known: The pauses and queues around it; without them its explanation does not mention any.
        computed: Fields that the record lacks.
    """
    return _with_stored(Job.of(record, **_told(record, known), **{"duplicate_of": None, **computed}), record)


def job_summary(record: JobRecord, known: Circumstances | None = None) -> bytes:
    """Return the document of a stored job as lists and exports show it, as JSON: without attempts.

    Args:
        record: The job.
        known: The pauses and queues around it; without them its explanation does not mention any.
    """
    return _with_stored(JobSummary.of(record, **_told(record, known)), record)


def batch_document(record: BatchRecord) -> Batch:
    """Return the document of a stored batch as it is now, with a count for every state."""
    progress = progress_of(record, now=utc_now())
    return Batch.of(
        record,
        counts={state: record.counts.get(state, 0) for state in JobState},
        rate_per_second=progress.rate_per_second,
        estimated_end_at=progress.estimated_end_at,
        rejected={
            "count": record.rejected,
            "listed": record.rejected if record.rejected_kept is None else record.rejected_kept,
            "errors": record.first_rejected,
        },
    )


def job_explanation(record: JobRecord, known: Circumstances | None = None) -> str | None:
    """Return why a job is not finished, or why it is parked; None when it succeeded."""
    return explain(record, known or Circumstances(utc_now(), is_known=False))


def _with_stored(document: JobSummary, record: JobRecord) -> bytes:
    """Return a document with arguments and result as they are stored: nobody reads them on the way."""
    said = document.model_dump_json(exclude=_STORED)
    return embed(said, args=shown(json_text(record.args), redact_args), result=json_text(record.result))


def shown(text: str, redact: Callable[[Any], Any]) -> str:
    """Return a stored JSON text as it is shown: as it is, unless there is something in it to mask."""
    return json_text(redact(json.loads(text))) if may_hide(text) else text


def _told(record: JobRecord, known: Circumstances | None) -> dict[str, object]:
    return {
        "args": {},
        "result": None,
        "explanation": job_explanation(record, known),
        "same_as": record.original,
        "due_at": None if record.is_waiting_repeat else record.due_at,
    }
