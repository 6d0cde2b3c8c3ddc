"""The operations of agents: pick tasks, extend their leases, report how they ended.

A lease is fenced by its token: what comes with another one, or too late, is refused and changes nothing. What
was said already may be said again, as agents do whose answer was lost.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.asked_queues import AskedQueues
from producer.api.documents import Document
from producer.api.requests import LARGE_BODY_BYTES, departure, read_caller, read_document
from producer.api.responses import json_response
from producer.api.slow_work import SlowWork, caller_of
from producer.api.task_metrics import TaskMetrics
from producer.api.task_waiters import TaskWaiters
from producer.api.tasks import asked_of, read_task_id, task_summary
from producer.api.writer import GroupWriter
from producer.callers import scoped
from producer.records import JobRecord
from producer.store import tasks
from producer.store.database import Connection, Database, Store
from producer.stored_json import embed
from producer.submission import check_storable
from producer.tasks import MAX_LEASE_SECONDS, FinishRequest, Lease, PickedTask, PickRequest, TaskEnd
from shared.clock import utc_now
from shared.errors import RetrieverError
from shared.kinds.command import MAX_OUTPUT_BYTES, OutputSnapshot, OutputText
from shared.kinds.task import DEFAULT_QUEUE, PickOrder, QueueName, TaskResult
from shared.outcomes import Cancelled, Failed, Succeeded
from shared.retry import DAY_SECONDS

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS: Final = 60
MAX_PICKED: Final = 100
DEFAULT_LEASE_SECONDS: Final = 60.0
AGENT_FAILED: Final = "agent_failed"
"""The reason of a failure to which its agent gave none."""

_MAX_WAITING = 5_000
# Each may be about a hundred tasks, or bring a large result.
_MAX_GROUP = 50
_MAX_SEQUENCE = 2**31 - 1
_RESULT_FIELDS = set(TaskResult.model_fields) - {"agent"}
_NUL, _REPLACEMENT = "\0", "\N{REPLACEMENT CHARACTER}"

LeaseSeconds = Annotated[
    float,
    Field(ge=1, le=MAX_LEASE_SECONDS, description="How long the agent holds it, from now on."),
]
LeaseToken = Annotated[str, Field(min_length=1, max_length=200, description="As the pick gave it.")]
Reason = Annotated[
    str,
    Field(pattern=r"^[!-~]+$", max_length=100, description="A stable code, by which failures are grouped."),
]
Explanation = Annotated[str, Field(max_length=2_000, description="One sentence for a person.")]


def _read_stream(said: object) -> object:
    """Return a text as it is stored: of a long one beginning and end."""
    if not isinstance(said, str):
        return said
    size, half = len(said.encode()), MAX_OUTPUT_BYTES // 2
    if len(said) <= MAX_OUTPUT_BYTES:
        return OutputText(text=said, bytes=size)
    omitted = len(said[half:-half].encode())
    return OutputText(text=said[:half], tail=said[-half:], bytes=size, omitted_bytes=omitted)


def _without_nul(said: OutputText) -> OutputText:
    """Return a stream as any store takes it."""
    text, tail = said.text.replace(_NUL, _REPLACEMENT), said.tail.replace(_NUL, _REPLACEMENT)
    return said.model_copy(update={"text": text, "tail": tail})


# No union, of which errors would name both sides.
Stream = Annotated[
    Annotated[OutputText, AfterValidator(_without_nul)] | None,
    BeforeValidator(_read_stream, json_schema_input_type=OutputText | str | None),
    Field(description="What was written; of a long text beginning and end are kept."),
]

Body = TypeVar("Body", bound=BaseModel)


class _AgentRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PickTasks(_AgentRequest):
    """An agent asks for tasks of a queue."""

    queue: QueueName = DEFAULT_QUEUE
    agent: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$",
            max_length=100,
            description="The agent's name: attempts show it.",
        ),
    ] = "anonymous"
    max: Annotated[int, Field(ge=1, le=MAX_PICKED, description="How many tasks at most.")] = 1
    wait_seconds: Annotated[
        float,
        Field(ge=0, le=MAX_WAIT_SECONDS, description="How long to wait for a task while there is none."),
    ] = 0.0
    lease_seconds: LeaseSeconds = DEFAULT_LEASE_SECONDS
    order: Annotated[PickOrder, Field(description="`newest` is last in, first out.")] = PickOrder.OLDEST


class LiveOutput(_AgentRequest):
    """What the work has written so far."""

    sequence: Annotated[
        int | None,
        Field(ge=0, le=_MAX_SEQUENCE, description="Of two, that with the greater one is later."),
    ] = None
    stdout: Stream = None
    stderr: Stream = None

    def snapshot(self) -> OutputSnapshot:
        """Return it as it is stored; without a sequence, how much was written tells which is later."""
        stdout, stderr = self.stdout or OutputText(), self.stderr or OutputText()
        written = min(stdout.bytes + stderr.bytes, _MAX_SEQUENCE)
        sequence = written if self.sequence is None else self.sequence
        return OutputSnapshot(sequence=sequence, stdout=stdout, stderr=stderr)


class ExtendLease(_AgentRequest):
    """An agent needs longer."""

    token: LeaseToken
    lease_seconds: LeaseSeconds = DEFAULT_LEASE_SECONDS
    output: Annotated[
        LiveOutput | None, Field(description="Shown at `GET /jobs/{id}/output` while it runs.")
    ] = None


class FinishOutcome(StrEnum):
    """How a task may end for good."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _EndedWork(_AgentRequest):
    token: LeaseToken
    output: Annotated[Any, Field(description="Any JSON.")] = None
    exit_code: Annotated[int | None, Field(ge=-(2**31), lt=2**32, description="Of a command.")] = None
    signal: Annotated[str | None, Field(pattern=r"^[!-~]+$", max_length=50)] = None
    limit: Annotated[str | None, Field(pattern=r"^[!-~]+$", max_length=50)] = None
    timed_out: bool | None = None
    seconds: Annotated[float | None, Field(ge=0)] = None
    stdout: Stream = None
    stderr: Stream = None

    def result(self) -> dict[str, Any]:
        """Return the result of the task as it is stored, but for its agent.

        Raises:
            JobInvalid: the output cannot be stored.
        """
        check_storable(self.output, at="/output")
        return self.model_dump(mode="json", include=_RESULT_FIELDS, exclude_none=True)


class FinishTask(_EndedWork):
    """An agent has done a task, or will never do it."""

    outcome: Annotated[
        FinishOutcome | None,
        Field(
            description="`failed` parks the task. Left out: `succeeded`, or `failed` with an `exit_code` "
            "other than 0."
        ),
    ] = None
    reason: Reason | None = None
    explanation: Explanation | None = None

    def end(self) -> TaskEnd:
        """Return what became of the attempt."""
        match self.outcome or (FinishOutcome.FAILED if self.exit_code else FinishOutcome.SUCCEEDED):
            case FinishOutcome.SUCCEEDED:
                return Succeeded(self.result())
            case FinishOutcome.FAILED:
                return _failed(self, self.reason, self.explanation, transient=False)
            case FinishOutcome.CANCELLED:
                return Cancelled(self.result() or None)


class FailTask(_EndedWork):
    """An agent could not do a task."""

    transient: Annotated[
        bool,
        Field(description="Whether it may succeed later: it is then tried again, as its retry policy says."),
    ] = True
    reason: Reason | None = None
    explanation: Explanation | None = None
    retry_after_seconds: Annotated[
        float | None, Field(ge=0, le=DAY_SECONDS, description="Not before so many seconds from now.")
    ] = None

    def end(self) -> TaskEnd:
        """Return what became of the attempt."""
        return _failed(
            self,
            self.reason,
            self.explanation,
            transient=self.transient,
            retry_after_seconds=self.retry_after_seconds,
        )


class LeaseDocument(Document):
    """The right to work on a task until a time."""

    token: Annotated[str, Field(description="Send it with all that follows. It is a secret of the agent.")]
    expires_at: datetime


class LeasedTask(Document):
    """A task that was just picked."""

    id: UUID
    queue: str
    command: Mapping[str, Any] | None
    payload: Any
    run: int
    attempt: Annotated[int, Field(description="Which attempt of the run this is, from 1.")]
    max_attempts: Annotated[int, Field(description="After so many failures that may pass it is parked.")]
    labels: Mapping[str, str]
    ref: str | None
    batch_id: UUID | None
    created_at: datetime
    deadline_at: datetime | None
    lease: LeaseDocument


class LeasedTasks(Document):
    """What a pick gave: no task, when there was none."""

    tasks: list[LeasedTask]


class Extension(Document):
    """A lease that was extended."""

    expires_at: datetime
    cancel_requested: Annotated[
        bool, Field(description="Somebody has aborted the task: stop, and finish it as `cancelled`.")
    ]


class PickWriter(GroupWriter[PickRequest, list[PickedTask]]):
    """Leases tasks to agents, and returns what each got."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, _pick, of="picks of tasks", max_waiting=_MAX_WAITING, max_group=_MAX_GROUP)


class EndWriter(GroupWriter[FinishRequest, tuple[JobRecord, datetime]]):
    """Writes how tasks ended, and returns each with the time at which it was written, or found written."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, _finish, of="ends of tasks", max_waiting=_MAX_WAITING, max_group=_MAX_GROUP
        )


class LeaseHandlers:
    """Gives tasks to agents, and hears from them."""

    def __init__(
        self,
        store: Store,
        picks: PickWriter,
        ends: EndWriter,
        waiters: TaskWaiters,
        *,
        metrics: TaskMetrics,
        slow: SlowWork,
    ) -> None:
        self._store = store
        self._slow = slow
        self._picks = picks
        self._ends = ends
        self._waiters = waiters
        self._metrics = metrics
        self._asked = AskedQueues(store)

    async def pick_tasks(self, request: Request) -> Response:
        """Lease tasks to an agent, the moment there are any; none when there were none for so long."""
        asked = await _read(self._slow, request, PickTasks) or PickTasks()
        project = read_caller(request).home
        pick = PickRequest(
            asked.queue, asked.agent, asked.max, asked.lease_seconds, asked.order, project=project
        )
        queue = scoped(asked.queue, project)
        await self._asked.note(queue, asked.agent)
        async with departure(request) as gone:
            picked = await self._waiters.take(
                queue,
                lambda: self._picks.write(pick),
                wait_seconds=asked.wait_seconds,
                gone=gone,
            )
        self._metrics.count_picks(asked.queue, len(picked))
        for each in picked:
            facts = {"job_id": str(each.job.id), "run": each.job.run, "attempt": each.job.attempt}
            logger.info("task_picked", extra={**facts, "queue": asked.queue, "agent": asked.agent})
        leased = b",".join([_leased_document(each) for each in picked])
        return json_response(b'{"tasks":[' + leased + b"]}")

    async def extend_lease(self, request: Request) -> Response:
        """Let an agent hold a task for longer, and tell it when somebody wants the task to end."""
        task_id, asked = read_task_id(request), await _read_required(self._slow, request, ExtendLease)
        project = read_caller(request).project
        lease = await self._store.write(_extend, task_id, asked, project=project)
        return json_response(
            Extension(expires_at=lease.leased_until, cancel_requested=lease.cancel_requested)
        )

    async def finish_task(self, request: Request) -> Response:
        """Record that an agent has done a task, or that it will never be done."""
        task_id = read_task_id(request)
        return await self._end(request, task_id, await _read_required(self._slow, request, FinishTask))

    async def fail_task(self, request: Request) -> Response:
        """Record that an agent could not do a task; it is tried again, or parked."""
        task_id = read_task_id(request)
        return await self._end(request, task_id, await _read_required(self._slow, request, FailTask))

    async def _end(self, request: Request, task_id: UUID, asked: FinishTask | FailTask) -> Response:
        project = read_caller(request).project
        record, now = await self._ends.write(
            FinishRequest(task_id, asked.token, asked.end(), project=project)
        )
        if record.attempts and record.attempts[-1].ended_at == now:
            # Otherwise it had been told before.
            self._metrics.observe_end(record.queue or DEFAULT_QUEUE, record.attempts[-1])
            facts = {"job_id": str(task_id), "run": record.run, "attempt": record.attempt}
            logger.info("task_ended", extra={**facts, "state": record.state.value, "reason": record.reason})
        return json_response(task_summary(record))


def _pick(connection: Connection, asked: Sequence[PickRequest]) -> list[list[PickedTask]]:
    return tasks.pick_all(connection, asked, now=utc_now())


def _extend(connection: Connection, task_id: UUID, asked: ExtendLease, *, project: str | None) -> Lease:
    return tasks.extend(
        connection,
        task_id,
        asked.token,
        project=project,
        lease_seconds=asked.lease_seconds,
        output=asked.output.snapshot() if asked.output else None,
        now=utc_now(),
    )


def _finish(
    connection: Connection, asked: Sequence[FinishRequest]
) -> list[tuple[JobRecord, datetime] | RetrieverError]:
    now = utc_now()
    ended = tasks.finish_all(connection, asked, now=now)
    return [each if isinstance(each, RetrieverError) else (each, now) for each in ended]


def _leased_document(picked: PickedTask) -> bytes:
    job = picked.job
    document = LeasedTask.of(
        job,
        queue=job.queue or DEFAULT_QUEUE,
        command=None,
        payload=None,
        max_attempts=job.retry.max_attempts,
        lease=LeaseDocument(token=picked.token, expires_at=picked.leased_until),
    )
    # As it is stored: nobody reads it on the way.
    asked = asked_of(job.args)
    return embed(document.model_dump_json(exclude=set(asked)), **asked)


def _failed(
    work: _EndedWork,
    reason: str | None,
    explanation: str | None,
    *,
    transient: bool,
    retry_after_seconds: float | None = None,
) -> Failed:
    if work.exit_code:
        named, said = f"exit_{work.exit_code}", f"It ended with exit code {work.exit_code}."
    else:
        named, said = AGENT_FAILED, "Its agent reported a failure, and no more."
    return Failed(
        reason or named,
        (explanation or said).replace(_NUL, _REPLACEMENT),
        transient=transient,
        retry_after_seconds=retry_after_seconds,
        result=work.result() or None,
    )


async def _read(slow: SlowWork, request: Request, model: type[Body]) -> Body | None:
    return await _read_required(slow, request, model) if await request.body() else None


async def _read_required(slow: SlowWork, request: Request, model: type[Body]) -> Body:
    body = await request.body()
    if len(body) > LARGE_BODY_BYTES:
        return await slow.run(caller_of(request), read_document, model, body)
    return read_document(model, body)
