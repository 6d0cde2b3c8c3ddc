"""What the API reads from a request and what it refuses: the same rule by whatever way it comes."""

import json
from collections.abc import Iterator, Mapping

import httpx
import pytest

from shared.settings import Settings
from tests.support.api import RunningApi, running_api

URL = "https://example.com/"
CHECK = {"kind": "check", "args": {"url": URL}}
WEBHOOK_ARGS = {"url": URL, "type": "a.b", "data": {}}
NO_TIMES = ("20261201", "2026", "5", 5, 1796126400.5, "2026-12-01", "2026-W49-2", "2026-12-01T12:00:00", "")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("api") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


def refused_at(response: httpx.Response, status: int = 400) -> list[str]:
    """Return the places that a refusal names."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return [error["loc"] for error in response.json()["errors"]]


@pytest.mark.parametrize("time", NO_TIMES)
def test_what_is_no_time_of_rfc_3339_is_refused_in_every_document(api: RunningApi, time: object) -> None:
    def post(path: str, document: Mapping[str, object]) -> httpx.Response:
        return api.client.post(path, json=document)

    schedule = {"every_seconds": 60, "job": CHECK, "starts_at": time}
    webhook = {"kind": "webhook", "args": {**WEBHOOK_ARGS, "timestamp": time}}
    batch = {"kind": "check", "items": [{"url": URL}], "run_at": time}
    items = {"kind": "webhook", "items": [{**WEBHOOK_ARGS, "timestamp": time}]}

    assert refused_at(post("/jobs", {**CHECK, "run_at": time})) == ["/run_at"]
    assert refused_at(post("/jobs", {**CHECK, "deadline_at": time})) == ["/deadline_at"]
    assert refused_at(post("/jobs", webhook)) == ["/args/timestamp"]
    assert refused_at(post("/schedules", schedule)) == ["/starts_at"]
    assert refused_at(post("/schedules", {"every_seconds": 60, "job": webhook})) == ["/job/args/timestamp"]
    assert refused_at(post("/batches", batch)) == ["/run_at"]
    assert refused_at(post("/batches", items), 422) == ["/items/0/timestamp"]


@pytest.mark.parametrize("time", [time for time in NO_TIMES if isinstance(time, str)])
def test_what_is_no_time_of_rfc_3339_is_refused_in_queries_and_lines(api: RunningApi, time: str) -> None:
    def stream(query: dict[str, str], content_type: str, lines: str) -> httpx.Response:
        headers = {"Content-Type": content_type}
        return api.client.post("/batches", params=query, content=lines, headers=headers)

    line = json.dumps({**WEBHOOK_ARGS, "timestamp": time})
    webhooks = {"kind": "webhook"}

    for name in ("created_after", "created_before"):
        assert refused_at(api.client.get("/jobs", params={name: time})) == [f"/query/{name}"]
    for name in ("run_at", "deadline_at"):
        assert refused_at(stream({name: time}, "text/plain", URL)) == [f"/query/{name}"]
    assert refused_at(stream(webhooks, "application/x-ndjson", line), 422) == ["/lines/1/timestamp"]
    if time:
        records = f"url,type,data,timestamp\n{URL},a.b,{{}},{time}\n"
        assert refused_at(stream(webhooks, "text/csv", records), 422) == ["/lines/2/timestamp"]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_does_not_have_is_answered_like_any_other(api: RunningApi, time: str) -> None:
    is_past = time.startswith("0001")
    webhook = {"kind": "webhook", "args": {**WEBHOOK_ARGS, "timestamp": time}}
    starts = {"every_seconds": 60, "job": CHECK, "starts_at": time}

    for name in ("created_after", "created_before"):
        assert api.client.get("/jobs", params={name: time}).status_code == 200
    assert api.client.post("/jobs", json=webhook).json()["args"]["timestamp"] == time
    assert refused_at(api.client.post("/schedules", json=starts)) == ["/starts_at"]
    assert refused_at(api.client.post("/jobs", json={**CHECK, "deadline_at": time})) == ["/deadline_at"]
    due = api.client.post("/jobs", json={**CHECK, "run_at": time})
    assert (due.json()["state"] == "accepted") if is_past else (refused_at(due) == ["/run_at"])


def test_the_first_and_the_last_time_of_the_calendar_bound_a_search(api: RunningApi) -> None:
    api.client.post("/jobs", json=CHECK)

    def found(query: str) -> int:
        return len(api.client.get(f"/jobs?{query}").json()["items"])

    assert found("created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999Z") > 0
    assert found("created_before=0001-01-01T00:00:00Z") == 0
    assert found("created_after=9999-12-31T23:59:59Z") == 0
