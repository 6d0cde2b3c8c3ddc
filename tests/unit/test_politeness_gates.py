"""Waiting at the gates, and letting jobs in: real waits of some milliseconds, no network."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

import pytest

from consumer.politeness import gates as gates_module
from consumer.politeness.admission import Admission
from consumer.politeness.first_turn import take_first_turn
from consumer.politeness.gates import Gates, Turn
from consumer.politeness.ticket import Priority, Refusal, Ticket
from shared.clock import utc_now
from shared.hosts import HostLimit, NamedLimit
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred

PREFETCH = {Lane.INTERACTIVE: 20, Lane.BULK: 100}


def make_ticket() -> Ticket:
    return Ticket(Priority.BULK, 1.0, 5.0)


def make_job(url: str = "http://example.com/", **fields: Any) -> JobMessage:
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args={"url": url}, **fields)


async def turn_of(gates: Gates, host: str = "a.example") -> Turn:
    turn = await gates.turn(host, make_ticket())
    assert isinstance(turn, Turn)
    return turn


async def test_a_turn_that_ends_starts_the_next() -> None:
    gates = Gates(HostLimit(1))
    first = await turn_of(gates)
    second = asyncio.create_task(turn_of(gates))
    await asyncio.sleep(0)
    assert not second.done()

    first.release()
    first.release()

    async with asyncio.timeout(5):
        (await second).release()


async def test_a_rate_starts_the_next_by_itself() -> None:
    gates = Gates(HostLimit(10, 50))
    loop = asyncio.get_running_loop()
    started = loop.time()

    async with asyncio.timeout(5):
        for _ in range(4):
            (await turn_of(gates)).release()

    assert loop.time() - started >= 3 / 50


async def test_a_job_that_is_cancelled_while_it_waits_leaves_its_place() -> None:
    gates = Gates(HostLimit(1))
    first = await turn_of(gates)
    cancelled, patient = (asyncio.create_task(turn_of(gates)) for _ in range(2))
    await asyncio.sleep(0)

    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    first.release()

    async with asyncio.timeout(5):
        (await patient).release()


@pytest.mark.parametrize("released_first", [True, False])
async def test_a_job_that_is_cancelled_as_its_turn_comes_gives_it_back(*, released_first: bool) -> None:
    gates = Gates(HostLimit(1))
    first = await turn_of(gates)
    cancelled = asyncio.create_task(turn_of(gates))
    await asyncio.sleep(0)

    for step in (first.release, cancelled.cancel)[:: 1 if released_first else -1]:
        step()
    await asyncio.gather(cancelled, return_exceptions=True)

    async with asyncio.timeout(5):
        (await turn_of(gates)).release()


async def test_hosts_do_not_share_a_gate_and_have_limits_of_their_own() -> None:
    gates = Gates(HostLimit(1), [NamedLimit.parse("b.example=2:0")])

    turns = [await turn_of(gates, host) for host in ("a.example", "b.example", "b.example")]

    for turn in turns:
        turn.release()


async def test_hosts_are_forgotten_but_never_one_with_somebody_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_module, "MAX_HOSTS", 10)
    gates = Gates(HostLimit(1))
    held = await turn_of(gates, "held.example")
    for number in range(100):
        (await turn_of(gates, f"{number}.example")).release()

    assert len(gates._entries) == 10
    assert "held.example" in gates._entries
    held.release()


@asynccontextmanager
async def admitted(admission: Admission, job: JobMessage) -> AsyncIterator[Deferred | None]:
    """Hold the turn of an attempt while inside, as a worker does."""
    turn = await admission.admit(job)
    if isinstance(turn, Deferred):
        yield turn
        return
    with turn or nullcontext():
        yield None


async def test_an_attempt_begins_with_a_turn_that_its_first_request_takes() -> None:
    gates = Gates(HostLimit(1))
    admission = Admission(gates, prefetch_by_lane=PREFETCH)

    async with admitted(admission, make_job()) as deferred:
        assert deferred is None
        assert take_first_turn("other.example") is None
        turn = take_first_turn("example.com")
        assert turn is not None
        assert take_first_turn("example.com") is None
        turn.release()
    assert take_first_turn("example.com") is None

    async with admitted(admission, make_job()) as deferred:
        assert deferred is None  # Nobody takes the turn, and it is given back all the same.
    async with asyncio.timeout(5), admitted(admission, make_job()) as deferred:
        assert deferred is None


async def test_a_job_without_a_turn_soon_is_deferred_with_a_sentence_that_names_the_host() -> None:
    gates = Gates(HostLimit(1, 0.1))
    admission = Admission(gates, prefetch_by_lane=PREFETCH)

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
async def test_what_cannot_run_meets_no_gate(job: JobMessage) -> None:
    gates = Gates(HostLimit(1))
    held = await turn_of(gates, "example.com")

    async with (
        asyncio.timeout(5),
        admitted(Admission(gates, prefetch_by_lane=PREFETCH), job) as deferred,
    ):
        assert deferred is None

    held.release()


async def test_jobs_of_one_host_that_wait_leave_seats_for_those_of_others() -> None:
    gates = Gates(HostLimit(1))
    admission = Admission(gates, prefetch_by_lane=PREFETCH)
    held = [await turn_of(gates, host) for host in ("a.example", "b.example")]

    async def come(host: str) -> Deferred | None:
        async with admitted(admission, make_job(f"http://{host}/", deferrals=1)) as deferred:
            return deferred

    coming = [asyncio.create_task(come("a.example")) for _ in range(100)]
    coming += [asyncio.create_task(come("b.example")) for _ in range(100)]
    for _ in range(5):
        await asyncio.sleep(0)

    waiting = sum(not task.done() for task in coming)
    assert 30 <= waiting <= 50
    for turn in held:
        turn.release()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*coming)
    assert outcomes.count(None) == waiting


async def test_a_refusal_says_how_long() -> None:
    gates = Gates(HostLimit(1, 0.01))
    turn = await turn_of(gates)

    refusal = await gates.turn("a.example", make_ticket())

    assert isinstance(refusal, Refusal) and refusal.seconds > 50
    turn.release()
