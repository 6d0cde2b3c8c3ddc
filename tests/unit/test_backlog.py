"""The backlog of a worker that runs fewer jobs at once than it holds: who is next, and who goes back."""

import asyncio
import uuid
from uuid import UUID

import pytest

from consumer import backlog
from consumer.backlog import OVERDUE_SECONDS, Order, SlotAdmission, Slots, Waiting, rank, wait_limit_seconds
from consumer.politeness.address_limiters import AddressLimiters
from consumer.politeness.admission import Admission
from consumer.politeness.host_limiters import FirstPermit, HostLimiters
from shared.hosts import HostLimit, host_key
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.outcomes import DeferralReason, Deferred


class Clock:
    """Seconds that grow when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def job(*, lane: Lane = Lane.BULK, id: UUID | None = None, seconds: int = 10) -> JobMessage:  # noqa: A002
    args = {"url": "http://example.com/", "timeout_seconds": seconds}
    return JobMessage(id=id or new_id(), kind="check", lane=lane, args=args)


async def until_quiet() -> None:
    """Let everything run that can run without the world outside."""
    for _ in range(20):
        await asyncio.sleep(0)


class Jobs:
    """Jobs that take a slot, note that they began, and end when told to."""

    def __init__(self, slots: Slots) -> None:
        self.began: list[JobMessage] = []
        self.deferred: dict[UUID, Deferred] = {}
        self._slots = slots
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._ends: dict[UUID, asyncio.Event] = {}

    async def come(self, *jobs: JobMessage) -> None:
        for each in jobs:
            self._ends[each.id] = asyncio.Event()
            self._tasks[each.id] = asyncio.create_task(self._work(each))
        await until_quiet()

    async def end(self, each: JobMessage) -> None:
        self._ends[each.id].set()
        await until_quiet()

    async def end_all(self) -> None:
        """End each as soon as it begins."""
        for event in self._ends.values():
            event.set()
        await asyncio.gather(*self._tasks.values())

    def task(self, each: JobMessage) -> "asyncio.Task[None]":
        return self._tasks[each.id]

    async def _work(self, each: JobMessage) -> None:
        waiting = await self._slots.wait(each)
        if isinstance(waiting, Deferred):
            self.deferred[each.id] = waiting
            return
        self.began.append(each)
        await self._ends[each.id].wait()
        self._slots.end(waiting)


@pytest.fixture(autouse=True)
def gathers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_GATHER_SECONDS", 0.0)


async def test_no_more_run_at_once_than_there_are_slots() -> None:
    work = Jobs(Slots(2))
    first, second, third = job(), job(), job()
    await work.come(first, second, third)
    assert work.began == [first, second]

    await work.end(second)

    assert work.began == [first, second, third]
    await work.end_all()


@pytest.mark.parametrize("order", Order)
async def test_the_newest_or_the_oldest_of_those_in_hand_is_next(order: Order) -> None:
    work = Jobs(Slots(1, order=order))
    jobs = [job() for _ in range(6)]
    # They come as they please.
    came = [jobs[at] for at in (3, 0, 5, 1, 4, 2)]
    await work.come(*came)
    await work.end_all()

    began = work.began if order is Order.NEWEST else work.began[1:]
    assert began == sorted(began, key=lambda each: each.id, reverse=order is Order.NEWEST)
    assert len(work.began) == 6


async def test_the_interactive_lane_goes_first() -> None:
    work = Jobs(Slots(1))
    running, bulk, interactive = job(), job(), job(lane=Lane.INTERACTIVE)
    await work.come(running, bulk, interactive)
    await work.end_all()

    assert work.began == [running, interactive, bulk]


async def test_a_job_that_has_waited_for_ten_minutes_is_next_whatever_came_after_it() -> None:
    clock = Clock()
    work = Jobs(Slots(1, order=Order.NEWEST, clock=clock))
    running, old = job(), job()
    await work.come(running)
    await work.come(old)
    clock.now += OVERDUE_SECONDS
    newer = job(lane=Lane.INTERACTIVE)
    await work.come(newer)

    await work.end_all()

    assert work.began == [running, old, newer]


def test_a_job_whose_id_has_no_time_counts_as_created_when_it_came() -> None:
    before, strangers = job(), job(id=uuid.uuid4())
    came_at_seconds = 4_000_000_000.0

    newest = [rank(each, Order.NEWEST, came_at_seconds=came_at_seconds) for each in (before, strangers)]
    oldest = [rank(each, Order.OLDEST, came_at_seconds=came_at_seconds) for each in (before, strangers)]

    assert newest[1] < newest[0]
    assert oldest[0] < oldest[1]


def test_no_job_waits_so_long_that_the_broker_takes_it_back_during_its_attempt() -> None:
    short, long = wait_limit_seconds(job(seconds=10)), wait_limit_seconds(job(seconds=1_500))

    assert short + 10 < 1_800 and long + 1_500 < 1_800
    assert short > OVERDUE_SECONDS and long > 0


async def test_a_job_that_finds_no_slot_in_time_goes_back() -> None:
    work = Jobs(Slots(1, max_wait_seconds=0.0))
    running, waiting = job(), job()
    await work.come(running)
    await work.come(waiting)
    await work.task(waiting)

    deferred = work.deferred[waiting.id]
    assert deferred.reason is DeferralReason.WORKER_BUSY
    assert "runs 1 at once" in deferred.explanation
    await work.end_all()


async def test_a_waiting_job_that_is_cancelled_leaves_and_takes_no_slot() -> None:
    work = Jobs(Slots(1))
    running, cancelled, next_one = job(), job(), job()
    await work.come(running, cancelled, next_one)
    work.task(cancelled).cancel()
    await asyncio.gather(work.task(cancelled), return_exceptions=True)

    await work.end(running)

    assert work.began == [running, next_one]
    await work.end(next_one)


async def test_a_job_that_is_cancelled_in_the_moment_it_gets_its_slot_gives_the_slot_on() -> None:
    slots = Slots(1)
    running = await slots.wait(job())
    assert isinstance(running, Waiting)
    cancelled, next_one = (asyncio.create_task(slots.wait(job())) for _ in range(2))
    await until_quiet()

    slots.end(running)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)

    assert cancelled.cancelled()
    assert isinstance(await next_one, Waiting)


async def test_a_worker_that_stops_cancels_what_waits_and_what_comes_and_nothing_that_runs() -> None:
    slots = Slots(1)
    work = Jobs(slots)
    running, waiting, late = job(), job(), job()
    await work.come(running, waiting)

    slots.shut()
    await work.come(late)

    assert work.task(waiting).cancelled() and work.task(late).cancelled()
    await work.end(running)
    assert work.task(running).done() and not work.task(running).cancelled()


async def test_waiting_jobs_of_a_paused_queue_go_back_and_so_do_those_that_come() -> None:
    paused: set[Lane] = set()
    slots = Slots(1, is_paused=lambda _, lane: lane in paused)
    work = Jobs(slots)
    running, waiting, other, late = job(), job(), job(lane=Lane.INTERACTIVE), job()
    await work.come(running, waiting, other)

    paused.add(Lane.BULK)
    slots.put_back_paused()
    await work.come(late)
    await work.end_all()

    assert work.began == [running, other]
    assert {each.reason for each in work.deferred.values()} == {DeferralReason.QUEUE_PAUSED}
    assert set(work.deferred) == {waiting.id, late.id}
    assert "check is paused in lane bulk" in work.deferred[late.id].explanation


async def test_the_newest_of_those_that_come_together_is_first_at_an_idle_worker() -> None:
    work = Jobs(Slots(1, order=Order.NEWEST))
    first, second, third = job(), job(), job()
    await work.come(first, second, third)
    await work.end_all()

    assert work.began == [third, second, first]


async def test_a_job_that_waits_is_told_of_again_and_again_and_one_that_runs_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "_TELL_AFTER_SECONDS", 0.001)
    monkeypatch.setattr(backlog, "_TELL_AGAIN_SECONDS", 0.001)
    told: asyncio.Queue[tuple[UUID, Deferred]] = asyncio.Queue()
    work = Jobs(Slots(1, tell=lambda each, deferred: told.put_nowait((each.id, deferred))))
    running, waiting = job(), job()
    await work.come(running, waiting)

    async with asyncio.timeout(20):
        seen = [await told.get() for _ in range(2)]

    assert {each for each, _ in seen} == {waiting.id}
    assert {(each.reason, each.seconds) for _, each in seen} == {(DeferralReason.WORKER_BUSY, 60)}
    await work.end_all()


def admission(*, slots: int, host_concurrency: int = 8) -> SlotAdmission:
    inner = Admission(HostLimiters(HostLimit(host_concurrency, 0.0)), prefetch_by_lane=dict.fromkeys(Lane, 2))
    return SlotAdmission(inner, {"check": Slots(slots)})


async def test_an_attempt_has_its_slot_and_its_hosts_permit_until_it_ends() -> None:
    door = admission(slots=1)
    permit = await door.admit(job())
    assert isinstance(permit, FirstPermit)
    entering = asyncio.create_task(door.admit(job()))
    await until_quiet()

    with permit:
        taken = permit.take(host_key("http://example.com/") or "")
        assert taken is not None and not entering.done()
        taken.release()

    assert isinstance(await entering, FirstPermit)


async def test_an_attempt_with_a_slot_has_its_addresss_permit_and_can_be_given_back() -> None:
    addresses = AddressLimiters(HostLimit(1))
    inner = Admission(HostLimiters(), addresses, prefetch_by_lane=dict.fromkeys(Lane, 2))
    door = SlotAdmission(inner, {"check": Slots(1)})
    async with asyncio.timeout(20):
        for _ in range(2):
            permit = await door.admit(job(), address="203.0.113.7")
            assert isinstance(permit, FirstPermit) and permit.request is not None
            with permit:
                of_address = permit.take_address()
                assert of_address is not None and of_address.host == "203.0.113.7"
                of_address.release()


async def test_a_job_that_its_host_defers_gives_its_slot_on() -> None:
    door = admission(slots=1, host_concurrency=1)
    elsewhere = job().model_copy(update={"kind": "fetch"})
    # A kind without slots is let in at once, and has the only permit of the host.
    assert isinstance(await door.admit(elsewhere), FirstPermit)

    deferred = [await door.admit(job().model_copy(update={"deferrals": 0})) for _ in range(2)]

    assert [isinstance(each, Deferred) and each.reason for each in deferred] == [DeferralReason.BUSY] * 2
