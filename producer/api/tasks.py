"""The operations on tasks that are for everybody: hand one in, look it up, list, abort.

A task is a job of kind `task`, shown in the words of task queues. What agents do is in `leases.py`.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import AfterValidator, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from producer.api.documents import NEXT_OF_SEARCH, Attempt, Document, ShownText, job_explanation, shown
from producer.api.explanation import explain_new
from producer.api.jobs import Form, submit
from producer.api.requests import Query, read_actor, read_caller, read_id
from producer.api.responses import json_response
from producer.api.slow_work import SlowWork, caller_of
from producer.api.writer import JobWriter
from producer.pausing import Circumstances
from producer.records import JobFilter, JobRecord, NewJob
from producer.store import endings, queries, queues
from producer.store.database import Connection, Store
from producer.stored_json import NULL, embed, page_of, pick, text_of
from producer.submission_models import TaskSubmission
from shared.clock import utc_now
from shared.errors import JobNotFound, NotATask
from shared.kinds.command import OutputText
from shared.kinds.registry import Lane
from shared.kinds.task import DEFAULT_QUEUE, TASK
from shared.redaction import redact_value
from shared.states import JobState

logger = logging.getLogger(__name__)

PATH = "/tasks"


class TaskSummary(Document):
    """A task without its attempts and output, as lists show it."""

    id: Annotated[UUID, Field(description="Also that of the job: `GET /jobs/{id}` shows it as one.")]
    queue: str
    command: Annotated[
        Mapping[str, Any] | None,
        AfterValidator(redact_value),
        Field(description="What the agent runs, as of kind `command`: only what differs from the defaults."),
    ]
    payload: Annotated[
        Any, AfterValidator(redact_value), Field(description="Any JSON, in place of a command.")
    ]
    state: Annotated[
        JobState,
        Field(
            description="`queued`: agents may pick it; `running`: one does it; `delayed`: it is tried again."
        ),
    ]
    reason: Annotated[str | None, Field(description="The code of the last failure, such as `exit_1`.")]
    explanation: Annotated[
        ShownText | None, Field(description="Why it is not finished, or why it is parked.")
    ]
    run: Annotated[int, Field(description="From 1; a redrive starts the next.")]
    attempt: Annotated[int, Field(description="How often it was picked in this run.")]
    exit_code: Annotated[int | None, Field(description="Of the command, as its agent reported it.")]
    leased_until: Annotated[
        datetime | None, Field(description="Until when its agent holds it; null when nobody does.")
    ]
    cancel_requested: Annotated[
        bool, Field(description="Whether its agent is told to stop, when it next extends its lease.")
    ]
    lane: Lane
    labels: Mapping[str, str]
    project: Annotated[str, Field(description="Whose it is; `default` when nobody gave another.")]
    ref: Annotated[str | None, Field(description="Your own name for it, as it was handed in.")]
    batch_id: UUID | None
    schedule_id: UUID | None
    due_at: Annotated[datetime | None, Field(description="When a scheduled or delayed task may be picked.")]
    deadline_at: Annotated[
        datetime | None, Field(description="Nobody picks it from then on: it is parked as `expired`.")
    ]
    callback_url: str | None
    callback_events: list[str] | None
    created_at: datetime
    finished_at: datetime | None


class Task(TaskSummary):
    """A task with all that is known of it."""

    agent: Annotated[str | None, Field(description="Who picked it last.")]
    output: Annotated[Any, Field(description="Any JSON that the agent reported.")]
    stdout: Annotated[
        OutputText | None,
        Field(
            description="What the command wrote, as its agent reported; `GET /jobs/{id}/output` has it live."
        ),
    ]
    stderr: OutputText | None
    attempts: list[Attempt]
    duplicate_of: Annotated[
        UUID | None, Field(description="Only in the answer to a submission: the task that was there before.")
    ] = None


class TaskPage(Document):
    """One page of tasks, newest first."""

    items: list[TaskSummary]
    next: Annotated[str | None, Field(description=NEXT_OF_SEARCH)]


class _AskedFields(msgspec.Struct):
    command: msgspec.Raw = NULL
    payload: msgspec.Raw = NULL


class _SaidFields(msgspec.Struct):
    output: msgspec.Raw = NULL
    stdout: msgspec.Raw = NULL
    stderr: msgspec.Raw = NULL


_ASKED = msgspec.json.Decoder(_AskedFields)
_SAID = msgspec.json.Decoder(_SaidFields)


class TaskHandlers:
    """Accepts tasks and shows what became of them."""

    def __init__(self, store: Store, writer: JobWriter, slow: SlowWork) -> None:
        self._store = store
        self._writer = writer
        self._slow = slow

    async def submit_task(self, request: Request) -> Response:
        """Store one task, then answer 202: from then on agents may pick it, and it is never lost."""
        return await submit(self._store, self._writer, self._slow, request, _AS_TASK)

    async def get_task(self, request: Request) -> Response:
        """Answer with the task, its output and every attempt."""
        project = read_caller(request).project
        return json_response(await self._store.read(_look_up, read_task_id(request), project=project))

    async def list_tasks(self, request: Request) -> Response:
        """Answer with one page of tasks, newest first; it may be short while there is more."""
        query = Query(request)
        state = query.text("state")
        asked = JobFilter(
            kind=TASK,
            queue=query.text("queue"),
            state=JobState(state) if state else None,
            ref=query.text("ref"),
            labels=query.labels,
        )
        page = self._store.read_page(
            caller_of(request),
            _task_page,
            asked,
            project=read_caller(request).project,
            limit=query.limit,
            after=query.id("cursor"),
        )
        return json_response(await page)

    async def abort_task(self, request: Request) -> Response:
        """Cancel a task: at once when it waits; its agent is told when it extends its lease."""
        task_id, project = read_task_id(request), read_caller(request).project
        record = await self._store.write(_abort, task_id, project=project, by=read_actor(request))
        facts = {"job_id": str(task_id), "kind": TASK, "run": record.run, "attempt": record.attempt}
        logger.info("job_cancel_requested", extra={**facts, "state": record.state.value})
        headers = {"Location": f"{PATH}/{task_id}"}
        return json_response(task_document(record), HTTPStatus.ACCEPTED, headers)


def read_task_id(request: Request) -> UUID:
    """Return the id in the path of a request.

    Raises:
        JobNotFound: it is not a UUID, so no task has it.
    """
    return read_id(request, "task_id", JobNotFound)


def task_document(
    record: JobRecord, known: Circumstances | None = None, *, duplicate_of: UUID | None = None
) -> bytes:
    """Return the document of a stored task as JSON, with its attempts."""
    said = pick(record.result, _SAID)
    document = Task.of(
        record,
        **_told(record, known),
        agent=record.attempts[-1].worker if record.attempts else None,
        output=None,
        stdout=_text(said.stdout),
        stderr=_text(said.stderr),
        duplicate_of=duplicate_of,
    )
    return _with_stored(document, record, output=text_of(said.output))


def task_summary(record: JobRecord, known: Circumstances | None = None) -> bytes:
    """Return the document of a stored task as lists show it, as JSON."""
    return _with_stored(TaskSummary.of(record, **_told(record, known)), record)


def _accepted_document(task: NewJob) -> Task:
    return Task.of(
        task,
        queue=task.queue or DEFAULT_QUEUE,
        command=task.args.get("command"),
        payload=task.args.get("payload"),
        **_UNPICKED,
        explanation=explain_new(task),
    )


def _duplicate_document(record: JobRecord) -> bytes:
    return task_document(record, duplicate_of=record.id)


_AS_TASK = Form(PATH, TaskSubmission, _accepted_document, _duplicate_document)
# What a task shows before its first attempt.
_UNPICKED: Mapping[str, object] = {
    "reason": None,
    "run": 1,
    "attempt": 0,
    "exit_code": None,
    "leased_until": None,
    "cancel_requested": False,
    "finished_at": None,
    "agent": None,
    "output": None,
    "stdout": None,
    "stderr": None,
    "attempts": (),
    "duplicate_of": None,
}


def asked_of(args: Mapping[str, Any]) -> dict[str, str]:
    """Return what the arguments of a task ask for, as JSON texts: its command, or what is to be done."""
    asked = pick(args, _ASKED)
    command = text_of(asked.command)
    # Anybody may have published it, by way of the broker.
    return {"command": command if command.startswith("{") else "null", "payload": text_of(asked.payload)}


def _told(record: JobRecord, known: Circumstances | None) -> dict[str, object]:
    exit_code, is_running = record.telling.exit_code, record.state is JobState.RUNNING
    return {
        "queue": record.queue or DEFAULT_QUEUE,
        "command": None,
        "payload": None,
        "explanation": job_explanation(record, known),
        "exit_code": exit_code if isinstance(exit_code, int) else None,
        "leased_until": record.leased_until if is_running else None,
        "cancel_requested": is_running and record.cancel_requested_at is not None,
    }


def _with_stored(document: TaskSummary, record: JobRecord, **stored: str) -> bytes:
    """Return a document with what is shown as it is stored: nobody reads it on the way."""
    asked = {name: shown(text, redact_value) for name, text in asked_of(record.args).items()}
    return embed(document.model_dump_json(exclude={*asked, *stored}), **asked, **stored)


def _text(said: msgspec.Raw) -> OutputText | None:
    try:
        return None if (text := text_of(said)) == "null" else OutputText.model_validate_json(text)
    except ValidationError:
        return None


def _look_up(connection: Connection, task_id: UUID, *, project: str | None) -> bytes:
    record = _get_task(connection, task_id, project=project)
    if record.state.is_final:
        # Pauses no longer matter to it.
        return task_document(record)
    return task_document(record, queues.circumstances(connection, now=utc_now(), around=[record]))


def _get_task(connection: Connection, task_id: UUID, *, project: str | None) -> JobRecord:
    record = queries.get_job(connection, task_id, project=project)
    if record.kind != TASK:
        raise NotATask(f"The job is of kind {record.kind}, and no task; see GET /jobs/{task_id}.")
    return record


def _abort(connection: Connection, task_id: UUID, *, project: str | None, by: str) -> JobRecord:
    _get_task(connection, task_id, project=project)
    return endings.cancel_job(connection, task_id, project=project, by=by, now=utc_now())


def _task_page(
    connection: Connection, asked: JobFilter, *, project: str | None, limit: int, after: UUID | None
) -> bytes:
    found = queries.search_jobs(connection, asked, project=project, limit=limit, after=after)
    known = queues.circumstances(connection, now=utc_now(), around=found.records)
    return page_of([task_summary(record, known) for record in found.records], following=found.following)
