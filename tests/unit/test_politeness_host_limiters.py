"""Waiting at the limiters, and letting jobs in: real waits of some milliseconds, no network."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from consumer.politeness import host_limiters as limiters_module
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiter import PermitRequest, Priority, Refusal
from consumer.politeness.host_limiters import MAX_WAIT_SECONDS, FirstPermit, HostLimiters, Permit
from shared.clock import utc_now
from shared.hosts import HostLimit, NamedLimit
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred

PREFETCH = {Lane.INTERACTIVE: 20, Lane.BULK: 100}


def make_request() -> PermitRequest:
    return PermitRequest(Priority.BULK, 5.0)


def make_job(url: str = "http://example.com/", **fields: Any) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={"url": url}, **fields)


async def permit_of(limiters: HostLimiters, host: str = "a.example") -> Permit:
    permit = await limiters.permit(host, make_request())
    assert isinstance(permit, Permit)
    return permit


async def test_a_permit_that_ends_starts_the_next() -> None:
    limiters = HostLimiters(HostLimit(1))
    first = await permit_of(limiters)
    second = asyncio.create_task(permit_of(limiters))
    await asyncio.sleep(0)
    assert not second.done()

    first.release()
    first.release()

    async with asyncio.timeout(5):
        (await second).release()


async def test_a_rate_starts_the_next_by_itself() -> None:
    limiters = HostLimiters(HostLimit(10, 50))
    loop = asyncio.get_running_loop()
    started = loop.time()

    async with asyncio.timeout(5):
        for _ in range(4):
            (await permit_of(limiters)).release()

    assert loop.time() - started >= 3 / 50


async def test_a_job_that_is_cancelled_while_it_waits_leaves_its_place() -> None:
    limiters = HostLimiters(HostLimit(1))
    first = await permit_of(limiters)
    cancelled, patient = (asyncio.create_task(permit_of(limiters)) for _ in range(2))
    await asyncio.sleep(0)

    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    first.release()

    async with asyncio.timeout(5):
        (await patient).release()


@pytest.mark.parametrize("released_first", [True, False])
async def test_a_job_that_is_cancelled_as_its_permit_comes_gives_it_back(*, released_first: bool) -> None:
    limiters = HostLimiters(HostLimit(1))
    first = await permit_of(limiters)
    cancelled = asyncio.create_task(permit_of(limiters))
    await asyncio.sleep(0)

    for step in (first.release, cancelled.cancel)[:: 1 if released_first else -1]:
        step()
    await asyncio.gather(cancelled, return_exceptions=True)

    async with asyncio.timeout(5):
        (await permit_of(limiters)).release()


async def test_hosts_do_not_share_a_limiter_and_have_limits_of_their_own() -> None:
    limiters = HostLimiters(HostLimit(1), [NamedLimit.parse("b.example=2:0")])

    permits = [await permit_of(limiters, host) for host in ("a.example", "b.example", "b.example")]

    for permit in permits:
        permit.release()


async def test_hosts_are_forgotten_but_never_one_with_somebody_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiters_module, "MAX_HOSTS", 10)
    limiters = HostLimiters(HostLimit(1))
    held = await permit_of(limiters, "held.example")
    for number in range(100):
        (await permit_of(limiters, f"{number}.example")).release()

    assert len(limiters._entries) == 10
    assert "held.example" in limiters._entries
    held.release()


@asynccontextmanager
async def admitted(admission: Admission, job: JobMessage) -> AsyncIterator[Deferred | None]:
    """Hold the permit of an attempt while inside, as a worker does."""
    permit = await admission.admit(job)
    if isinstance(permit, Deferred):
        yield permit
        return
    with permit:
        yield None


async def test_an_attempt_begins_with_a_permit_that_its_first_request_takes() -> None:
    limiters = HostLimiters(HostLimit(1))
    admission = Admission(limiters, prefetch_by_lane=PREFETCH)

    first = await admission.admit(make_job())
    assert isinstance(first, FirstPermit)
    with first:
        assert first.take("other.example") is None
        permit = first.take("example.com")
        assert permit is not None
        assert first.take("example.com") is None
        permit.release()
    assert first.take("example.com") is None

    async with admitted(admission, make_job()) as deferred:
        assert deferred is None  # Nobody takes the permit, and it is given back all the same.
    async with asyncio.timeout(5), admitted(admission, make_job()) as deferred:
        assert deferred is None


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (2, 0.5),
        (10**400, MAX_WAIT_SECONDS),
        (-(10**400), MAX_WAIT_SECONDS),
        (1e308, MAX_WAIT_SECONDS),
        (float("nan"), MAX_WAIT_SECONDS),
        (-1, MAX_WAIT_SECONDS),
        ("2", MAX_WAIT_SECONDS),
    ],
    ids=lambda value: str(value)[:8],
)
async def test_a_later_request_waits_for_a_quarter_of_the_time_whatever_a_stranger_asks_for(
    asked: Any, seconds: float
) -> None:
    job = make_job()
    job = job.model_copy(update={"args": {**job.args, "timeout_seconds": asked}})

    permit = await Admission(HostLimiters(HostLimit(1)), prefetch_by_lane=PREFETCH).admit(job)

    assert isinstance(permit, FirstPermit)
    with permit:
        assert permit.max_wait_seconds == seconds


async def test_a_job_without_a_permit_soon_is_deferred_with_a_sentence_that_names_the_host() -> None:
    limiters = HostLimiters(HostLimit(1, 0.1))
    admission = Admission(limiters, prefetch_by_lane=PREFETCH)

    async with admitted(admission, make_job()) as first, admitted(admission, make_job()) as deferred:
        assert first is None
        assert isinstance(deferred, Deferred)

    assert deferred.reason is DeferralReason.BUSY
    assert deferred.explanation == "Deferred, because example.com is at its limit for this worker."
    assert 9 < deferred.seconds < 21


@pytest.mark.parametrize(
    "job",
    [
        make_job("not a url"),
        JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={"url": 7}),
        make_job(expires_at=utc_now() - timedelta(seconds=1)),
    ],
)
async def test_what_cannot_run_meets_no_limiter(job: JobMessage) -> None:
    limiters = HostLimiters(HostLimit(1))
    held = await permit_of(limiters, "example.com")

    async with (
        asyncio.timeout(5),
        admitted(Admission(limiters, prefetch_by_lane=PREFETCH), job) as deferred,
    ):
        assert deferred is None

    held.release()


async def test_jobs_of_one_host_that_wait_leave_slot_for_those_of_others() -> None:
    limiters = HostLimiters(HostLimit(1))
    admission = Admission(limiters, prefetch_by_lane=PREFETCH)
    held = [await permit_of(limiters, host) for host in ("a.example", "b.example")]

    async def come(host: str) -> Deferred | None:
        async with admitted(admission, make_job(f"http://{host}/", deferrals=1)) as deferred:
            return deferred

    coming = [asyncio.create_task(come("a.example")) for _ in range(100)]
    coming += [asyncio.create_task(come("b.example")) for _ in range(100)]
    for _ in range(5):
        await asyncio.sleep(0)

    waiting = sum(not task.done() for task in coming)
    assert 30 <= waiting <= 50
    for permit in held:
        permit.release()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*coming)
    assert outcomes.count(None) == waiting


async def test_a_refusal_says_how_long() -> None:
    limiters = HostLimiters(HostLimit(1, 0.01))
    permit = await permit_of(limiters)

    refusal = await limiters.permit("a.example", make_request())

    assert isinstance(refusal, Refusal) and refusal.seconds > 50
    permit.release()
