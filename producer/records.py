"""What the store takes and gives: plain values, so that no database row leaves `producer.store`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Generic, Self, TypeVar
from uuid import UUID

import msgspec

from producer.stored_json import NULL, pick, scalar
from producer.timetable import CatchUp, Timetable
from shared import exact_json
from shared.errors import RetrieverError
from shared.events import EventType
from shared.kinds.command import OutputText
from shared.kinds.registry import Lane, waiting_state
from shared.kinds.task import queue_of
from shared.messages import KnownCopy
from shared.outcomes import OutcomeName
from shared.retry import RetryPolicy
from shared.sealed import SealedSecret
from shared.states import JobState

# A repeat that has no answer after so long is looked after: `producer/store/schedules.py`.
LOOK_AFTER: Final = timedelta(hours=1)


class KeyScope(StrEnum):
    """What a request with an idempotency key makes; the same key is another one in another scope."""

    JOB = "job"
    BATCH = "batch"
    SCHEDULE = "schedule"
    SCHEDULE_RUN = "schedule_run"
    OPERATION = "operation"


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a request was answered, word for word; `location` is the path of what it made or found."""

    status: int
    location: str
    body: bytes


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's own name for a request, and what the request was: SHA-256 of all that it said.

    The answer is kept together with what it tells of, where it is known before.
    """

    scope: KeyScope
    key: str
    fingerprint: bytes
    expires_at: datetime
    answer: KeptAnswer | None = None
    project: str = field(kw_only=True)


class CallbackEvent(StrEnum):
    """What a callback may tell of. Wire and database names: only ever added to."""

    SUCCEEDED = JobState.SUCCEEDED.value
    PARKED = JobState.PARKED.value
    CANCELLED = JobState.CANCELLED.value
    BATCH_COMPLETED = "batch.completed"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job that is about to be stored in run 1, attempt 0.

    With a `due_at`, which lies ahead, it is `scheduled`, else as its kind waits: `accepted` or `queued`.
    Jobs that ask for the same have one `unique_key`. With `unique_for_seconds` the job is stored only if no
    such job is unfinished, or was submitted or finished within that time.

    Attributes:
        ref: Its sender's own name for it.
        line: The line or item of its batch that it came from, counted from 1.
        given_url: Its URL as it was handed in, where that is not the one in `args`.
        same_as: Of a repeat, the job of its batch that asks for it too, or one that has the answer already;
            of one that asks for others, its own id.
    """

    id: UUID
    kind: str
    lane: Lane
    args: Mapping[str, Any]
    retry: RetryPolicy
    host: str
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: UUID | None = None
    due_at: datetime | None = None
    deadline_at: datetime | None = None
    schedule_id: UUID | None = None
    unique_key: bytes | None = None
    unique_for_seconds: float | None = None
    idempotency: IdempotencyKey | None = None
    callback_url: str | None = None
    callback_events: Sequence[str] | None = None
    ref: str | None = None
    line: int | None = None
    given_url: str | None = None
    same_as: UUID | None = None
    project: str = field(kw_only=True)

    @property
    def state(self) -> JobState:
        """The state it is stored in."""
        return JobState.SCHEDULED if self.due_at else waiting_state(self.kind)

    @property
    def queue(self) -> str | None:
        """The queue that agents ask for, if it is a task."""
        return queue_of(self.kind, self.args)


@dataclass(frozen=True, slots=True)
class AdoptedJob:
    """A job that came over the broker and is about to be stored as `queued`; `attempt` is its last one."""

    job: NewJob
    run: int
    attempt: int


class SubmissionStatus(StrEnum):
    """What a submission came to."""

    STORED = "stored"
    REPLAYED = "replayed"
    DUPLICATE = "duplicate"
    DUPLICATE_REPLAYED = "duplicate_replayed"
    CONFLICT = "conflict"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class SubmissionResult:
    """The job or batch that answers a submission: the one handed in, or one that was there before.

    In a conflict it is what the idempotency key was used for, by a request that said something else. The
    answer is what the first request with the key was answered, None while nobody has kept it. One that was
    refused is not stored, because of the limits of its project.
    """

    id: UUID
    status: SubmissionStatus = SubmissionStatus.STORED
    answer: KeptAnswer | None = None
    refusal: RetrieverError | None = None


@dataclass(frozen=True, slots=True)
class TakenKey:
    """What an idempotency key was used for first. Version 0.1.0 kept no answer."""

    resource_id: UUID
    fingerprint: bytes
    is_duplicate: bool
    answer: KeptAnswer | None

    def result_for(self, fingerprint: bytes) -> SubmissionResult:
        """Return what another request with the key comes to."""
        if fingerprint != self.fingerprint:
            return SubmissionResult(self.resource_id, SubmissionStatus.CONFLICT)
        status = SubmissionStatus.DUPLICATE_REPLAYED if self.is_duplicate else SubmissionStatus.REPLAYED
        return SubmissionResult(self.resource_id, status, self.answer)


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch that is about to be stored with its jobs.

    `rejected` counts the lines that became no job; the first of them are stored with it. With `reuses` some
    of its jobs take the answers of jobs that have ended.
    """

    id: UUID
    kind: str
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    schedule_id: UUID | None = None
    idempotency: IdempotencyKey | None = None
    callback_url: str | None = None
    callback_events: Sequence[str] | None = None
    repeats: int = 0
    rejected: int = 0
    reuses: bool = False
    project: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt, as it was reported."""

    run: int
    number: int
    started_at: datetime
    ended_at: datetime | None
    outcome: OutcomeName | None
    reason: str | None
    wait_seconds: float | None
    worker: str | None = None


class _Telling(msgspec.Struct):
    """The fields of a result that tables and lists show, as JSON."""

    verdict: msgspec.Raw = NULL
    reason: msgspec.Raw = NULL
    explanation: msgspec.Raw = NULL
    status: msgspec.Raw = NULL
    final_url: msgspec.Raw = NULL
    title: msgspec.Raw = NULL
    exit_code: msgspec.Raw = NULL


class _Asked(msgspec.Struct):
    url: msgspec.Raw = NULL


_TELLING = msgspec.json.Decoder(_Telling)
_ASKED = msgspec.json.Decoder(_Asked)


@dataclass(frozen=True, slots=True)
class Telling:
    """What tables and lists show of a result, which may itself have megabytes; None where it says nothing."""

    verdict: object = None
    reason: object = None
    explanation: object = None
    status: object = None
    final_url: object = None
    title: object = None
    exit_code: object = None

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> Self:
        """Return what a result tells."""
        if result is None:
            return cls()
        found = pick(result, _TELLING)
        return cls(
            verdict=scalar(found.verdict),
            reason=scalar(found.reason),
            explanation=scalar(found.explanation),
            status=scalar(found.status),
            final_url=scalar(found.final_url),
            title=scalar(found.title),
            exit_code=scalar(found.exit_code),
        )


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A stored job. `attempts` is filled by `get_job` only, oldest first.

    Of a task, `queue` is the one that agents ask for; while it runs, its lease is held until `leased_until`.
    `args` and `result` may be large, and are read when one of their fields is asked for: `StoredObject`.
    """

    id: UUID
    kind: str
    lane: Lane
    args: Mapping[str, Any]
    retry: RetryPolicy
    host: str
    labels: Mapping[str, str]
    batch_id: UUID | None
    schedule_id: UUID | None
    state: JobState
    run: int
    attempt: int
    reason: str | None
    explanation: str | None
    result: Mapping[str, Any] | None
    due_at: datetime | None
    deadline_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    cancel_requested_at: datetime | None = None
    callback_url: str | None = None
    callback_events: Sequence[str] | None = None
    ref: str | None = None
    line: int | None = None
    given_url: str | None = None
    same_as: UUID | None = None
    queue: str | None = None
    leased_until: datetime | None = None
    held_for: str | None = None
    attempts: Sequence[AttemptRecord] = ()
    project: str = field(kw_only=True)

    @property
    def original(self) -> UUID | None:
        """The job of its batch that asks, or has asked, for this one too; None when it asks by itself."""
        return None if self.same_as == self.id else self.same_as

    @property
    def is_waiting_repeat(self) -> bool:
        """Whether it waits for the answer of its original; its time to run is none that anybody asked for."""
        return self.state is JobState.SCHEDULED and self.original is not None

    @property
    def telling(self) -> Telling:
        """What its result says in a few words; read anew each time, and nothing else of it."""
        return Telling.of(self.result)

    @property
    def url(self) -> object:
        """The URL among its arguments, of which nothing else is read; None without one."""
        return url_in(self.args)


def url_in(args: Mapping[str, Any]) -> object:
    """Return the URL among arguments, of which nothing else is read; None without one."""
    return scalar(pick(args, _ASKED).url)


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """An accepted job that one relay has leased for publishing; `known` is the copy that it can build on.

    Its host's rate says when it `starts_at` the earliest. What its message carries unchanged stays as it
    was stored: JSON. `sealed` are the secrets that it names.
    """

    id: UUID
    kind: str
    lane: Lane
    args_json: str
    retry_json: str
    run: int
    batch_id: UUID | None
    deadline_at: datetime | None
    project: str
    ref: str | None = None
    known: KnownCopy | None = None
    sealed: tuple[SealedSecret, ...] = ()
    starts_at: datetime | None = None

    @property
    def claimed_bytes(self) -> int:
        """What it adds to a page of the outbox."""
        size = len(self.args_json)
        return size + sum(len(each.box) for each in self.sealed) if self.sealed else size

    @property
    def args(self) -> Mapping[str, Any]:
        """Its arguments; read anew each time."""
        args: dict[str, Any] = exact_json.loads(self.args_json)
        return args

    @property
    def retry(self) -> RetryPolicy:
        """Its retry policy; read anew each time."""
        return RetryPolicy.model_validate_json(self.retry_json)


@dataclass(frozen=True, slots=True)
class UnfinishedJob:
    """A job that is under way in the broker, or ought to be; `message` is what the relay knows of it.

    `attempt` is the last one that was recorded, 0 before the first, and `heard_at` when the store last heard
    of the job or sent it again.
    """

    message: ClaimedJob
    state: JobState
    position: int
    attempt: int
    due_at: datetime | None
    heard_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job that waits in a work queue, or did when it was looked at: queued, or delayed and due."""

    id: UUID
    kind: str
    lane: Lane
    state: JobState
    run: int
    attempt: int
    due_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    is_bundled: bool | None


@dataclass(frozen=True, slots=True)
class UnreadableJob:
    """A job and its run whose message a worker could not read; the explanation is the worker's."""

    job_id: UUID
    run: int
    explanation: str


@dataclass(frozen=True, slots=True)
class UnfinishedPage:
    """Some unfinished jobs of a state, oldest first, and the id to go on from; None after the last."""

    jobs: Sequence[UnfinishedJob]
    following: UUID | None


@dataclass(frozen=True, slots=True)
class BodyRecord:
    """What is known of a stored body; `size` and `sha256` are of the expanded body."""

    job_id: UUID
    content_type: str | None
    charset: str | None
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class JobOutput:
    """What an attempt has written; `updated_at` is when that was last heard of, None when nothing was."""

    run: int
    attempt: int
    is_running: bool
    updated_at: datetime | None = None
    stdout: OutputText = field(default_factory=OutputText)
    stderr: OutputText = field(default_factory=OutputText)


# The state that results show of a line that became no job.
REJECTED: Final = "rejected"
# A batch shows so many of its rejected lines; the whole list is asked for by itself.
FIRST_REJECTED = 20


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line or an item of a batch that became no job.

    `number` counts lines of the body, or items of a JSON document, from 1. `loc` is a JSON pointer. Neither
    it nor `msg` holds a value that was sent, for it may be a secret; but `msg` may suggest a URL, up to its
    path. `given` is the beginning of what was sent; `ref` the sender's own name for it.
    """

    number: int
    loc: str
    msg: str
    ref: str | None = None
    given: str | None = None


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """How many jobs of a batch had ended at some time; two such points tell how fast it goes."""

    at: datetime
    ended: int


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A stored batch; `counts` holds every state that at least one of its jobs is in.

    `rejected` counts the lines that became no job, `rejected_kept` those that are listed (None: all), and
    `first_rejected` are the first. The points are moved while jobs change; see `producer.progress`.
    `latest_due_at` is the last time that a job waits for.
    """

    id: UUID
    kind: str
    total: int
    labels: Mapping[str, str]
    counts: Mapping[JobState, int]
    schedule_id: UUID | None
    created_at: datetime
    finished_at: datetime | None
    cancelled_at: datetime | None = None
    callback_url: str | None = None
    callback_events: Sequence[str] | None = None
    rejected: int = 0
    rejected_kept: int | None = None
    first_rejected: Sequence[Rejected] = ()
    previous_point: ProgressPoint | None = None
    current_point: ProgressPoint | None = None
    last_ended_at: datetime | None = None
    latest_due_at: datetime | None = None
    repeats: int = 0
    project: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which results of a batch to show: of each list that is not empty, one must match, and `ref` exactly.

    Verdicts and reasons are those that the results show. `states` may have `REJECTED`: lines that became no
    job have neither verdict nor reason.
    """

    states: Sequence[str] = ()
    verdicts: Sequence[str] = ()
    reasons: Sequence[str] = ()
    ref: str | None = None

    @property
    def job_states(self) -> list[JobState]:
        """The states of jobs among them."""
        return [JobState(state) for state in self.states if state != REJECTED]

    @property
    def has_jobs(self) -> bool:
        """Whether any job may match."""
        return not self.states or bool(self.job_states)

    @property
    def has_rejected(self) -> bool:
        """Whether any line that became no job may match."""
        return (not self.states or REJECTED in self.states) and not self.verdicts and not self.reasons

    def is_met_by(self, job: JobRecord) -> bool:
        """Return whether the verdict and the reason of a job match."""
        if not self.verdicts and not self.reasons:
            return True
        telling = job.telling
        return (not self.verdicts or telling.verdict in self.verdicts) and (
            not self.reasons or (job.reason or telling.reason) in self.reasons
        )


EVERY_RESULT = ResultFilter()


@dataclass(frozen=True, slots=True)
class ResultCounts:
    """How many results of a batch match: jobs by state and verdict, and lines that became no job.

    A verdict is None where there is none, and one that is unknown is told as `broken`.
    """

    jobs: Mapping[tuple[JobState, str | None], int]
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An event that one relay has leased for publishing; its body is a message of `shared.events`."""

    id: UUID
    type: EventType
    body_json: str

    @property
    def claimed_bytes(self) -> int:
        """What it adds to a page of the outbox."""
        return len(self.body_json)

    @property
    def body(self) -> Mapping[str, Any]:
        """Its body; read anew each time."""
        body: dict[str, Any] = exact_json.loads(self.body_json)
        return body


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list, or to do something with; every field that is set must match.

    `url` is looked for within the URL, whatever its case; `labels` are those that a job has at least. When a
    job was created is what its id says.
    """

    state: JobState | None = None
    kind: str | None = None
    batch_id: UUID | None = None
    host: str | None = None
    schedule_id: UUID | None = None
    ref: str | None = None
    queue: str | None = None
    url: str | None = None
    reason: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    is_unfinished: bool = False


Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Found(Generic[Record]):
    """A page of what a search found, newest first, and the id to go on below; None when all was searched.

    A search reads a limited number of rows: its page may be short or empty, and there is more all the same.
    """

    records: Sequence[Record]
    following: UUID | None


@dataclass(frozen=True, slots=True)
class Transition:
    """A change that was really made to a job; a report that came late makes none."""

    job_id: UUID
    kind: str
    run: int
    attempt: int
    state: JobState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What recording reports came to. The `unknown_job_ids` have no row, so nothing of theirs was kept.

    Nor was anything of the reports at the places `disbelieved`: their jobs need a token that they lack.
    """

    transitions: Sequence[Transition]
    unknown_job_ids: frozenset[UUID]
    disbelieved: frozenset[int] = frozenset()


class Overlap(StrEnum):
    """What becomes of a run while jobs of the run before it are unfinished."""

    SKIP = "skip"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A validated schedule that is about to be stored; `template` is a submission, under `job` or `batch`."""

    id: UUID
    name: str | None
    timetable: Timetable
    template: Mapping[str, Any]
    overlap: Overlap
    catch_up: CatchUp
    labels: Mapping[str, str]
    created_at: datetime
    next_run_at: datetime | None
    project: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class ScheduleRecord(NewSchedule):
    """A stored schedule. `last_run_at` is the time that the last run was for; a skipped run is none."""

    paused_at: datetime | None
    revision: int
    runs: int
    skipped: int
    last_run_at: datetime | None
    last_job_id: UUID | None
    last_batch_id: UUID | None
    last_error: str | None

    @classmethod
    def of(cls, new: NewSchedule) -> Self:
        """Return a schedule as it is just after it was stored."""
        given = {each.name: getattr(new, each.name) for each in fields(new)}
        nothing_yet = dict.fromkeys(each.name for each in fields(cls) if each.name not in given)
        return cls(**{**nothing_yet, **given, "revision": 0, "runs": 0, "skipped": 0})


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """What one run of a schedule is to store: a batch with its jobs, or one job."""

    run_at: datetime
    jobs: Sequence[NewJob]
    batch: NewBatch | None = None
    rejected: Sequence[Rejected] = ()

    @property
    def path(self) -> str:
        """Where the API shows it."""
        return f"/batches/{self.batch.id}" if self.batch else f"/jobs/{self.jobs[0].id}"

    @property
    def facts(self) -> dict[str, str]:
        """What the log says of it."""
        made = {"batch_id": str(self.batch.id)} if self.batch else {"job_id": str(self.jobs[0].id)}
        return {"run_at": self.run_at.isoformat(), **made}


class RunEffect(StrEnum):
    """What a schedule does when it is due: `missed` passes over all runs that are not made up for."""

    MADE = "made"
    SKIPPED = "skipped"
    FAILED = "failed"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class ScheduleStep:
    """A schedule taken one run further, as decided on its record; `facts` are for the audit log."""

    schedule: ScheduleRecord
    next_run_at: datetime | None
    effect: RunEffect
    facts: Mapping[str, str | None]
    run: ScheduledRun | None = None


@dataclass(frozen=True, slots=True)
class DeletedPage:
    """How many jobs were deleted, and the id to go on from; None after the last."""

    deleted: int
    following: UUID | None
