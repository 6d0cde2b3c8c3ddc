"""How the relay is woken: by `NOTIFY` on PostgreSQL, by a poll on SQLite."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from producer.store import parking, recording, submissions
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.store.wakeup import TASK_CHANNEL, NotifyWakeup, PollWakeup, Wakeup, open_wakeup
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Return the address of a fresh PostgreSQL database: only there are jobs announced."""
    return postgres_url


async def test_new_jobs_wake_the_relay_at_once(store: Database, postgres_url: str) -> None:
    parked = make_job()
    store.write(submissions.insert_jobs, [parked])
    store.write(recording.record_reports, [make_report(parked.id, JobState.PARKED)], now=NOON)
    wakeup = open_wakeup(postgres_url, poll_seconds=60)
    assert isinstance(wakeup, NotifyWakeup)
    await wakeup.wait(60)
    changes: list[Callable[[], object]] = [
        lambda: store.write(submissions.insert_jobs, [make_job()]),
        lambda: store.write(submissions.insert_batch, make_batch(), [make_job()]),
        lambda: store.write(parking.redrive, parked.id, now=NOON),
    ]

    for change in changes:
        # Announced while nobody waits, and while somebody does.
        await asyncio.to_thread(change)
        async with asyncio.timeout(5):
            await wakeup.wait(60)
    waiting = asyncio.create_task(wakeup.wait(60))
    await asyncio.to_thread(store.write, submissions.insert_jobs, [make_job()])
    async with asyncio.timeout(5):
        await waiting

    await wakeup.aclose()


async def is_woken(wakeup: Wakeup, *, timeout_seconds: float) -> bool:
    before = time.monotonic()
    await wakeup.wait(timeout_seconds)
    return time.monotonic() - before < timeout_seconds * 0.9


async def test_many_announcements_wake_the_relay_once(store: Database, postgres_url: str) -> None:
    wakeup = open_wakeup(postgres_url, poll_seconds=60)
    await wakeup.wait(60)
    for _ in range(20):
        await asyncio.to_thread(store.write, submissions.insert_jobs, [make_job()])

    wakes = 0
    while await is_woken(wakeup, timeout_seconds=0.5):
        wakes += 1

    assert 1 <= wakes < 20
    await wakeup.aclose()


async def test_the_wakeup_comes_back_after_its_connection_was_cut(store: Database, postgres_url: str) -> None:
    wakeup = open_wakeup(postgres_url, poll_seconds=60)
    await wakeup.wait(60)
    _cut_every_connection(postgres_url)

    await wakeup.wait(0.05)  # Finds the connection gone, and waits all the same.
    await wakeup.wait(60)  # Connects again, and says so at once.
    await asyncio.to_thread(store.write, submissions.insert_jobs, [make_job()])
    async with asyncio.timeout(5):
        await wakeup.wait(60)

    await wakeup.aclose()


async def test_without_a_database_the_wakeup_takes_its_whole_time() -> None:
    wakeup = open_wakeup("postgresql://nobody@127.0.0.1:1/nothing", poll_seconds=60)

    before = time.monotonic()
    await wakeup.wait(0.2)

    assert time.monotonic() - before >= 0.19
    await wakeup.aclose()


async def test_sqlite_is_polled(tmp_path: Path) -> None:
    wakeup = open_wakeup(f"sqlite:///{tmp_path}/retriever.db", poll_seconds=0.01)

    async with asyncio.timeout(5):
        await wakeup.wait(60)

    assert isinstance(wakeup, PollWakeup)
    await wakeup.aclose()


async def test_a_poll_longer_than_the_timeout_ends_with_it(tmp_path: Path) -> None:
    wakeup = open_wakeup(f"sqlite:///{tmp_path}/retriever.db", poll_seconds=60)

    async with asyncio.timeout(5):
        await wakeup.wait(0.01)

    await wakeup.aclose()


async def test_a_server_that_takes_connections_and_says_nothing_costs_no_more_than_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wakeup = open_wakeup(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/n", poll_seconds=60)

        async with asyncio.timeout(3):
            await wakeup.wait(0.2)

        await wakeup.aclose()


def _cut_every_connection(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


async def test_what_is_announced_of_tasks_names_their_queues(store: Database, postgres_url: str) -> None:
    wakeup = open_wakeup(postgres_url, poll_seconds=60, channel=TASK_CHANNEL)
    assert await wakeup.wait(60) == frozenset()

    def announce(*queues: str) -> None:
        with store.writing() as connection:
            for queue in queues:
                connection.execute(sa.select(sa.func.pg_notify(TASK_CHANNEL, queue)))

    await asyncio.to_thread(announce, "mail", "films", "mail")
    async with asyncio.timeout(5):
        told = await wakeup.wait(60)
        while len(told) < 2:
            told |= await wakeup.wait(60)

    assert told == {"mail", "films"}
    assert await wakeup.wait(0.01) == frozenset()
    await wakeup.aclose()
