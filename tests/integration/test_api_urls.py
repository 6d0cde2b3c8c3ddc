"""A URL that no job could use is refused at every door, with the name of its field."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from shared.settings import Settings
from shared.urls import MAX_URL_LENGTH
from tests.support.api import RunningApi, running_api

URL = "https://example.com/"
# Each door: path, type of the body, the body around the URL as JSON, and the place that is named.
DOORS = [
    ("/jobs", "application/json", '{"kind":"check","args":{"url":%s}}', "/args/url"),
    ("/jobs", "application/json", '{"kind":"fetch","args":{"url":%s,"pages":{"by":"link"}}}', "/args/url"),
    (
        "/jobs",
        "application/json",
        '{"kind":"webhook","args":{"url":%s,"type":"a","data":{},"timestamp":"2026-12-01T12:00:00Z"}}',
        "/args/url",
    ),
    (
        "/jobs",
        "application/json",
        f'{{"kind":"check","args":{{"url":"{URL}"}},"callback_url":%s}}',
        "/callback_url",
    ),
    ("/batches", "application/json", '{"kind":"check","items":[{"url":%s}]}', "/items/0/url"),
    (
        "/batches",
        "application/json",
        '{"kind":"check","items":[{}],"defaults":{"url":%s}}',
        "/items/0/url",
    ),
    ("/batches", "application/x-ndjson", '{"url":%s}', "/lines/1/url"),
    (
        "/schedules",
        "application/json",
        '{"every_seconds":60,"job":{"kind":"check","args":{"url":%s}}}',
        "/job/args/url",
    ),
    (
        "/schedules",
        "application/json",
        '{"every_seconds":60,"batch":{"kind":"check","items":[{"url":%s}]}}',
        "/batch/items/0/url",
    ),
    ("/jobs/{job_id}/redrive", "application/json", '{"args":{"url":%s}}', "/args/url"),
]
GROWN = "characters once it is written in ASCII, and at most 8,192 are taken"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("api") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


def fault(api: RunningApi, path: str, content_type: str, body: str) -> tuple[str, str]:
    """Return the one place and reason that a refusal names."""
    if "{job_id}" in path:
        job = {"kind": "check", "args": {"url": URL}}
        path = path.format(job_id=api.client.post("/jobs", json=job).json()["id"])
    response = api.client.post(path, content=body.encode(), headers={"Content-Type": content_type})
    assert response.status_code in {400, 422}, response.text
    (error,) = response.json()["errors"]
    return error["loc"], error["msg"]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door[0]} {door[3]}")
@pytest.mark.parametrize(
    ("url", "msg"),
    [
        ("http://a.example/" + "ü" * 3_000, GROWN),
        ("http://a.example/" + " " * 3_000 + "x", GROWN),
        ("http://a.example/\nb", "The URL has a line feed in it, at character 18"),
        ("http://a.example/1\rhttp://a.example/2", "a carriage return"),
        ("http://a.example/\tb", "a tab"),
        ("www.example.com/a?key=s3cret", "There is no scheme: did you mean https://www.example.com/a?"),
        ("mailto:a@example.com", "Only http and https URLs are taken; its scheme is mailto"),
    ],
    ids=["percent-encoded", "blanks", "line feed", "carriage return", "tab", "no scheme", "mailto"],
)
def test_a_url_that_no_job_could_use_is_refused_by_its_field(
    api: RunningApi, door: tuple[str, str, str, str], url: str, msg: str
) -> None:
    path, content_type, body, loc = door

    named, said = fault(api, path, content_type, body % json.dumps(url))

    assert named == loc
    assert msg in said and "s3cret" not in said


@pytest.mark.parametrize("query", [{"callback_url": "http://a.example/" + "ü" * 1_500}])
def test_the_callback_of_a_stream_is_refused_by_its_parameter(
    api: RunningApi, query: Mapping[str, Any]
) -> None:
    headers = {"Content-Type": "text/plain"}
    response = api.client.post("/batches", params=query, content=URL, headers=headers)

    (error,) = response.json()["errors"]
    assert (response.status_code, error["loc"]) == (400, "/query/callback_url")
    assert GROWN in error["msg"]


def test_a_url_may_be_as_long_as_the_limit_in_ascii(api: RunningApi) -> None:
    start = "http://a.example/"
    whole = start + "ü" * ((MAX_URL_LENGTH - len(start)) // 6)
    job = {"kind": "check", "args": {"url": whole}}

    assert api.client.post("/jobs", json=job).status_code == 202
