"""Bodies over HTTP that are announced and come late, in part, or behind an offer of another protocol."""

import json
import logging
import subprocess
from collections.abc import Callable
from uuid import UUID

import pytest

from producer.store import queries, queues, recording, submissions
from shared.clock import utc_now
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_job, make_report

RequestOf = Callable[..., bytes]

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
JOB = b'{"kind": "check", "args": {"url": "http://a.example/"}}'
BULK = b'{"lane": "bulk"}'


def head(method: str, path: str, *fields: str, content_type: str = "application/json") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}"]
    return "".join(f"{line}\r\n" for line in lines).encode() + "".join(fields).encode() + b"\r\n"


def with_length(method: str, path: str, body: bytes, *fields: str) -> bytes:
    return head(method, path, *fields, f"Content-Length: {len(body)}\r\n") + body


def chunked(method: str, path: str, body: bytes, *fields: str) -> bytes:
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    return head(method, path, *fields, "Transfer-Encoding: chunked\r\n") + chunks


def paused_lanes(api: RunningApi) -> set[str]:
    known = api.store.read(queues.circumstances, now=utc_now())
    return {lane for lane in ("interactive", "bulk") if known.pause("check", lane)}


def parked_job(api: RunningApi) -> UUID:
    job = make_job()
    api.store.write(submissions.insert_jobs, [job])
    api.store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=utc_now())
    return job.id


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET])
@pytest.mark.parametrize("request_of", [with_length, chunked])
def test_an_offer_of_another_protocol_is_ignored_and_the_body_is_read(
    api: RunningApi, offer: str, request_of: RequestOf
) -> None:
    (stored,) = api.send_raw(request_of("POST", "/jobs", JOB, offer))
    (paused,) = api.send_raw(request_of("POST", "/kinds/check/pause", BULK, offer))

    assert (stored.status, stored.document["args"]["url"]) == (202, "http://a.example/")
    assert (paused.status, paused_lanes(api)) == (200, {"bulk"})


def test_a_body_behind_an_offer_may_come_late_with_the_next_request_behind_it(api: RunningApi) -> None:
    first = with_length("POST", "/jobs", JOB, H2C)
    split = len(first) - 20

    answers = api.send_raw(first[:50], first[50:split], first[split:] + head("GET", "/livez", H2C), answers=2)

    assert [answer.status for answer in answers] == [202, 200]


def test_a_page_asked_for_with_an_offer_is_answered_on_a_connection_that_stays(
    api: RunningApi, caplog: pytest.LogCaptureFixture
) -> None:
    answers = api.send_raw(head("GET", "/jobs", WEBSOCKET), head("GET", "/livez", H2C), answers=2)

    assert [answer.status for answer in answers] == [200, 200]
    assert api.client.head("/jobs", headers={"Connection": "Upgrade", "Upgrade": "h2c"}).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_redrive_behind_an_offer_runs_the_new_arguments(api: RunningApi) -> None:
    job_id = parked_job(api)
    body = json.dumps({"args": {"url": "https://other.example/"}}).encode()

    (answer,) = api.send_raw(with_length("POST", f"/jobs/{job_id}/redrive", body, H2C))

    assert (answer.status, answer.document["host"]) == (202, "other.example")


def test_curl_that_would_rather_speak_http_2_is_served(api: RunningApi) -> None:
    url = f"http://127.0.0.1:{api.port}/kinds/check/pause"
    command = ["curl", "-sS", "--http2", url, "-H", "Content-Type: application/json", "-d", BULK.decode()]

    answer = subprocess.run(command, capture_output=True, check=True, timeout=20)

    assert json.loads(answer.stdout)["items"][0]["lane"] == "bulk"
    assert paused_lanes(api) == {"bulk"}


def test_a_body_that_waits_to_be_asked_for_is_read(api: RunningApi) -> None:
    fields = [f"Content-Length: {len(BULK)}\r\n", "Expect: 100-continue\r\n"]
    with api.connect() as connection:
        connection.sendall(head("POST", "/kinds/check/pause", *fields))
        asked = connection.recv(1_000)
        connection.sendall(BULK)
        answer = connection.recv(1_000)

    assert asked.startswith(b"HTTP/1.1 100 ")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert paused_lanes(api) == {"bulk"}


@pytest.mark.parametrize("sent", [b"", BULK[:5]])
def test_a_client_that_leaves_before_its_body_has_come_changes_nothing(api: RunningApi, sent: bytes) -> None:
    job_id = parked_job(api)
    paths = ["/kinds/check/pause", "/lanes/bulk/pause", f"/jobs/{job_id}/redrive", "/jobs", "/parked/discard"]
    for path in paths:
        with api.connect() as connection:
            connection.sendall(head("POST", path, f"Content-Length: {len(BULK)}\r\n") + sent)
            connection.shutdown(1)
            while connection.recv(1_000):
                pass

    assert api.client.get("/readyz").status_code == 200
    assert paused_lanes(api) == set()
    assert api.store.read(queries.get_job, job_id, project=None).state is JobState.PARKED


@pytest.mark.parametrize("offer", ["", H2C])
@pytest.mark.parametrize("path", ["/kinds/check/pause", "/kinds/check/resume", "/lanes/bulk/pause"])
def test_an_announced_body_that_is_empty_is_not_taken_for_none(
    api: RunningApi, path: str, offer: str
) -> None:
    (refused,) = api.send_raw(chunked("POST", path, b"", offer))

    assert (refused.status, refused.headers["content-type"]) == (400, "application/problem+json")
    assert "empty" in refused.document["detail"]
    assert paused_lanes(api) == set()


def test_a_redrive_whose_announced_body_is_empty_is_refused(api: RunningApi) -> None:
    job_id = parked_job(api)

    (refused,) = api.send_raw(chunked("POST", f"/jobs/{job_id}/redrive", b""))

    assert refused.status == 400
    assert api.store.read(queries.get_job, job_id, project=None).state is JobState.PARKED


@pytest.mark.parametrize("fields", [(), ("Content-Length: 0\r\n",), ("Content-Length: 0\r\n", H2C)])
def test_without_a_body_a_pause_covers_all_lanes(api: RunningApi, fields: tuple[str, ...]) -> None:
    (paused,) = api.send_raw(head("POST", "/kinds/check/pause", *fields))

    assert paused.status == 200
    assert paused_lanes(api) == {"interactive", "bulk"}
