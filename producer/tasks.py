"""Tasks, the jobs that agents pull: what a pick asks for and grants, what follows when a lease ends. Pure.

A lease is the right to work on one task until a time. Its token fences: of an agent that was too slow nothing
counts any more, because whoever picks the task next gets another token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Final, NamedTuple
from uuid import UUID

from producer.records import JobRecord, Transition
from shared.kinds.task import TASK, PickOrder
from shared.messages import MAX_EXPLANATION_LENGTH, MAX_REASON_LENGTH, Report
from shared.outcomes import Cancelled, Failed, OutcomeName, Succeeded, outcome_name
from shared.retry import RetryPolicy, can_retry, wait_seconds
from shared.states import JobState

LEASE_EXPIRED: Final = "lease_expired"
"""The reason of an attempt whose agent neither ended it nor extended its lease in time."""
MAX_LEASE_SECONDS: Final = 86_400

_CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class PickRequest:
    """An agent asks for up to `limit` tasks of a queue of its project, each for `lease_seconds`."""

    queue: str
    agent: str
    limit: int = 1
    lease_seconds: float = 60.0
    order: PickOrder = PickOrder.OLDEST
    project: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class PickedTask:
    """A task that is running now, in its attempt `job.attempt`; `token` proves the lease."""

    job: JobRecord
    token: str
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """What an agent holds. When a person wants the task to end, its agent stops and ends it as cancelled."""

    leased_until: datetime
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """What became of a task whose lease ran out."""

    transition: Transition
    queue: str


class TaskQueue(NamedTuple):
    """A task queue: each project has its own of a name."""

    project: str
    queue: str


@dataclass(frozen=True, slots=True)
class QueueLength:
    """How many tasks of a queue wait, wait for another attempt, and are held; when the oldest was created.

    In all projects together.
    """

    queue: str
    ready: int = 0
    delayed: int = 0
    running: int = 0
    oldest_ready_at: datetime | None = None


TaskEnd = Succeeded | Failed | Cancelled


@dataclass(frozen=True, slots=True)
class FinishRequest:
    """An agent ends the task that it holds with a token, as it says; `project` says which tasks it sees."""

    job_id: UUID
    token: str
    end: TaskEnd
    project: str | None = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class TaskStanding:
    """Where a locked task is; `agent`, `started_at`, `outcome`, `attempt_reason` are of its last attempt."""

    id: UUID
    kind: str
    state: JobState
    run: int
    attempt: int
    retry: RetryPolicy
    queue: str | None
    token: str | None
    leased_until: datetime | None
    cancel_requested_at: datetime | None
    agent: str
    started_at: datetime | None
    outcome: OutcomeName | None
    attempt_reason: str | None

    def is_held_by(self, token: str, now: datetime) -> bool:
        """Return whether the token is that of a lease that has not run out."""
        return self._why_not_held(token, now) is None

    def is_ended_by(self, token: str, end: TaskEnd) -> bool:
        """Return whether this token has ended the attempt just so: a lost answer may be asked for again."""
        return (
            self.state is not JobState.RUNNING
            and self._is_mine(token)
            and self.outcome is not None
            and self.outcome is outcome_name(end)
        )

    def refusal(self, token: str, now: datetime) -> str:
        """Return, in a sentence, why the token is good for nothing any more."""
        return self._why_not_held(token, now) or "The lease is held."

    def _why_not_held(self, token: str, now: datetime) -> str | None:
        if self.state is not JobState.RUNNING:
            return self._why_over(token)
        if not self._is_mine(token):
            return (
                f"The token is not that of the lease under which attempt {self.attempt} runs now: "
                "its own lease has ended, or never was."
            )
        if self.leased_until is None or self.leased_until <= now:
            return f"The lease ran out{_at(self.leased_until)}; the task goes to whoever picks it next."
        return None

    def _why_over(self, token: str) -> str:
        if self._is_mine(token) and self.outcome is not None:
            return (
                f"With this token attempt {self.attempt} ended as {self.outcome}; the task is {self.state}."
            )
        if self.attempt_reason == LEASE_EXPIRED:
            return f"The last lease ran out; the task is {self.state}."
        return f"Nobody holds a lease: the task is {self.state}."

    def _is_mine(self, token: str) -> bool:
        return self.token is not None and compare_digest(self.token.encode(), token.encode(errors="replace"))


def ended_report(task: TaskStanding, end: TaskEnd, *, now: datetime, random: Callable[[], float]) -> Report:
    """Return the report of an attempt that its agent ended.

    A failure that may pass is tried again after the wait of the retry policy, to the second; when a person
    wants the task to end, no failure is: programs that are stopped look as if they had failed.

    Args:
        random: Gives a float in [0, 1), for the jitter.
    """
    match end:
        case Succeeded(result):
            return _report(task, JobState.SUCCEEDED, now, outcome=outcome_name(end), result=result)
        case Failed(reason, explanation, transient, retry_after_seconds, result):
            is_unwanted = task.cancel_requested_at is not None
            said = f"Cancelled. {explanation}" if is_unwanted else explanation
            failed = _report(
                task,
                JobState.CANCELLED if is_unwanted else JobState.PARKED,
                now,
                outcome=outcome_name(end),
                reason=reason[:MAX_REASON_LENGTH],
                explanation=said[:MAX_EXPLANATION_LENGTH],
                result=result,
            )
            if is_unwanted or not transient or not can_retry(task.retry, task.attempt):
                return failed
            wait = wait_seconds(
                task.retry, task.attempt, retry_after_seconds=retry_after_seconds, random=random
            )
            return _delayed(failed, wait, now)
        case Cancelled(result):
            return _report(
                task,
                JobState.CANCELLED,
                now,
                outcome=outcome_name(end),
                reason=_CANCELLED,
                explanation=f"Agent {task.agent} ended it as cancelled.",
                result=result,
            )


def expired_report(task: TaskStanding, *, now: datetime) -> Report:
    """Return the report of an attempt whose lease ran out. The next follows at once: it has waited."""
    ended_at = min(task.leased_until or now, now)
    said = f"Agent {task.agent} held it until {_time(ended_at)}, and had not ended it by then."
    if task.cancel_requested_at is not None:
        return _report(
            task,
            JobState.CANCELLED,
            ended_at,
            outcome=OutcomeName.CANCELLED,
            reason=_CANCELLED,
            explanation=f"Cancelled. {said}",
        )
    failed = _report(
        task,
        JobState.PARKED,
        ended_at,
        outcome=OutcomeName.FAILED_TRANSIENT,
        reason=LEASE_EXPIRED,
        explanation=said,
    )
    return _delayed(failed, 0.0, now) if can_retry(task.retry, task.attempt) else failed


def _report(
    task: TaskStanding,
    state: JobState,
    ended_at: datetime,
    *,
    outcome: OutcomeName | None,
    reason: str | None = None,
    explanation: str | None = None,
    result: dict[str, object] | None = None,
) -> Report:
    return Report(
        job_id=task.id,
        kind=TASK,
        run=task.run,
        attempt=task.attempt,
        state=state,
        started_at=task.started_at,
        ended_at=ended_at,
        outcome=outcome,
        reason=reason,
        explanation=explanation,
        result=None if result is None else {**result, "agent": task.agent},
        worker=task.agent,
    )


def _delayed(failed: Report, seconds: float, now: datetime) -> Report:
    due_at = now + timedelta(seconds=seconds)
    return failed.model_copy(update={"state": JobState.DELAYED, "wait_seconds": seconds, "due_at": due_at})


def _at(at: datetime | None) -> str:
    return f" at {_time(at)}" if at else ""


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
