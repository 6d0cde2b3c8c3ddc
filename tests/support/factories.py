"""Make test data; each factory takes only what the test is about."""

import base64
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from producer.records import JobRecord, NewBatch, NewJob, NewSchedule, Overlap
from producer.run_tokens import KEY_BYTES, RunTokens
from producer.timetable import CatchUp, Every, Timetable
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.messages import Report
from shared.outcomes import OutcomeName
from shared.retry import RetryPolicy
from shared.states import JobState

NOON = datetime(2026, 1, 2, 12, 0, 0, 123_456, tzinfo=UTC)

# Of all stores that do not read their own.
TOKENS = RunTokens(bytes(KEY_BYTES))

_OUTCOMES = {
    JobState.SUCCEEDED: OutcomeName.SUCCEEDED,
    JobState.DELAYED: OutcomeName.FAILED_TRANSIENT,
    JobState.PARKED: OutcomeName.FAILED_PERMANENT,
}


def make_job(
    *,
    job_id: UUID | None = None,
    kind: str = "check",
    lane: Lane = Lane.INTERACTIVE,
    args: Mapping[str, Any] | None = None,
    retry: RetryPolicy | None = None,
    host: str = "example.com",
    created_at: datetime = NOON,
    labels: Mapping[str, str] | None = None,
    batch_id: UUID | None = None,
    due_at: datetime | None = None,
    deadline_at: datetime | None = None,
    callback_url: str | None = None,
    callback_events: Sequence[str] | None = None,
    ref: str | None = None,
    line: int | None = None,
    given_url: str | None = None,
    same_as: UUID | None = None,
    project: str = "default",
) -> NewJob:
    """Return a job that is about to be stored."""
    return NewJob(
        id=job_id or new_id(),
        kind=kind,
        lane=lane,
        args={"url": f"https://{host}/"} if args is None else args,
        retry=retry or RetryPolicy(),
        host=host,
        created_at=created_at,
        labels=labels or {},
        batch_id=batch_id,
        due_at=due_at,
        deadline_at=deadline_at,
        callback_url=callback_url,
        callback_events=callback_events,
        ref=ref,
        line=line,
        given_url=given_url,
        same_as=same_as,
        project=project,
    )


def make_task(
    *,
    queue: str = "default",
    retry: RetryPolicy | None = None,
    lane: Lane = Lane.INTERACTIVE,
    created_at: datetime = NOON,
    batch_id: UUID | None = None,
    due_at: datetime | None = None,
    deadline_at: datetime | None = None,
    callback_url: str | None = None,
    labels: Mapping[str, str] | None = None,
    ref: str | None = None,
    project: str = "default",
) -> NewJob:
    """Return a task that is about to be stored; its arguments are as short as they are stored."""
    return make_job(
        kind="task",
        args={"payload": {"film": 4}, **({} if queue == "default" else {"queue": queue})},
        host="",
        retry=retry,
        lane=lane,
        created_at=created_at,
        batch_id=batch_id,
        due_at=due_at,
        deadline_at=deadline_at,
        callback_url=callback_url,
        labels=labels,
        ref=ref,
        project=project,
    )


def make_batch(
    *,
    kind: str = "check",
    created_at: datetime = NOON,
    callback_url: str | None = None,
    callback_events: Sequence[str] | None = None,
    project: str = "default",
) -> NewBatch:
    """Return a batch that is about to be stored."""
    labels = {"team": "web"}
    return NewBatch(
        id=new_id(),
        kind=kind,
        created_at=created_at,
        labels=labels,
        callback_url=callback_url,
        callback_events=callback_events,
        project=project,
    )


def make_webhook_secret(key_bytes: int = 32) -> str:
    """Return a secret that can sign webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(key_bytes)).decode()}"


def make_report(
    job_id: UUID,
    state: JobState,
    *,
    attempt: int = 1,
    run: int = 1,
    kind: str = "check",
    started_at: datetime = NOON,
    ended_at: datetime | None = None,
    reason: str | None = None,
    explanation: str | None = None,
    result: dict[str, Any] | None = None,
    worker: str = "worker-1",
) -> Report:
    """Return a report as a worker sends it in this state; one that has ended took a second."""
    has_ended = state.is_final or state is JobState.DELAYED
    has_failed = state in {JobState.DELAYED, JobState.PARKED}
    ended_at = (ended_at or started_at + timedelta(seconds=1)) if has_ended else None
    return Report(
        job_id=job_id,
        kind=kind,
        run=run,
        attempt=attempt,
        state=state,
        started_at=started_at,
        ended_at=ended_at,
        outcome=_OUTCOMES.get(state),
        reason=reason or ("http_503" if has_failed else None),
        explanation=explanation or ("The server answered 503." if has_failed else None),
        wait_seconds=5.0 if state is JobState.DELAYED else None,
        due_at=ended_at + timedelta(seconds=5) if ended_at and state is JobState.DELAYED else None,
        result=result,
        worker=worker,
    )


def make_record(
    *,
    state: JobState = JobState.ACCEPTED,
    lane: Lane = Lane.BULK,
    attempt: int = 0,
    reason: str | None = None,
    due_at: datetime | None = None,
    created_at: datetime = NOON,
) -> JobRecord:
    """Return a stored job, as a list shows it."""
    return JobRecord(
        id=new_id(),
        kind="check",
        lane=lane,
        args={"url": "http://example.com/"},
        retry=RetryPolicy(),
        host="example.com",
        labels={},
        batch_id=None,
        schedule_id=None,
        state=state,
        run=1,
        attempt=attempt,
        reason=reason,
        explanation=None,
        result=None,
        due_at=due_at,
        deadline_at=None,
        created_at=created_at,
        finished_at=None,
        project="default",
    )


def make_deferral(
    job_id: UUID, *, attempt: int = 0, run: int = 1, seconds: float = 5.0, explanation: str | None = None
) -> Report:
    """Return a report as a worker sends it of a job whose host has no turn for it.

    Args:
        attempt: The last attempt that was made.
        seconds: When it comes back, after noon.
    """
    return Report(
        job_id=job_id,
        kind="check",
        run=run,
        attempt=attempt,
        state=JobState.DELAYED,
        ended_at=NOON,
        reason="host_busy",
        explanation=explanation or "Deferred, because example.com is at its limit for this worker.",
        # Tests of today are far from noon.
        wait_seconds=min(seconds, 86_400.0),
        due_at=NOON + timedelta(seconds=seconds),
        worker="worker-1",
    )


def make_schedule(
    *,
    timetable: Timetable | None = None,
    template: Mapping[str, Any] | None = None,
    overlap: Overlap = Overlap.ALLOW,
    catch_up: CatchUp = CatchUp.ONE,
    next_run_at: datetime | None = NOON,
    project: str = "default",
) -> NewSchedule:
    """Return a schedule that is about to be stored: a job every minute, the first at noon."""
    return NewSchedule(
        id=new_id(),
        name="pulse",
        timetable=timetable or Every(60, NOON),
        template=template or {"job": {"kind": "check", "args": {"url": "https://example.com/"}}},
        overlap=overlap,
        catch_up=catch_up,
        labels={"team": "web"},
        created_at=NOON,
        next_run_at=next_run_at,
        project=project,
    )
