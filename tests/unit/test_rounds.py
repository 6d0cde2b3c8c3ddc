"""Rounds of work: when one ends, when the next begins, and what one says that could not do its part."""

import asyncio
from collections.abc import Mapping

import pytest

from consumer import rounds
from consumer.rounds import Rounds, seconds_to_next
from shared.errors import DrainGivenUp, DrainStopped
from shared.health import Probe


class Worker:
    """Has so many jobs to do in each round, one a look; can be unwell."""

    def __init__(self, *jobs_by_round: int) -> None:
        self.is_well = True
        self.told: list[str] = []
        self.looks = 0
        self.looked = asyncio.Event()
        self._jobs_by_round = list(jobs_by_round)

    @property
    def probes(self) -> Mapping[str, Probe]:
        return {"publisher": lambda: self.is_well, "pauses": lambda: True}

    async def has_nothing_to_do(self) -> bool:
        self.looks += 1
        self.looked.set()
        if not self._jobs_by_round:
            return True
        if self._jobs_by_round[0] == 0:
            del self._jobs_by_round[0]
            return True
        self._jobs_by_round[0] -= 1
        return False

    def rest(self) -> None:
        self.told.append("rest")

    def resume(self) -> None:
        self.told.append("resume")


@pytest.fixture(autouse=True)
def looks_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_LOOK_AGAIN_SECONDS", 0.001)


async def test_a_single_round_ends_when_nothing_is_left() -> None:
    worker, single = Worker(3), Rounds(every_seconds=None)

    await single.run(worker, asyncio.Event())
    single.check()

    assert (worker.looks, worker.told) == (4, [])


async def test_a_single_round_that_is_stopped_before_its_end_says_so() -> None:
    worker, single, stop = Worker(1_000_000), Rounds(every_seconds=None), asyncio.Event()
    running = asyncio.create_task(single.run(worker, stop))
    await worker.looked.wait()
    stop.set()
    await running

    with pytest.raises(DrainStopped, match="before the queues were empty"):
        single.check()


async def test_a_single_round_does_not_wait_for_the_broker_for_ever_and_says_what_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds, "_PATIENCE_SECONDS", 0.02)
    worker, single = Worker(1_000_000), Rounds(every_seconds=None, reason=lambda: "Nothing listens there.")
    worker.is_well = False

    async with asyncio.timeout(20):
        await single.run(worker, asyncio.Event())

    with pytest.raises(DrainGivenUp, match=r"Nothing listens there\. What fails: publisher\.") as raised:
        single.check()
    assert "pauses" not in str(raised.value)


async def test_a_broker_that_is_back_in_time_is_no_reason_to_give_up() -> None:
    worker, single = Worker(2), Rounds(every_seconds=None)
    worker.is_well = False

    await single.run(worker, asyncio.Event())

    single.check()


async def test_a_worker_with_a_cadence_rests_between_rounds_and_waits_for_the_broker_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds, "_PATIENCE_SECONDS", 0.0)
    worker, again, stop = Worker(2, 2, 1_000_000), Rounds(every_seconds=0.01), asyncio.Event()
    worker.is_well = False
    running = asyncio.create_task(again.run(worker, stop))
    async with asyncio.timeout(20):
        while worker.told.count("resume") < 2:
            worker.looked.clear()
            await worker.looked.wait()
    stop.set()
    await running

    again.check()
    assert worker.told == ["rest", "resume", "rest", "resume"]


async def test_a_worker_that_rests_stops_at_once() -> None:
    worker, again, stop = Worker(), Rounds(every_seconds=3_600), asyncio.Event()
    running = asyncio.create_task(again.run(worker, stop))
    await worker.looked.wait()
    stop.set()

    async with asyncio.timeout(20):
        await running

    assert worker.told == ["rest"]


@pytest.mark.parametrize(
    ("passed", "rest"), [(0.0, 600.0), (1.0, 599.0), (599.5, 0.5), (600.0, 600.0), (1_250.0, 550.0)]
)
def test_rounds_keep_their_cadence_from_the_first_and_leave_out_what_they_missed(
    passed: float, rest: float
) -> None:
    assert seconds_to_next(passed, every_seconds=600) == pytest.approx(rest)
