"""What the writers of groups answer, and how they end when the database does not."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from producer.api import writer as writers
from producer.api.writer import GroupWriter, JobWriter
from producer.store.database import Connection, Database
from shared.errors import JobNotFound, RetrieverError, StoreUnavailable
from tests.support.factories import make_job


class Hanging:
    """A database that does not answer until it is let go."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.let_go = threading.Event()

    def write(self, *_: object) -> Any:
        self.is_asked.set()
        self.let_go.wait(30)
        raise StoreUnavailable("away")


async def test_closing_ends_in_time_although_the_queue_is_full_and_the_database_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writers, "CLOSE_TIMEOUT_SECONDS", 0.1)
    database = Hanging()
    writer = JobWriter(cast("Database", database), max_waiting_jobs=1)
    writer.start()
    first = asyncio.create_task(writer.write(make_job()))
    await asyncio.to_thread(database.is_asked.wait, 10)
    second = asyncio.create_task(writer.write(make_job()))
    await asyncio.sleep(0)
    began = time.monotonic()

    async with asyncio.timeout(10):
        await asyncio.to_thread(writer.close)
        with pytest.raises(StoreUnavailable, match="stopping"):
            await second

    assert time.monotonic() - began < 10
    database.let_go.set()
    with pytest.raises(StoreUnavailable, match="away"):
        await first


class Direct:
    """A database that only calls, and not before it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def write(self, change: Any, *args: object) -> Any:
        self.let_go.wait(30)
        return change(None, *args)


async def test_changes_that_wait_share_a_transaction_and_an_error_answers_only_the_one_that_came_to_it() -> (
    None
):
    groups: list[Sequence[int]] = []

    def halve(_connection: Connection, numbers: Sequence[int]) -> list[int | RetrieverError]:
        groups.append(numbers)
        return [JobNotFound(f"{number} is odd") if number % 2 else number // 2 for number in numbers]

    database = Direct()
    writer = GroupWriter[int, int](cast("Database", database), halve, of="numbers", max_waiting=10)
    requests = [asyncio.create_task(writer.write(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    writer.start()
    database.let_go.set()

    answers = await asyncio.gather(*requests, return_exceptions=True)

    assert groups == [[2, 3, 4]]
    assert (answers[0], str(answers[1]), answers[2]) == (1, "3 is odd", 2)
    await asyncio.to_thread(writer.close)


async def test_a_change_whose_request_was_cancelled_before_is_not_made() -> None:
    made: list[int] = []

    def make(_connection: Connection, numbers: Sequence[int]) -> list[int]:
        made.extend(numbers)
        return list(numbers)

    database = Direct()
    database.let_go.set()
    writer = GroupWriter[int, int](cast("Database", database), make, of="numbers", max_waiting=10)
    gone, stays = (asyncio.create_task(writer.write(number)) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)

    writer.start()

    assert await stays == 2
    assert made == [2]
    await asyncio.to_thread(writer.close)
