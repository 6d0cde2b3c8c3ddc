"""`callback_url` at the API: checked, kept, shown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.asyncapi import asyncapi_document
from shared.settings import Settings
from tests.support.api import RunningApi, running_api

URL = "https://hooks.example.com/retriever"
CHECK = {"kind": "check", "args": {"url": "https://example.com/"}}
BATCH = {"kind": "check", "items": [{"url": "https://example.com/"}]}
WEBHOOK_ARGS = {"url": URL, "type": "invoice.paid", "timestamp": "2026-01-02T12:00:00Z", "data": {}}
LINES = "https://example.com/\n"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database: Path = tmp_path_factory.mktemp("api") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


def post_lines(api: RunningApi, **query: str) -> httpx.Response:
    return api.client.post("/batches", params=query, content=LINES, headers={"Content-Type": "text/plain"})


def faults(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 400, answer.text
    return [error["loc"] for error in answer.json()["errors"]]


def test_a_callback_is_normalized_kept_and_shown(api: RunningApi) -> None:
    job = api.client.post("/jobs", json={**CHECK, "callback_url": "HTTPS://Hooks.Example.com/retriever"})
    batch = api.client.post("/batches", json={**BATCH, "callback_url": URL})
    lines = post_lines(api, callback_url=URL)

    for answer in (job, batch, lines):
        assert answer.status_code == 202, answer.text
        document = answer.json()
        assert document["callback_url"] == URL
        assert api.client.get(answer.headers["Location"]).json()["callback_url"] == URL
    [of_batch] = api.client.get("/jobs", params={"batch": batch.json()["id"]}).json()["items"]
    assert of_batch["callback_url"] is None


def test_the_events_of_a_callback_are_chosen_kept_and_shown(api: RunningApi) -> None:
    wanted = ["parked", "batch.completed"]
    job = api.client.post("/jobs", json={**CHECK, "callback_url": URL, "callback_events": ["parked"] * 2})
    batch = api.client.post("/batches", json={**BATCH, "callback_url": URL, "callback_events": wanted})
    lines = post_lines(api, callback_url=URL, callback_events=json.dumps(wanted))

    null = api.client.post("/jobs", json={**CHECK, "callback_url": URL, "callback_events": None})

    assert job.json()["callback_events"] == ["parked"]
    assert (null.status_code, null.json()["callback_events"]) == (202, None)
    for answer in (batch, lines):
        assert answer.status_code == 202, answer.text
        assert answer.json()["callback_events"] == wanted
        [of_batch] = api.client.get("/jobs", params={"batch_id": answer.json()["id"]}).json()["items"]
        assert (of_batch["callback_url"], of_batch["callback_events"]) == (URL, ["parked"])


def test_the_events_of_a_callback_are_those_of_its_place(api: RunningApi) -> None:
    def job(**fields: Any) -> httpx.Response:
        return api.client.post("/jobs", json={**CHECK, "callback_url": URL, **fields})

    def batch(**fields: Any) -> httpx.Response:
        return api.client.post("/batches", json={**BATCH, "callback_url": URL, **fields})

    assert faults(job(callback_events=["batch.completed"])) == ["/callback_events/0"]
    assert set(faults(batch(callback_events=["completed"]))) == {"/callback_events/0"}
    for send in (job, batch):
        assert faults(send(callback_events=[])) == ["/callback_events"]
        assert faults(send(callback_events="parked")) == ["/callback_events"]
        # Nobody is told.
        assert faults(send(callback_events=["parked"], callback_url=None)) == ["/callback_events"]
    assert faults(post_lines(api, callback_url=URL, callback_events="parked")) == ["/query/callback_events"]
    schedule = {"every_seconds": 60, "job": {**CHECK, "callback_events": ["parked"]}}
    assert faults(api.client.post("/schedules", json=schedule)) == ["/job/callback_events"]


@pytest.mark.parametrize(
    "url", ["", "hooks.example.com", "ftp://a.example/", "https://u:p@a.example/", "https://", "\0", 7]
)
def test_a_wrong_callback_is_refused_by_its_name(api: RunningApi, url: Any) -> None:
    assert faults(api.client.post("/jobs", json={**CHECK, "callback_url": url})) == ["/callback_url"]
    assert faults(api.client.post("/batches", json={**BATCH, "callback_url": url})) == ["/callback_url"]


def test_a_wrong_callback_in_the_query_is_refused_by_its_name(api: RunningApi) -> None:
    assert faults(post_lines(api, callback_url="ftp://a.example/")) == ["/query/callback_url"]


def test_a_webhook_is_a_job_that_calls_nobody_back(api: RunningApi) -> None:
    webhook = {"kind": "webhook", "args": WEBHOOK_ARGS}

    answer = api.client.post("/jobs", json=webhook)
    assert answer.status_code == 202 and answer.json()["args"] == WEBHOOK_ARGS
    assert answer.json()["host"] == "hooks.example.com"
    assert faults(api.client.post("/jobs", json={**webhook, "callback_url": URL})) == ["/callback_url"]
    batch = {"kind": "webhook", "items": [WEBHOOK_ARGS], "callback_url": URL}
    assert faults(api.client.post("/batches", json=batch)) == ["/callback_url"]


def test_arguments_of_a_webhook_that_are_wrong_are_named(api: RunningApi) -> None:
    args = {**WEBHOOK_ARGS, "type": "no spaces", "data": {"a": ["\0"]}, "timestamp": "noon"}

    assert faults(api.client.post("/jobs", json={"kind": "webhook", "args": args})) == [
        "/args/type",
        "/args/timestamp",
    ]
    assert faults(
        api.client.post("/jobs", json={"kind": "webhook", "args": {**WEBHOOK_ARGS, "data": {"a": ["\0"]}}})
    ) == ["/args/data/a/0"]


def test_a_duplicate_keeps_its_own_callback(api: RunningApi) -> None:
    unique = {**CHECK, "args": {"url": "https://example.com/unique"}, "unique_for_seconds": 60}
    first = api.client.post("/jobs", json={**unique, "callback_url": URL}).json()

    again = api.client.post("/jobs", json={**unique, "callback_url": f"{URL}/other"})

    assert again.status_code == 200
    assert (again.json()["id"], again.json()["callback_url"]) == (first["id"], URL)


def test_a_schedule_may_have_a_callback_in_its_template(api: RunningApi) -> None:
    schedule = {"every_seconds": 3600, "job": {**CHECK, "callback_url": URL}}
    webhook = {"every_seconds": 3600, "job": {"kind": "webhook", "args": WEBHOOK_ARGS, "callback_url": URL}}

    answer = api.client.post("/schedules", json=schedule)
    run = api.client.post(f"{answer.headers['Location']}/run")

    assert api.client.get(run.headers["Location"]).json()["callback_url"] == URL
    assert faults(api.client.post("/schedules", json=webhook)) == ["/job/callback_url"]


def test_the_messages_at_the_broker_are_described_too(api: RunningApi) -> None:
    answer = api.client.get("/asyncapi.json")

    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == asyncapi_document()
