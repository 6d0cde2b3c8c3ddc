"""Running one attempt: whatever a handler does, an outcome comes back."""

import asyncio
import logging
import uuid
from datetime import timedelta

import pytest
from pydantic import BaseModel

from consumer.executor import Executor
from consumer.politeness.host_limiters import FirstPermit
from shared.clock import utc_now
from shared.messages import JobMessage
from shared.outcomes import Failed, Outcome, Succeeded, outcome_name

URL = "http://example.com/"


def make_job(*, kind: str = "check", **args: object) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind=kind, args={"url": URL, **args})


async def test_the_handler_gets_validated_arguments_and_its_outcome_comes_back() -> None:
    async def handler(args: BaseModel, _: JobMessage, __: FirstPermit) -> Outcome:
        return Succeeded({"seen": args.model_dump()["url"]})

    attempt = await Executor({"check": handler}).execute(make_job())

    assert attempt.outcome == Succeeded({"seen": URL})
    assert attempt.started_at is not None and attempt.started_at <= attempt.ended_at


async def test_a_handler_that_raises_is_a_failed_attempt_that_may_be_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(_: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        raise KeyError("a bug")

    with caplog.at_level(logging.ERROR):
        attempt = await Executor({"check": handler}).execute(make_job())

    assert isinstance(attempt.outcome, Failed)
    assert (attempt.outcome.reason, attempt.outcome.transient) == ("handler_crashed", True)
    assert "a bug" not in attempt.outcome.explanation
    assert "a bug" in caplog.text


async def test_a_handler_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.executor.OVERTIME_SECONDS", 0.0)

    async def handler(_: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        await asyncio.Event().wait()
        return Succeeded({})

    attempt = await Executor({"check": handler}).execute(make_job(timeout_seconds=0.1))

    assert isinstance(attempt.outcome, Failed)
    assert (attempt.outcome.reason, attempt.outcome.transient) == ("time_limit", True)


async def test_arguments_that_no_longer_validate_fail_for_good_and_name_the_field() -> None:
    async def handler(_: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        return Succeeded({})

    attempt = await Executor({"check": handler}).execute(make_job(method="PUT"))

    assert isinstance(attempt.outcome, Failed)
    assert (attempt.outcome.reason, attempt.outcome.transient) == ("arguments_invalid", False)
    assert "method" in attempt.outcome.explanation


async def test_a_kind_without_a_handler_fails_for_good() -> None:
    attempt = await Executor({}).execute(make_job(kind="nosuch"))

    assert isinstance(attempt.outcome, Failed)
    assert (attempt.outcome.reason, attempt.outcome.transient) == ("kind_unknown", False)


@pytest.mark.parametrize(("seconds_left", "outcome"), [(60, "succeeded"), (-1, "failed_permanent")])
async def test_an_attempt_starts_only_before_its_deadline(seconds_left: int, outcome: str) -> None:
    async def handler(_: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        return Succeeded({})

    job = make_job().model_copy(update={"expires_at": utc_now() + timedelta(seconds=seconds_left)})

    attempt = await Executor({"check": handler}).execute(job)

    assert outcome_name(attempt.outcome) == outcome
    if isinstance(attempt.outcome, Failed):
        assert (attempt.outcome.reason, attempt.ended_at) == ("expired", attempt.started_at)
        # Earlier attempts may well have started in time.
        assert attempt.outcome.explanation.endswith("passed before attempt 1 could start.")


async def test_being_cancelled_is_no_outcome() -> None:
    started = asyncio.Event()

    async def handler(_: BaseModel, __: JobMessage, ___: FirstPermit) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        return Succeeded({})

    task = asyncio.create_task(Executor({"check": handler}).execute(make_job()))
    await started.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
