"""Identity over HTTP: the same request twice, the same job twice, and cancelling, on both stores."""

import asyncio
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from uuid import UUID

import httpx
import pytest

from producer.records import JobFilter
from producer.store import queries, recording, schedules
from shared.clock import utc_now
from shared.settings import Settings
from shared.states import JobState
from tests.support.api import RunningApi, running_api
from tests.support.factories import make_report

JOB = {"kind": "check", "args": {"url": "https://example.com/"}}


def post(api: RunningApi, path: str, document: object, **headers: str) -> httpx.Response:
    return api.client.post(
        path, json=document, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )


def test_the_same_request_with_the_same_key_gets_the_same_answer(api: RunningApi) -> None:
    first = post(api, "/jobs", JOB, Idempotency_Key="order 7")
    post(api, f"/jobs/{first.json()['id']}/cancel", None)

    again = post(api, "/jobs", JOB, Idempotency_Key="order 7")

    assert (again.status_code, again.json()) == (202, first.json())
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]


def test_a_replay_keeps_the_times_of_the_first_answer_when_they_have_passed(api: RunningApi) -> None:
    timed = {**JOB, "delay_seconds": 60, "expires_after_seconds": 60, "labels": {"team": "docs"}}
    first = post(api, "/jobs", timed, Idempotency_Key="timed")
    api.store.write(schedules.release_due, limit=10, now=utc_now() + timedelta(minutes=2))

    again = post(api, "/jobs", timed, Idempotency_Key="timed")

    assert (first.json()["state"], first.json()["deadline_at"] is None) == ("scheduled", False)
    assert (again.status_code, again.json()) == (202, first.json())


def test_a_replay_shows_the_arguments_that_were_sent_and_not_those_of_a_redrive(api: RunningApi) -> None:
    first = post(api, "/jobs", JOB, Idempotency_Key="order 8")
    job_id = UUID(first.json()["id"])
    api.store.write(recording.record_reports, [make_report(job_id, JobState.PARKED)], now=utc_now())
    redriven = post(api, f"/jobs/{job_id}/redrive", {"args": {"url": "https://other.example/"}})

    again = post(api, "/jobs", JOB, Idempotency_Key="order 8")

    assert redriven.json()["host"] == "other.example"
    assert (again.status_code, again.json()) == (202, first.json())


def test_a_duplicate_is_replayed_as_a_duplicate(api: RunningApi) -> None:
    original = post(api, "/jobs", JOB).json()
    unique = {**JOB, "unique_for_seconds": 60}

    first = post(api, "/jobs", unique, Idempotency_Key="once")
    again = post(api, "/jobs", unique, Idempotency_Key="once")

    assert (first.status_code, first.json()["duplicate_of"]) == (200, original["id"])
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]


def test_another_request_with_the_same_key_is_refused(api: RunningApi) -> None:
    post(api, "/jobs", JOB, Idempotency_Key="order 7")

    other = post(api, "/jobs", {**JOB, "lane": "bulk"}, Idempotency_Key="order 7")

    assert (other.status_code, other.json()["type"]) == (409, "urn:retriever:idempotency-conflict")


def test_keys_of_jobs_and_of_batches_are_apart(api: RunningApi) -> None:
    post(api, "/jobs", JOB, Idempotency_Key="7")

    batch = post(api, "/batches", {"kind": "check", "items": [JOB["args"]]}, Idempotency_Key="7")

    assert batch.status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_key_that_is_none_is_refused(api: RunningApi, key: str) -> None:
    refused = post(api, "/jobs", JOB, Idempotency_Key=key)

    assert refused.status_code == 400
    assert refused.json()["errors"][0]["loc"] == "/header/Idempotency-Key"


def test_a_batch_sent_again_is_stored_once(api: RunningApi) -> None:
    headers = {"Content-Type": "text/plain", "Idempotency-Key": "list of Monday"}
    lines = "http://example.com/1\nhttp://example.com/2\n"

    first = api.client.post("/batches?kind=check", content=lines, headers=headers)
    again = api.client.post("/batches?kind=check", content=lines, headers=headers)
    other = api.client.post("/batches?kind=fetch", content=lines, headers=headers)

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert other.status_code == 409
    assert (
        len(api.store.read(queries.search_jobs, JobFilter(), limit=10, after=None, project=None).records) == 2
    )


def test_a_batch_that_has_ended_is_replayed_as_it_was_accepted(api: RunningApi) -> None:
    document = {"kind": "check", "items": [JOB["args"], {"url": "nonsense"}], "delay_seconds": 60}
    first = post(api, "/batches", document, Idempotency_Key="list")
    post(api, f"/batches/{first.json()['id']}/cancel", None)

    again = post(api, "/batches", document, Idempotency_Key="list")

    assert first.json()["counts"]["scheduled"] == 1
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]


def test_a_job_that_asks_for_the_same_is_answered_with_the_one_there_is(api: RunningApi) -> None:
    first = post(api, "/jobs", JOB).json()

    fragment = {"kind": "check", "args": {"method": "auto", "url": "HTTPS://EXAMPLE.com#part"}}
    same = post(api, "/jobs", {**fragment, "unique_for_seconds": 60})

    assert (same.status_code, same.json()["id"], same.json()["duplicate_of"]) == (
        200,
        first["id"],
        first["id"],
    )
    assert same.headers["location"] == f"/jobs/{first['id']}"


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "fetch", "args": {"url": "https://example.com/"}},
        {"kind": "check", "args": {"url": "https://example.com/?a=1"}},
        {"kind": "check", "args": {"url": "https://example.com/", "method": "GET"}},
    ],
)
def test_a_job_that_asks_for_something_else_is_stored(api: RunningApi, other: dict[str, object]) -> None:
    post(api, "/jobs", JOB)

    assert post(api, "/jobs", {**other, "unique_for_seconds": 60}).status_code == 202


def test_without_a_window_the_same_is_stored_twice(api: RunningApi) -> None:
    assert post(api, "/jobs", JOB).json()["id"] != post(api, "/jobs", JOB).json()["id"]


def test_a_cancelled_batch_says_so(api: RunningApi) -> None:
    batch = post(api, "/batches", {"kind": "check", "items": [JOB["args"]] * 3}).json()

    cancelled = post(api, f"/batches/{batch['id']}/cancel", None)

    assert cancelled.status_code == 202
    assert (cancelled.json()["counts"]["cancelled"], cancelled.json()["cancelled_at"] is not None) == (
        3,
        True,
    )
    assert cancelled.json()["finished_at"] is not None


def test_a_job_is_cancelled_twice_and_not_when_unknown(api: RunningApi) -> None:
    job = post(api, "/jobs", JOB).json()

    answers = [post(api, f"/jobs/{job['id']}/cancel", None) for _ in range(2)]

    assert [(each.status_code, each.json()["state"]) for each in answers] == [(202, "cancelled")] * 2
    assert answers[0].json()["explanation"] == "Cancelled while no attempt was known to run."
    assert post(api, "/jobs/01a20410-0000-7000-8000-000000000000/cancel", None).status_code == 404


async def test_of_many_requests_for_the_same_thing_at_once_one_is_stored(database_url: str) -> None:
    with ExitStack() as running:
        apis = [running.enter_context(running_api(Settings(database_url=database_url))) for _ in range(2)]
        async with httpx.AsyncClient(timeout=60) as http:
            posts = [
                http.post(
                    f"http://127.0.0.1:{apis[number % 2].port}/jobs", json={**JOB, "unique_for_seconds": 60}
                )
                for number in range(60)
            ]
            answers = await asyncio.gather(*posts)

        assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 59}
        assert len({answer.json()["id"] for answer in answers}) == 1
