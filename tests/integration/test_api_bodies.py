"""Bodies over HTTP, on both stores: whole, in ranges, unchanged, gone."""

import base64
import hashlib
import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from producer.store import recording, retention, submissions
from shared.clock import utc_now
from shared.identity import new_id
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.bodies import compress_body
from tests.support.factories import make_job, make_report

LARGE = random.Random(7).randbytes(1_000_000) + bytes(4_000_000)


@pytest.fixture(scope="module")
def api(module_api: RunningApi) -> RunningApi:
    """Return one API for all tests: each makes its own jobs."""
    return module_api


def fetched(
    api: RunningApi,
    *,
    args: dict[str, Any] | None = None,
    stored: bytes | None = None,
    content_type: str | None = None,
    project: str = "default",
    **result: Any,
) -> UUID:
    job = make_job(kind="fetch", args=args, project=project)
    api.store.write(submissions.insert_jobs, [job])
    body = None if stored is None else compress_body(stored, content_type=content_type, charset=None)
    report = make_report(
        job.id, JobState.SUCCEEDED, kind="fetch", result={"content_type": content_type, **result}
    )
    api.store.write(recording.record_reports, [report.model_copy(update={"body": body})], now=utc_now())
    return job.id


def test_a_stored_body_is_served_whole(api: RunningApi) -> None:
    job_id = fetched(api, stored=LARGE, content_type="image/png")

    answer = api.client.get(f"/jobs/{job_id}/body")

    assert (answer.status_code, answer.content) == (200, LARGE)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{hashlib.sha256(LARGE).hexdigest()}"'
    assert answer.headers["content-length"] == "5000000"
    assert answer.headers["accept-ranges"] == "bytes"


def test_head_says_what_get_would(api: RunningApi) -> None:
    job_id = fetched(api, stored=LARGE, content_type="image/png")

    answer = api.client.head(f"/jobs/{job_id}/body", headers={"Range": "bytes=0-1"})

    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "5000000")
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=999990-1000009", slice(999_990, 1_000_010)),
        ("bytes=262144-524287", slice(262_144, 524_288)),
        ("bytes=4999999-", slice(4_999_999, None)),
        ("bytes=-10", slice(-10, None)),
    ],
)
def test_a_range_is_served(api: RunningApi, asked: str, wanted: slice) -> None:
    job_id = fetched(api, stored=LARGE)

    answer = api.client.get(f"/jobs/{job_id}/body", headers={"Range": asked})

    start, stop, _ = wanted.indices(len(LARGE))
    assert (answer.status_code, answer.content) == (206, LARGE[wanted])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/5000000"


def test_a_range_behind_the_end_is_refused(api: RunningApi) -> None:
    job_id = fetched(api, body="short")

    answer = api.client.get(f"/jobs/{job_id}/body", headers={"Range": "bytes=5-"})

    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */5")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_range_of_another_version_is_answered_with_everything(api: RunningApi) -> None:
    job_id = fetched(api, body="short")

    answer = api.client.get(f"/jobs/{job_id}/body", headers={"Range": "bytes=1-2", "If-Range": '"old"'})

    assert (answer.status_code, answer.text) == (200, "short")


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_version_that_the_client_has_is_not_sent_again(api: RunningApi, is_stored: bool) -> None:
    job_id = fetched(api, stored=b"short") if is_stored else fetched(api, body="short")
    etag = api.client.get(f"/jobs/{job_id}/body").headers["etag"]

    answer = api.client.get(f"/jobs/{job_id}/body", headers={"If-None-Match": etag, "Range": "bytes=9-"})

    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize(
    ("result", "content", "content_type"),
    [
        (
            {"body": "grüße", "content_type": "text/plain; charset=latin-1"},
            "grüße".encode(),
            "text/plain; charset=utf-8",
        ),
        ({"body": ""}, b"", "text/plain; charset=utf-8"),
        ({"body_base64": base64.b64encode(b"\0\xff").decode()}, b"\0\xff", "application/octet-stream"),
    ],
)
def test_a_body_in_a_result_is_served_as_well(
    api: RunningApi, result: dict[str, Any], content: bytes, content_type: str
) -> None:
    answer = api.client.get(f"/jobs/{fetched(api, **result)}/body")

    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("declared", "served"),
    [
        ("text/html; charset=utf-8", "text/html; charset=utf-8"),
        ("image/svg+xml", "image/svg+xml"),
        ("text/html\r\nSet-Cookie: a=b", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
        ("text/?; charset=?", "application/octet-stream"),
        ("text/h\N{LATIN SMALL LETTER E WITH ACUTE}", "application/octet-stream"),
        (None, "application/octet-stream"),
    ],
)
def test_no_browser_runs_what_a_stranger_sent(api: RunningApi, declared: str | None, served: str) -> None:
    answer = api.client.get(f"/jobs/{fetched(api, stored=b'<script>', content_type=declared)}/body")

    assert answer.headers["content-type"] == served
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "set-cookie" not in answer.headers


def test_a_fetch_that_found_nothing_changed_serves_the_body_of_the_one_before(api: RunningApi) -> None:
    first = fetched(api, stored=b"the body", content_type="text/csv")
    second = fetched(api, not_modified=True, unchanged_since=str(first))

    answer = api.client.get(f"/jobs/{second}/body")

    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "the body", "text/csv")


@pytest.mark.parametrize(
    "args",
    [
        {"url": "https://example.com/mine"},
        {"url": "http://example.com/theirs"},
        {"url": "https://example.com/theirs", "extract": "a"},
        {"url": "https://example.com/theirs", "headers": {"Accept": "b/c"}},
        {"url": "https://example.com/theirs", "method": "POST"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_report_gets_nobody_the_body_of_a_job_that_did_not_ask_the_same(
    api: RunningApi, args: dict[str, Any], method: str
) -> None:
    theirs = {"url": "https://example.com/theirs", "method": method}
    holder = fetched(api, args=theirs, stored=b"the body")
    mine = fetched(api, args=args, not_modified=True, unchanged_since=str(holder))

    answer = api.client.get(f"/jobs/{mine}/body")

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:body-not-found")
    assert "asked another question" in answer.json()["detail"]


@pytest.mark.parametrize("theirs", ["zeta", "default"])
def test_a_report_gets_nobody_the_body_of_another_project_that_asked_the_same(
    api: RunningApi, theirs: str
) -> None:
    args = {"url": "https://example.com/theirs"}
    holder = fetched(api, args=args, stored=b"the body", project=theirs)
    mine = fetched(api, args=args, not_modified=True, unchanged_since=str(holder), project="acme")

    answer = api.client.get(f"/jobs/{mine}/body")

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:body-not-found")


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"data": {"a": 1}},
        {"body_base64": "!"},
        {"unchanged_since": str(new_id())},
        {"unchanged_since": 7},
    ],
)
def test_a_job_without_a_body_says_so(api: RunningApi, result: dict[str, Any]) -> None:
    answer = api.client.get(f"/jobs/{fetched(api, **result)}/body")

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:body-not-found")


def test_a_body_that_is_deleted_is_gone(api: RunningApi) -> None:
    job_id = fetched(api, stored=b"the body")
    before = utc_now() + timedelta(days=1)
    api.store.write(retention.delete_single_jobs, JobState.SUCCEEDED, before=before, after=None, limit=1_000)

    answer = api.client.get(f"/jobs/{job_id}/body")

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:job-not-found")


def test_of_a_job_that_waits_there_is_no_body(api: RunningApi) -> None:
    job = api.client.post("/jobs", json={"kind": "fetch", "args": {"url": "https://example.com/"}}).json()

    assert api.client.get(f"/jobs/{job['id']}/body").status_code == 404
    assert api.client.get("/jobs/nonsense/body").status_code == 404
