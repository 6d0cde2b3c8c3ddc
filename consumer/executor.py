"""Running one attempt: its handler, under a time limit, with an outcome as a value."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from consumer.deadlines import time_limit
from consumer.politeness.host_limiters import NO_PERMIT, FirstPermit
from shared.clock import utc_now
from shared.kinds.registry import KINDS, OVERTIME_SECONDS, handler_seconds
from shared.messages import HostWord, JobMessage
from shared.outcomes import EXPIRED, Failed, Outcome
from shared.redaction import MASK, masked_places

logger = logging.getLogger(__name__)

BoundHandler = Callable[[BaseModel, JobMessage, FirstPermit], Awaitable[Outcome]]


class Attempt(NamedTuple):
    """One execution of a job, or one that was cancelled before it started."""

    started_at: datetime | None
    ended_at: datetime
    outcome: Outcome
    asked: tuple[HostWord, ...] | None = None


class Executor:
    """Runs attempts of the kinds it has handlers for."""

    def __init__(self, handlers: Mapping[str, BoundHandler]) -> None:
        """Make an executor; `handlers` are bound to whatever they need."""
        self._handlers = handlers

    def refusal_of(self, job: JobMessage) -> Failed | None:
        """Return the end of a job of a kind that has no handler here; None when there is one."""
        return None if job.kind in self._handlers else _unknown_kind(job)

    async def execute(self, job: JobMessage, first_permit: FirstPermit = NO_PERMIT) -> Attempt:
        """Return what one attempt came to. Raises nothing but CancelledError, when the worker stops."""
        started_at = utc_now()
        if job.expires_at is not None and started_at >= job.expires_at:
            return Attempt(started_at, started_at, _expired(job, job.expires_at))
        handler, args = self._handlers.get(job.kind), _arguments(job)
        if handler is None:
            outcome: Outcome = _unknown_kind(job)
        elif isinstance(args, Failed):
            outcome = args
        else:
            outcome = await _run(handler, args, job, first_permit)
        return Attempt(started_at, utc_now(), outcome, first_permit.asked)


def _arguments(job: JobMessage) -> BaseModel | Failed:
    kind = KINDS.get(job.kind)
    if kind is None:
        return _unknown_kind(job)
    if (place := _masked_place(job.args)) is not None:
        return _masked(place)
    try:
        return kind.args_model.model_validate(job.args)
    except ValidationError as error:
        return _invalid_arguments(error)


def _masked_place(args: Mapping[str, Any]) -> str | None:
    """Return where a mask stands for what a job sends; None for most jobs, after a look at their URL."""
    if MASK not in str(args.get("url")) and not _MAY_BE_MASKED & args.keys():
        return None
    return next(masked_places(args, "/args"), None)


_MAY_BE_MASKED = frozenset({"headers", "json", "env"})


def _masked(place: str) -> Failed:
    said = f"{place}: what was hidden is lost, so nothing was sent. Redrive the job with it written out."
    return Failed("arguments_masked", said, transient=False)


def _unknown_kind(job: JobMessage) -> Failed:
    return Failed("kind_unknown", f"This worker has no handler for kind {job.kind!r}.", transient=False)


def _expired(job: JobMessage, expires_at: datetime) -> Failed:
    deadline = expires_at.isoformat(timespec="seconds")
    said = f"Its deadline, {deadline}, passed before attempt {job.attempt} could start."
    return Failed(EXPIRED, said, transient=False)


async def _run(handler: BoundHandler, args: BaseModel, job: JobMessage, first_permit: FirstPermit) -> Outcome:
    limit_seconds = handler_seconds(args) + OVERTIME_SECONDS
    try:
        with time_limit(limit_seconds):
            return await handler(args, job, first_permit)
    except TimeoutError:
        return Failed("time_limit", f"Stopped after {limit_seconds:g} s.", transient=True)
    except Exception:  # One of the three edges: a handler's bug is a failed attempt, not a dead worker.
        facts = {"job_id": str(job.id), "attempt": job.attempt, "kind": job.kind}
        logger.exception("handler_crashed", extra=facts)
        said = "The handler failed in an unexpected way; see the worker's log."
        return Failed("handler_crashed", said, transient=True)


def _invalid_arguments(error: ValidationError) -> Failed:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = "/".join(str(part) for part in first["loc"])
    return Failed(
        "arguments_invalid", f"The arguments are not valid: {place}: {first['msg']}", transient=False
    )
