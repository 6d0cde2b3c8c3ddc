"""How the relay is woken: by `NOTIFY` on PostgreSQL, by a poll on SQLite."""

import asyncio
import shutil
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from producer.records import NewJob
from producer.store import outbox, parking, recording, schedules, submissions, tasks
from producer.store.database import Database
from producer.store.engine import open_engine
from producer.store.schema import jobs
from producer.store.wakeup import (
    TASK_CHANNEL,
    NotifyWakeup,
    PollWakeup,
    Wakeup,
    open_task_wakeup,
    open_wakeup,
)
from producer.tasks import PickRequest
from shared.outcomes import Failed
from shared.states import JobState, position
from tests.support.factories import NOON, make_batch, make_job, make_report, make_task


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
        lambda: store.write(parking.redrive, parked.id, now=NOON, project=None),
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
    wakeup = open_task_wakeup(postgres_url, poll_seconds=60)
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


async def test_whatever_makes_a_task_pickable_tells_its_queue(store: Database, postgres_url: str) -> None:
    due = make_task(queue="due", due_at=NOON)
    parked, failed, held = make_task(queue="parked"), make_task(queue="failed"), make_task(queue="held")
    store.write(submissions.insert_jobs, [due, parked, failed, held, make_task(queue="old")])
    _end(store, parked, Failed("agent_failed", "No.", transient=False))
    _end(store, failed, Failed("agent_failed", "Not now.", transient=True))
    store.write(tasks.pick, PickRequest("held", "agent-1", project="default"), now=NOON)
    accepted = {"state": JobState.ACCEPTED, "position": position(run=1, attempt=0, state=JobState.ACCEPTED)}
    with store.writing() as connection:
        # As version 0.1.0 leaves one that was due.
        connection.execute(jobs.update().where(jobs.c.queue == "old").values(accepted))
    later = NOON + timedelta(hours=1)
    batch = [make_task(queue="mail"), make_task(queue="films"), make_task(queue="mail")]
    changes: dict[frozenset[str], Callable[[], object]] = {
        frozenset({"new"}): lambda: store.write(
            submissions.insert_jobs, [make_task(queue="new"), make_job()]
        ),
        frozenset({"mail", "films"}): lambda: store.write(
            submissions.insert_batch, make_batch(kind="task"), iter(batch)
        ),
        frozenset({"due"}): lambda: store.write(schedules.release_due, limit=9, now=NOON),
        frozenset({"parked"}): lambda: store.write(parking.redrive, parked.id, now=NOON, project=None),
        frozenset({"failed"}): lambda: store.write(tasks.make_ready, limit=9, now=later),
        frozenset({"held"}): lambda: store.write(tasks.expire_leases, limit=9, now=later),
        frozenset({"old"}): lambda: store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON),
    }
    wakeup = open_task_wakeup(postgres_url, poll_seconds=60)
    assert await wakeup.wait(60) == frozenset()

    for queues, change in changes.items():
        await asyncio.to_thread(change)
        async with asyncio.timeout(5):
            told = await wakeup.wait(60)
            while len(told) < len(queues):
                told |= await wakeup.wait(60)
        assert told == queues

    await wakeup.aclose()


def _end(store: Database, task: NewJob, end: Failed) -> None:
    (picked,) = store.write(tasks.pick, PickRequest(task.queue or "", "agent-1", project="default"), now=NOON)
    store.write(tasks.finish, task.id, picked.token, end, now=NOON, project=None)


async def test_a_sqlite_file_that_is_changed_wakes_whoever_waits_for_tasks(migrated_file: Path) -> None:
    url = f"sqlite:///{migrated_file.parent / 'changed.db'}"
    shutil.copyfile(migrated_file, migrated_file.parent / "changed.db")
    wakeup = open_task_wakeup(url, poll_seconds=0.01)
    store = Database.open(url)
    # Nobody knows what was before.
    assert await is_woken(wakeup, timeout_seconds=60)

    assert not await is_woken(wakeup, timeout_seconds=0.1)
    store.write(submissions.insert_jobs, [make_job()])
    assert await is_woken(wakeup, timeout_seconds=60)
    assert not await is_woken(wakeup, timeout_seconds=0.1)

    await wakeup.aclose()
    store.close()


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_sqlite_file_that_is_not_there_is_not_made_and_wakes_whoever_waits(tmp_path: Path) -> None:
    wakeup = open_task_wakeup(f"sqlite:///{tmp_path / 'none.db'}", poll_seconds=0.01)

    assert await is_woken(wakeup, timeout_seconds=60)
    assert await is_woken(wakeup, timeout_seconds=60)

    assert not files(tmp_path)
    await wakeup.aclose()
