"""Connections that say nothing, never come to an end, or are too many: others are answered all the same."""

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import free_port
from producer.api.http_protocol import MAX_PIPELINED
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.environment import clean_environment
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
HEAD_SECONDS = 0.3
MAX_CONNECTIONS = 12
# Of one address.
SHARE = 11
GROWTH_BYTES = 100_000_000
JOB = json.dumps({"kind": "check", "args": {"url": "https://example.com/"}}).encode()
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = (
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(JOB)
)

CHUNKED = b"Transfer-Encoding: chunked"

# The server says 100 when it begins to read the body.
EXPECTING_POST = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")


@pytest.fixture(scope="module")
def hasty_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("hasty") / "retriever.db"
    settings = Settings(
        database_url=f"sqlite:///{database}", api_header_seconds=HEAD_SECONDS, api_body_seconds=0.5
    )
    with running_api(settings) as running:
        yield running


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("api") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


@pytest.fixture
def small_api(tmp_path: Path) -> Iterator[RunningApi]:
    """Serve few connections, of which none is left from another test."""
    database = tmp_path / "retriever.db"
    with running_api(
        Settings(database_url=f"sqlite:///{database}", api_max_connections=MAX_CONNECTIONS)
    ) as running:
        yield running


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_a_connection_that_says_nothing_is_closed(hasty_api: RunningApi) -> None:
    with hasty_api.connect() as connection:
        assert read_all(connection) == b""


@pytest.mark.parametrize(
    "head", [b"G", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", b"GET /livez HTTP/1.1\r\nX: a", b"\r\n"]
)
def test_a_head_that_does_not_end_is_refused_in_time(hasty_api: RunningApi, head: bytes) -> None:
    with hasty_api.connect() as connection:
        connection.sendall(head)
        answer = read_all(connection)

    assert status(answer) == 408
    assert b"application/problem+json" in answer
    assert b"did not come within 0.3 seconds" in answer


def test_the_second_request_of_a_connection_has_as_long(hasty_api: RunningApi) -> None:
    with hasty_api.connect() as connection:
        connection.sendall(GET + b"\r\n" + GET)
        answers = read_all(connection)

    assert [status(answers), answers.count(b"HTTP/1.1 408")] == [200, 1]


@pytest.mark.parametrize(
    ("request_bytes", "wanted"),
    [
        pytest.param(GET + b"".join(b"X-%d: a\r\n" % n for n in range(101)) + b"\r\n", 431, id="101 fields"),
        pytest.param(GET + b"".join(b"X-%d: a\r\n" % n for n in range(50)) + b"\r\n", 200, id="51 fields"),
        pytest.param(GET + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431, id="one large field"),
        pytest.param(GET + b"X: " + b"a" * 30_000 + b"\r\n\r\n", 200, id="a field that fits"),
        pytest.param(GET + b"X: " + b"a" * 2_000_000, 431, id="a field without end"),
        pytest.param(GET + b"a" * 2_000_000, 431, id="a name without end"),
        pytest.param(GET + b"X: a\r\n" * 200_000, 431, id="fields without end"),
        pytest.param(
            b"GET /livez?" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, id="a long target"
        ),
        pytest.param(b"GET /" + b"a" * 2_000_000, 414, id="a target without end"),
    ],
)
def test_a_head_is_bounded_in_size(api: RunningApi, request_bytes: bytes, wanted: int) -> None:
    with api.connect() as connection:
        try:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            # Refused before all of it was sent.
            pass
        answer = connection.recv(65_536)

    assert status(answer) == wanted


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"1;" + b"a" * 2_000_000, id="an extension of a chunk"),
        pytest.param(b"0\r\n" + b"X: a\r\n" * 200_000, id="fields behind the body"),
        pytest.param(b"0\r\nX: " + b"a" * 2_000_000, id="a field behind the body"),
    ],
)
def test_what_is_around_a_chunked_body_is_bounded_too(api: RunningApi, rest: bytes) -> None:
    head = POST.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"

    with api.connect() as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(head + rest + b"a" * 50_000_000)


def test_silent_connections_are_closed_for_one_that_asks(small_api: RunningApi) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(small_api.connect()) for _ in range(5 * MAX_CONNECTIONS)]

        with small_api.connect() as connection:
            connection.sendall(GET + b"Connection: close\r\n\r\n")
            assert status(read_all(connection)) == 200
        assert read_all(silent[0]) == b""


def test_a_request_in_hand_is_not_closed_for_another(small_api: RunningApi) -> None:
    with ExitStack() as stack:
        asking = stack.enter_context(small_api.connect())
        asking.sendall(EXPECTING_POST)
        assert status(asking.recv(65_536)) == 100
        for _ in range(5 * MAX_CONNECTIONS):
            stack.enter_context(small_api.connect())

        asking.sendall(JOB)
        assert status(asking.recv(65_536)) == 202


@pytest.mark.parametrize(
    "path", [b"/jobs", b"/batches", b"/tasks/01a203f7-2316-7400-922d-0a315fe2b95f/finish"]
)
def test_a_client_that_waits_to_go_on_and_does_not_is_refused_without_an_error(
    api: RunningApi, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    head = EXPECTING_POST.replace(b"/jobs", path).replace(b"Content-Length: %d" % len(JOB), CHUNKED)
    with api.connect() as connection:
        # No chunk, in the segment of the head: the refusal comes before the operation asks for the body.
        connection.sendall(head + b"no length\r\n")
        refused = read_all(connection)

    assert api.client.get("/livez").status_code == 200
    assert status(refused) == 400
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def use_all(api: RunningApi, stack: ExitStack) -> list[socket.socket]:
    """Return as many connections as one address may have, with a request in hand on each."""
    asking = [stack.enter_context(api.connect()) for _ in range(SHARE)]
    for each in asking:
        each.sendall(EXPECTING_POST)
        assert status(each.recv(65_536)) == 100
    return asking


def test_one_request_more_is_refused_while_an_address_has_all_its_connections_in_use(
    small_api: RunningApi,
) -> None:
    with ExitStack() as stack:
        asking = use_all(small_api, stack)
        with small_api.connect() as surplus:
            surplus.sendall(POST + JOB)
            refused = read_all(surplus)

        assert (status(refused), b"retry-after: 5" in refused) == (503, True)
        for each in asking:
            each.sendall(JOB)
            assert status(each.recv(65_536)) == 202


def test_probes_are_answered_while_all_connections_are_in_use(small_api: RunningApi) -> None:
    with ExitStack() as stack:
        use_all(small_api, stack)
        answers = []
        for path in (b"/livez", b"/readyz", b"/metrics"):
            with small_api.connect() as probe:
                probe.sendall(GET.replace(b"/livez", path) + b"\r\n")
                answers.append(read_all(probe))

    assert [status(answer) for answer in answers] == [200, 200, 200]
    # They are over the limit, so they do not stay.
    assert all(b"connection: close" in answer for answer in answers)


def test_another_address_is_served_while_one_has_all_its_connections_in_use(small_api: RunningApi) -> None:
    with ExitStack() as stack:
        use_all(small_api, stack)
        with small_api.connect() as surplus:
            surplus.sendall(EXPECTING_POST)
            assert status(surplus.recv(65_536)) == 503
        with small_api.connect(source="127.0.0.2") as other:
            other.sendall(POST + JOB)

            assert status(other.recv(65_536)) == 202


def test_the_address_with_the_most_connections_loses_them_first(small_api: RunningApi) -> None:
    with ExitStack() as stack:
        # It waits longer than all others.
        other = stack.enter_context(small_api.connect(source="127.0.0.2"))
        for _ in range(5 * MAX_CONNECTIONS):
            stack.enter_context(small_api.connect())
        with small_api.connect() as last:
            last.sendall(GET + b"\r\n")
            assert status(last.recv(65_536)) == 200

        other.sendall(GET + b"Connection: close\r\n\r\n")
        assert status(read_all(other)) == 200


def test_answers_come_in_the_order_of_their_requests(api: RunningApi) -> None:
    with api.connect() as connection:
        connection.sendall(POST + JOB + POST + JOB + b"garbage \r\n\r\n")
        answers = read_all(connection)

    # What was stored is not answered with what is wrong behind it.
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"202", b"202", b"400"]


def test_a_body_that_breaks_off_behind_another_request_is_refused_in_its_turn(api: RunningApi) -> None:
    chunked = POST.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n"
    with api.connect() as connection:
        connection.sendall(POST + JOB + chunked + POST + JOB)
        answers = read_all(connection)

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"202", b"400"]


def test_requests_ahead_of_their_answers_are_few(api: RunningApi) -> None:
    with api.connect() as connection:
        connection.sendall((GET + b"\r\n") * 10_000)
        answers = re.findall(rb"HTTP/1.1 (\d+)", read_all(connection))

    assert answers == [b"200"] * (1 + MAX_PIPELINED) + [b"429"]


def test_what_is_pipelined_behind_a_pick_that_waits_is_not_read(api: RunningApi) -> None:
    pick = json.dumps({"agent": "a", "wait_seconds": 60}).encode()
    head = POST.replace(b"/jobs", b"/tasks/pick").replace(b"%d" % len(JOB), b"%d" % len(pick))
    posts = POST.replace(b"%d" % len(JOB), b"100000000")

    with api.connect() as connection:
        connection.settimeout(2)
        connection.sendall(head + pick + posts)
        # The system's buffers take some megabytes.
        with pytest.raises(TimeoutError):
            connection.sendall(b" " * 60_000_000)


def test_many_large_heads_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    with (
        running_api(Settings(database_url=f"sqlite:///{tmp_path / 'retriever.db'}")) as api,
        ExitStack() as stack,
    ):
        # 16 MiB are 279 of them.
        half = GET + b"X: " + b"a" * 60_000
        halves = [stack.enter_context(api.connect()) for _ in range(290)]
        for each in halves:
            each.sendall(half)
        answers = [read_all(each) for each in halves[-5:]]
        # What comes whole needs no room.
        (whole,) = api.send_raw(GET + b"X: " + b"a" * 60_000 + b"\r\n\r\n")

    assert [status(answer) for answer in answers] == [503] * 5
    assert whole.status == 200


@pytest.mark.parametrize("drip", [b"X", b"X: y\r\n"])
def test_a_head_that_drips_is_refused_in_time(hasty_api: RunningApi, drip: bytes) -> None:
    with hasty_api.connect() as connection:
        connection.sendall(GET)
        connection.settimeout(0.02)
        answer = b""
        while not answer:
            try:
                connection.sendall(drip)
                answer = connection.recv(65_536)
            except TimeoutError:
                continue

    assert status(answer) == 408


@pytest.mark.parametrize(
    ("path", "content_type"), [(b"/jobs", b"application/json"), (b"/batches?kind=check", b"text/plain")]
)
def test_a_body_that_drips_is_refused_in_time(
    hasty_api: RunningApi, path: bytes, content_type: bytes
) -> None:
    with hasty_api.connect() as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n" % (path, content_type)
        )
        connection.sendall(b"Content-Length: 100000\r\n\r\n")
        connection.settimeout(0.02)
        answer = b""
        while b"}" not in answer:
            try:
                # Never a pause that is too long.
                connection.sendall(b" ")
                answer += connection.recv(65_536)
            except TimeoutError:
                continue

    assert status(answer) == 408
    assert b"more slowly than 1,024 bytes a second for 0.5 seconds" in answer


@pytest.mark.parametrize(
    "request_line", [b"POST /jobs HTTP/1.1\r\nContent-Type: text/html", b"GET /livez HTTP/1.1"]
)
def test_a_body_that_nobody_wants_is_not_awaited_for_long(hasty_api: RunningApi, request_line: bytes) -> None:
    with hasty_api.connect() as connection:
        connection.sendall(request_line + b"\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n ")
        assert status(connection.recv(65_536)) in {200, 415}

        connection.settimeout(0.02)
        is_open = True
        while is_open:
            try:
                connection.sendall(b" ")
                is_open = connection.recv(65_536) != b""
            except TimeoutError:
                continue
            except OSError:
                is_open = False


def test_each_refusal_is_counted_and_the_first_of_a_minute_logged(
    api: RunningApi, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> float:
        found = re.search(
            r'^retriever_api_refused_total{reason="head_too_large"} (\S+)$',
            api.client.get("/metrics").text,
            re.MULTILINE,
        )
        assert found is not None
        return float(found[1])

    before = refused()
    for _ in range(3):
        api.send_raw(GET + b"X: " + b"a" * 70_000 + b"\r\n\r\n")

    assert refused() - before == 3
    lines = [line for line in caplog.records if line.__dict__.get("reason") == "head_too_large"]
    assert [line.message for line in lines if line.levelname == "WARNING"] in ([], ["api_refused"])


@contextmanager
def api_process(tmp_path: Path, *, open_files: int) -> Iterator[tuple[int, int]]:
    """Run an API in a process that may have so many files open; give its port and its id."""
    port = free_port()
    database = {"RETRIEVER_DATABASE_URL": f"sqlite:///{tmp_path / 'retriever.db'}"}
    environment = clean_environment() | database | {"RETRIEVER_API_PORT": str(port)}
    python = f"{sys.executable} -m producer"
    command = f"{python} migrate && ulimit -n {open_files} && exec {python} api"
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def resident_bytes(process_id: int) -> int:
    """Return the memory of a process, seen from outside."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_probes_are_answered_and_memory_stays_while_connections_fill_the_files(tmp_path: Path) -> None:
    async def is_ready() -> bool:
        async with httpx.AsyncClient(timeout=20) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

    head = POST.replace(b"%d" % len(JOB), b"1000000") + b" " * 60_000
    # Nothing, a part of a head, a large part of one, and a large part of a body.
    starts = (b"", GET, GET + b"X: " + b"a" * 60_000, head)
    with api_process(tmp_path, open_files=1_024) as (port, process_id):
        asyncio.run(eventually(is_ready, deadline_seconds=90))
        before = resident_bytes(process_id)
        for start in starts:
            with ExitStack() as stack:
                for _ in range(1_008):
                    connection = stack.enter_context(
                        socket.create_connection(("127.0.0.1", port), timeout=20)
                    )
                    # Some are refused at once.
                    with suppress(OSError):
                        connection.sendall(start)

                assert [asyncio.run(is_ready()) for _ in range(3)] == [True, True, True], start[:20]
        assert resident_bytes(process_id) - before < GROWTH_BYTES


def test_a_process_may_open_as_many_files_as_the_system_allows() -> None:
    code = (
        "import resource; from shared.process import prepare_process; from shared.settings import Settings;"
        "prepare_process(Settings(), process='api'); print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    command = f'ulimit -Sn 300; ulimit -Hn 2048; exec {sys.executable} -c "{code}"'

    answer = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env=clean_environment(),
        check=True,
        capture_output=True,
        text=True,
    )

    assert answer.stdout.split() == ["2048", "2048"]
