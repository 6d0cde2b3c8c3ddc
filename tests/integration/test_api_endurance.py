"""The API under clients that are slow, huge or gone, over real connections."""

import asyncio
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from producer.api.writer import JobWriter
from producer.records import JobFilter, NewBatch, NewJob, SubmissionResult
from producer.store import queries, submissions
from producer.store.database import Database
from producer.store.migrate import migrate
from shared.errors import StoreRefused, StoreUnavailable
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.retry import RetryPolicy
from shared.settings import Settings
from tests.integration.test_api_batches import wait_for_metric
from tests.support.api import RunningApi, running_api

CHUNK = b" " * 1_048_576
HUGE_CHUNKS = 300
HOST = b"Host: localhost\r\n"
SMALL_GROWTH_BYTES = 64 * 1_048_576


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Yield an API that has answered nobody else; the store does not matter here."""
    path = tmp_path_factory.mktemp("endurance") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{path}", api_body_idle_seconds=1.0)) as api:
        yield api


def make_job(**args: object) -> NewJob:
    return NewJob(
        id=new_id(),
        kind="check",
        lane=Lane.BULK,
        args={"url": "http://example.com/", **args},
        retry=RetryPolicy(),
        host="example.com",
        created_at=datetime.now(UTC),
        project="default",
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(4_096).split()[1])


def send_huge(connection: socket.socket, *, is_chunked: bool) -> None:
    """Send 300 MB, whatever the server says meanwhile."""
    for _ in range(HUGE_CHUNKS):
        connection.sendall(b"100000\r\n" + CHUNK + b"\r\n" if is_chunked else CHUNK)


@pytest.mark.parametrize("path", ["/jobs", "/batches"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
@pytest.mark.parametrize("framing", ["announced", "chunked"])
def test_a_huge_body_is_refused_without_growing(
    api: RunningApi, path: str, content_type: str, framing: str
) -> None:
    length = (
        f"Content-Length: {HUGE_CHUNKS * len(CHUNK)}"
        if framing == "announced"
        else "Transfer-Encoding: chunked"
    )
    before = resident_bytes()

    with api.connect() as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n{length}\r\n\r\n"
        connection.sendall(head.encode())
        send_huge(connection, is_chunked=framing == "chunked")
        status = status_of(connection)

    assert status == (415 if (path, content_type) == ("/jobs", "text/plain") else 413)
    assert resident_bytes() - before < SMALL_GROWTH_BYTES


# No store is asked.
@pytest.mark.parametrize("api", ["sqlite"], indirect=True)
def test_slow_bodies_end_in_408_and_hold_up_nobody(api: RunningApi) -> None:
    heads = [
        b"POST /jobs HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n%b\r\n{" % HOST,
        b"POST /batches HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n%b\r\nhttp" % HOST,
        b"POST /jobs/x/discard HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n%b\r\nx" % HOST,
        b"GET /kinds HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n%b\r\nx" % HOST,
    ]
    with ExitStack() as stack:
        connections = [stack.enter_context(api.connect()) for _ in range(20)]
        for number, connection in enumerate(connections):
            connection.sendall(heads[number % len(heads)])

        assert api.client.get("/livez", timeout=0.9).status_code == 200
        job = {"kind": "check", "args": {"url": "http://example.com/"}}
        assert api.client.post("/jobs", json=job, timeout=0.9).status_code == 202
        # What takes no body is answered without waiting for one.
        assert [status_of(connection) for connection in connections] == [408, 408, 404, 200] * 5


def test_abandoned_exports_stop_and_leave_the_service_well(api: RunningApi) -> None:
    batch = NewBatch(new_id(), "check", datetime.now(UTC), project="default")
    api.store.write(
        submissions.insert_batch,
        batch,
        (make_job(url="http://example.com/" + "x" * 2_000) for _ in range(10_000)),
    )
    threads_before = threading.active_count()

    for _ in range(24):
        with api.connect() as connection:
            connection.sendall(
                f"GET /batches/{batch.id}/results HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            assert status_of(connection) == 200

    # Each is counted once it has really ended: 23 MB to nobody would have blocked it.
    wait_for_metric(api, 'operation="export_results"', 24)
    assert api.client.get("/jobs", timeout=2).status_code == 200
    assert threading.active_count() - threads_before <= 12


def test_batches_that_wait_for_the_database_hold_up_no_look_up(running: RunningApi) -> None:
    batch = {"kind": "check", "items": [{"url": "http://example.com/"}]}
    job = running.client.post("/jobs", json={"kind": "check", "args": batch["items"][0]}).json()

    with ThreadPoolExecutor(12) as clients:
        # More of them than the store has threads; on SQLite they wait for the one writer.
        with running.store.writing():
            posts = [clients.submit(running.client.post, "/batches", json=batch) for _ in range(12)]
            for _ in range(20):
                assert running.client.get(f"/jobs/{job['id']}", timeout=2).status_code == 200
        assert {post.result().status_code for post in posts} == {202}


def test_a_large_text_batch_is_stored_in_flat_memory(api: RunningApi) -> None:
    lines = 60_000
    body = (
        b"".join(b"http://example.com/%d/%d\n" % (page, n) for n in range(1_000))
        for page in range(lines // 1_000)
    )
    before = resident_bytes()

    response = api.client.post("/batches", content=body, headers={"Content-Type": "text/plain"}, timeout=60)

    assert response.json()["total"] == lines
    assert resident_bytes() - before < SMALL_GROWTH_BYTES


def test_concurrent_submissions_are_all_stored(api: RunningApi) -> None:
    body = {"kind": "check", "args": {"url": "http://example.com/"}}

    def submit() -> None:
        for _ in range(25):
            assert api.client.post("/jobs", json=body).status_code == 202

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (
        len(api.store.read(queries.search_jobs, JobFilter(), limit=1_000, after=None, project=None).records)
        == 200
    )


class CountingDatabase(Database):
    """Counts the writes; the first one meets a bug when the test asks for it."""

    writes = 0
    has_bug = False

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        self.writes += 1
        if self.has_bug and self.writes == 1:
            raise ZeroDivisionError
        with super().writing() as connection:
            yield connection


async def write_together(writer: JobWriter, jobs: Sequence[NewJob]) -> list[SubmissionResult | BaseException]:
    """Start a writer on jobs that all wait already, so that they are one group."""
    writes = [asyncio.create_task(writer.write(job)) for job in jobs]
    await asyncio.sleep(0)
    writer.start()
    return await asyncio.gather(*writes, return_exceptions=True)


async def test_one_bad_row_fails_only_its_own_request(store: Database) -> None:
    writer = JobWriter(store)
    good = [make_job() for _ in range(3)]
    bad = replace(make_job(), kind=None)  # type: ignore[arg-type]

    answers = await write_together(writer, [good[0], bad, *good[1:]])

    assert [type(answer) for answer in answers] == [
        SubmissionResult,
        StoreRefused,
        SubmissionResult,
        SubmissionResult,
    ]
    assert {store.read(queries.get_job, job.id, project=None).id for job in good} == {job.id for job in good}
    await asyncio.to_thread(writer.close)


async def test_a_store_that_is_away_is_asked_once_for_a_whole_group() -> None:
    # Nothing listens on port 1.
    store = CountingDatabase.open("postgresql://nobody@127.0.0.1:1/none")
    writer = JobWriter(store)

    answers = await write_together(writer, [make_job() for _ in range(3)])

    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert store.writes == 1
    await asyncio.to_thread(writer.close)
    store.close()


async def test_the_writer_outlives_a_bug_and_logs_it(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    migrate(database_url)
    store = CountingDatabase.open(database_url)
    store.has_bug = True
    writer = JobWriter(store)
    job = make_job()

    [answer] = await write_together(writer, [make_job()])
    await writer.write(job)

    assert type(answer) is ZeroDivisionError
    assert store.read(queries.get_job, job.id, project=None).id == job.id
    assert [record.exc_info is not None for record in caplog.records] == [True]
    await asyncio.to_thread(writer.close)
    store.close()


async def test_a_full_writer_refuses_and_a_closing_one_stores_what_waits(store: Database) -> None:
    writer = JobWriter(store, max_waiting_jobs=2)
    jobs = [make_job(), make_job()]
    writes = [asyncio.create_task(writer.write(job)) for job in jobs]
    await asyncio.sleep(0)

    with pytest.raises(StoreUnavailable, match="2 jobs already wait"):
        await writer.write(make_job())
    writer.start()
    await asyncio.to_thread(writer.close)
    await asyncio.gather(*writes)
    with pytest.raises(StoreUnavailable, match="stopping"):
        await writer.write(make_job())

    assert len(store.read(queries.search_jobs, JobFilter(), limit=10, after=None, project=None).records) == 2


async def test_a_bug_that_a_group_meets_fails_only_those_that_meet_it_alone(database_url: str) -> None:
    migrate(database_url)
    store = CountingDatabase.open(database_url)
    store.has_bug = True
    writer = JobWriter(store)

    answers = await write_together(writer, [make_job(), make_job()])

    assert [type(answer) for answer in answers] == [SubmissionResult] * 2
    assert store.writes == 3
    await asyncio.to_thread(writer.close)
    store.close()


def test_accepted_jobs_are_logged_once_stored(api: RunningApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="producer.api")

    job = api.client.post("/jobs", json={"kind": "check", "args": {"url": "http://example.com/"}}).json()

    [record] = [record for record in caplog.records if record.message == "job_accepted"]
    assert record.__dict__["job_id"] == job["id"]
    assert re.fullmatch("interactive", record.__dict__["lane"])
    assert record.__dict__["attempt"] == 0
