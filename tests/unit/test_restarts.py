"""A service that fails is started anew, with a pause that grows; others know nothing of it."""

import asyncio
import logging

import pytest

from producer.ledger.metrics import LedgerMetrics
from producer.ledger.restarts import Restarts
from tests.support.virtual_time import run_in_virtual_time


class Faulty:
    """A service that fails some times, then runs until cancelled, or ends."""

    def __init__(self, failures: int, *, well_seconds: float | None = None) -> None:
        self.began: list[float] = []
        self._failures = failures
        self._well_seconds = well_seconds

    async def run(self) -> None:
        self.began.append(asyncio.get_running_loop().time())
        if len(self.began) <= self._failures:
            raise OverflowError("date value out of range")
        if self._well_seconds is not None:
            await asyncio.sleep(self._well_seconds)


def test_a_service_that_fails_is_started_again_after_pauses_that_grow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faulty, metrics = Faulty(failures=8), LedgerMetrics()

    with caplog.at_level(logging.ERROR):
        run_in_virtual_time(Restarts(metrics).of("scheduler", faulty.run)())

    pauses = [later - earlier for earlier, later in zip(faulty.began, faulty.began[1:], strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert metrics.service_failures.labels("scheduler")._value.get() == 8
    assert {entry.message for entry in caplog.records} == {"service_failed"}
    assert all(entry.exc_info for entry in caplog.records)


async def test_a_service_beside_one_that_fails_goes_on_and_both_end_when_cancelled() -> None:
    restarts = Restarts(LedgerMetrics())
    faulty, well = Faulty(failures=1_000), Faulty(failures=0, well_seconds=3_600)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(restarts.of("any", each.run)()) for each in (faulty, well)]
        while not (faulty.began and well.began):
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()

    assert all(task.cancelled() for task in tasks)
