"""Clients that do not read their answers: they hold no thread, no memory and no transaction for long."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from producer.records import NewBatch
from producer.store import submissions
from shared.identity import new_id
from shared.settings import Settings
from tests.integration.test_api_endurance import make_job
from tests.support.api import RunningApi, running_api

JOBS = 2_000
SMALL_BUFFER_BYTES = 4_096


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Yield an API with a batch of some megabytes that waits half a second for a reader."""
    database = tmp_path_factory.mktemp("readers") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}", api_unread_seconds=0.5)) as running:
        yield running


@pytest.fixture(scope="module")
def target(api: RunningApi) -> str:
    """Return the path of the batch's results."""
    batch = NewBatch(new_id(), "check", datetime.now(UTC), project="default")
    jobs = (make_job(url="http://example.com/" + "x" * 4_000) for _ in range(JOBS))
    api.store.write(submissions.insert_batch, batch, jobs)
    return f"/batches/{batch.id}/results"


def ask(api: RunningApi, target: str, *, times: int = 1) -> socket.socket:
    """Return a connection on which an answer comes that nobody reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", api.port))
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * times)
    return connection


def refused(api: RunningApi) -> int:
    metrics = api.client.get("/metrics").text
    found = re.search(r'^retriever_api_refused_total{reason="answer_unread"} (\d+)', metrics, re.MULTILINE)
    assert found is not None
    return int(found[1])


def wait_until_refused(api: RunningApi, count: int) -> None:
    deadline = time.monotonic() + 30
    while refused(api) < count:
        assert time.monotonic() < deadline, f"{refused(api)} of {count}"


@pytest.mark.parametrize("name", ["a stream", "a page", "pages that are asked for ahead"])
def test_an_answer_that_nobody_reads_is_given_up(api: RunningApi, target: str, name: str) -> None:
    before = refused(api)
    wanted = {"a stream": (target, 1), "a page": ("/jobs?limit=1000", 1)}.get(name, ("/jobs?limit=1000", 10))

    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(ask(api, wanted[0], times=wanted[1]))

        wait_until_refused(api, before + 8)
        assert "retriever_api_connections 1.0" in api.client.get("/metrics").text


def test_a_reader_who_takes_longer_than_that_and_never_stops_gets_all(api: RunningApi, target: str) -> None:
    before = refused(api)

    with ask(api, target) as connection:
        answer = bytearray()
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer += connection.recv(16_384)

    assert answer.count(b'"kind":"check"') == JOBS
    assert refused(api) == before
