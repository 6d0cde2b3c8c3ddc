"""What the service shows, as frozen models; a test holds them against its contract.

A model has what this version knows. `raw` has the whole document, and a state or an action that only a newer
service knows stays the text that it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Document = Mapping[str, Any]

ENDED = frozenset({"succeeded", "parked", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the service shows; `raw` is the whole document."""

    raw: Document = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Shown):
    """One execution of a job."""

    run: int
    number: int
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    reason: str | None = None
    wait_seconds: float | None = None
    worker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Shown):
    """A job; in lists and events without its attempts."""

    id: str
    kind: str
    args: Document
    lane: str
    state: str
    reason: str | None = None
    explanation: str | None = None
    run: int
    attempt: int
    result: Document | None = None
    host: str
    batch_id: str | None = None
    schedule_id: str | None = None
    labels: Mapping[str, str]
    project: str
    ref: str | None = None
    line: int | None = None
    given_url: str | None = None
    same_as: str | None = None
    due_at: datetime | None = None
    deadline_at: datetime | None = None
    callback_url: str | None = None
    callback_events: tuple[str, ...] | None = None
    created_at: datetime
    finished_at: datetime | None = None
    attempts: tuple[Attempt, ...] = ()
    duplicate_of: str | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in ENDED

    @property
    def is_good(self) -> bool:
        """Whether it succeeded and, if it is a check, found the URL good."""
        return self.state == "succeeded" and self.verdict in {None, "ok"}

    @property
    def url(self) -> str | None:
        """The URL that it is about, as it was handed in."""
        url = self.given_url or self.args.get("url")
        return url if isinstance(url, str) else None

    @property
    def verdict(self) -> str | None:
        """What a check found: `ok`, `broken` and so on; None while it has found nothing."""
        verdict = (self.result or {}).get("verdict")
        return verdict if isinstance(verdict, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedLine(Shown):
    """A line or item of a batch that became no job; `number` is its place, from 1."""

    number: int
    loc: str
    msg: str
    ref: str | None = None
    given: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejections(Shown):
    """How many lines became no job, and the first of them."""

    count: int
    listed: int
    errors: tuple[RejectedLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Shown):
    """Jobs that were handed in together."""

    id: str
    kind: str
    total: int
    repeats: int
    counts: Mapping[str, int]
    labels: Mapping[str, str]
    project: str
    schedule_id: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    rate_per_second: float
    estimated_end_at: datetime | None = None
    rejected: Rejections
    cancelled_at: datetime | None = None
    callback_url: str | None = None
    callback_events: tuple[str, ...] | None = None

    @property
    def is_ended(self) -> bool:
        """Whether all its jobs have ended."""
        return self.finished_at is not None

    @property
    def ended(self) -> int:
        """How many of its jobs have ended."""
        return sum(self.counts.get(state, 0) for state in ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Shown):
    """Something that ended: `type` says what, such as `job.parked` or `batch.completed`.

    Attributes:
        id: Where it stands; hand it to `events(after=...)` to go on behind it.
    """

    id: str
    type: str
    job: Job | None = None
    batch: Batch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Shown):
    """What is being done with many jobs."""

    id: str
    action: str
    filter: Document
    rate_per_second: int
    state: str
    total: int
    done: int
    skipped: int
    created_at: datetime
    finished_at: datetime | None = None
    by: str
    project: str | None = None

    @property
    def is_ended(self) -> bool:
        """Whether it is done or cancelled."""
        return self.finished_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedGroup(Shown):
    """The parked jobs of one kind, reason and host."""

    group: str
    kind: str
    reason: str
    host: str
    count: int
    first_parked_at: datetime
    last_parked_at: datetime
    sample_job_id: str
    sample_explanation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedGroups(Shown):
    """The largest groups of parked jobs, and how many groups and jobs there are in all."""

    items: tuple[ParkedGroup, ...]
    total_groups: int
    total_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRun(Shown):
    """The last run of a schedule."""

    run_at: datetime
    job_id: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Shown):
    """A job or batch that is submitted again and again."""

    id: str
    name: str | None = None
    cron: str | None = None
    timezone: str | None = None
    every_seconds: int | None = None
    starts_at: datetime | None = None
    job: Document | None = None
    batch: Document | None = None
    overlap: str
    catch_up: str
    labels: Mapping[str, str]
    project: str
    paused: bool
    next_runs: tuple[datetime, ...]
    last_run: ScheduleRun | None = None
    runs: int
    skipped: int
    last_error: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputText(Shown):
    """What a program wrote to one of its streams; of much the beginning and the end."""

    text: str
    tail: str
    bytes: int
    omitted_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Shown):
    """What a command or task has written so far."""

    job_id: str
    run: int
    attempt: int
    is_running: bool
    updated_at: datetime | None = None
    stdout: OutputText
    stderr: OutputText


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCounts(Shown):
    """How many pages of a fetch there are, by how they are."""

    planned: int
    done: int
    parked: int
    cancelled: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedFetch(Shown):
    """How far a paged fetch is, and whether its pages have all that there is."""

    job_id: str
    state: str
    batch_id: str | None = None
    pages: PageCounts
    items: int
    distinct: int | None = None
    duplicates: int | None = None
    missing: int | None = None
    baseline_total: int | None = None
    last_total: int | None = None
    drift: int | None = None
    stopped_by: str | None = None
    complete: bool
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Shown):
    """A task, in the words of task queues; in lists without its attempts and output."""

    id: str
    queue: str
    command: Document | None = None
    payload: Any = None
    state: str
    reason: str | None = None
    explanation: str | None = None
    run: int
    attempt: int
    exit_code: int | None = None
    leased_until: datetime | None = None
    cancel_requested: bool
    lane: str
    labels: Mapping[str, str]
    project: str
    ref: str | None = None
    batch_id: str | None = None
    schedule_id: str | None = None
    due_at: datetime | None = None
    deadline_at: datetime | None = None
    callback_url: str | None = None
    callback_events: tuple[str, ...] | None = None
    created_at: datetime
    finished_at: datetime | None = None
    agent: str | None = None
    output: Any = None
    stdout: OutputText | None = None
    stderr: OutputText | None = None
    attempts: tuple[Attempt, ...] = ()
    duplicate_of: str | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Shown):
    """The right to do a task until a time; `token` proves it."""

    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTask(Shown):
    """A task that was picked."""

    id: str
    queue: str
    command: Document | None = None
    payload: Any = None
    run: int
    attempt: int
    max_attempts: int
    labels: Mapping[str, str]
    ref: str | None = None
    batch_id: str | None = None
    created_at: datetime
    deadline_at: datetime | None = None
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension(Shown):
    """A lease that was extended; when a cancel is requested, stop and report it."""

    expires_at: datetime
    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Shown):
    """A key of the API, without its text."""

    id: str
    name: str
    project: str | None = None
    scopes: tuple[str, ...]
    state: str
    starts: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    rate_per_second: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey(Key):
    """A key that was just made; `key` is its text, which is shown this once."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Shown):
    """A secret, without its value; `digest` is the same for the same value."""

    id: str
    name: str
    project: str
    use: str
    origins: tuple[str, ...]
    digest: str | None = None
    key_id: str
    previous_until: datetime | None = None
    created_at: datetime
    created_by: str
    updated_at: datetime
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret(Secret):
    """A secret that was just set; `value` is what the service made, which is shown this once."""

    value: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Shown):
    """What a project may have of something, and has."""

    name: str
    description: str
    value: int | None = None
    source: str | None = None
    used: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectLimits(Shown):
    """What a project may have and has."""

    project: str
    items: tuple[Limit, ...]
    measured_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimit(Shown):
    """How hard a host may be asked; a rate of 0 is no limit."""

    concurrency: int
    rate_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Shown):
    """A host that comes near its limit, or has one of its own."""

    host: str
    waiting: int
    in_flight: int
    limit: HostLimit | None = None
    is_set: bool
    allowed: HostLimit | None = None
    pace: float
    used_per_second: float
    answers: float
    complaints: float
    paused_until: datetime | None = None
    breaker: str
    breaker_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Shown):
    """A work queue as a ledger last saw it; without a name that of tasks, which wait in the store."""

    name: str | None = None
    kind: str
    lane: str
    ready: int | None = None
    consumers: int | None = None
    observed_at: datetime | None = None
    paused: Document | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Shown):
    """What jobs can do; `args` and `result` are JSON schemas."""

    name: str
    description: str
    args: Document
    result: Document
    retry: Document
    queues: tuple[Queue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry(Shown):
    """One thing that somebody did."""

    id: str
    at: datetime
    by: str
    action: str
    target: str
    details: Document
    project: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Shown):
    """How much there is to do, and how fast it is done; figures named in `cut` may be larger."""

    at: datetime
    jobs: Mapping[str, int]
    ended_last_minute: Mapping[str, int]
    ended_last_hour: Mapping[str, int]
    unfinished_batches: int
    running_operations: int
    cut: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention(Shown):
    """How long jobs are kept after their end; 0 days is for ever."""

    days: int
    states: tuple[str, ...]
    ended_before: datetime | None = None


Model = TypeVar("Model", bound=Shown)


def read(model: type[Model], document: Document) -> Model:
    """Return a model of a document. What the document lacks is what the model says, else None."""
    readers: Mapping[str, Callable[[Any], Any]] = _readers(model)  # type: ignore[arg-type]
    values = {name: convert(document[name]) for name, convert in readers.items() if name in document}
    missing = {each.name: None for each in fields(model) if _is_needed(each) and each.name not in values}
    return model(**(missing | values), raw=document)


def _is_needed(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


@cache
def _readers(model: type[Any]) -> dict[str, Callable[[Any], Any]]:
    return {name: _reader(hint) for name, hint in get_type_hints(model).items() if name != "raw"}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """Return what makes a value of a type of a JSON value; another JSON value stays as it is."""
    if get_origin(hint) in {Union, UnionType}:
        (inner,) = (each for each in get_args(hint) if each is not NoneType)
        convert = _reader(inner)
        return lambda value: None if value is None else convert(value)
    if get_origin(hint) is tuple:
        each_of = _reader(get_args(hint)[0])
        return lambda value: tuple(map(each_of, value)) if isinstance(value, list) else value
    if hint is datetime:
        return lambda value: datetime.fromisoformat(value) if isinstance(value, str) else value
    if hint is float:
        return lambda value: float(value) if isinstance(value, int) else value
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return lambda value: read(hint, value) if isinstance(value, Mapping) else value
    return lambda value: value
