"""How the writer of jobs ends when the database does not answer."""

import asyncio
import threading
import time
from typing import Any, cast

import pytest

from producer.api import writer as writers
from producer.api.writer import JobWriter
from producer.store.database import Database
from shared.errors import StoreUnavailable
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
