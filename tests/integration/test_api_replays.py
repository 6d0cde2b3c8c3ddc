"""Requests sent again with their Idempotency-Key, on both stores: answered as they were, word for word."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from producer.records import IdempotencyKey, JobFilter, KeyScope, NewJob, SubmissionStatus
from producer.store import endings, queries, recording, schedules, submissions
from producer.store.schema import idempotency_keys, jobs, operations
from producer.store.schema import schedules as schedules_table
from shared.clock import utc_now
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_job, make_report

CHECK = {"kind": "check", "args": {"url": "https://example.com/"}}
ITEMS = {"kind": "check", "items": [{"url": "https://example.com/"}, {"url": "nonsense"}]}
LINES = b"https://example.com/1\nnonsense\nhttps://example.com/2\n"
EVERY_MINUTE = {"every_seconds": 60, "job": CHECK}
KEY = {"Idempotency-Key": "k"}


def post(api: RunningApi, path: str, document: object, **headers: str) -> httpx.Response:
    return api.client.post(path, json=document, headers={**KEY, **headers})


def post_lines(api: RunningApi, query: str, lines: bytes = LINES) -> httpx.Response:
    return api.client.post(f"/batches?{query}", content=lines, headers={**KEY, "Content-Type": "text/plain"})


def soon() -> str:
    return (utc_now() + timedelta(seconds=60)).isoformat()


def unique_job(args: Mapping[str, Any], key: IdempotencyKey | None = None) -> NewJob:
    job = make_job(args=args, created_at=utc_now())
    return replace(job, unique_key=b"u" * 16, unique_for_seconds=600, idempotency=key)


def pass_time(monkeypatch: pytest.MonkeyPatch, **duration: float) -> None:
    """Let the API believe that it is later."""
    at = utc_now() + timedelta(**duration)
    for module in ("jobs", "batches", "batch_bodies", "schedules", "bulk_actions", "replays"):
        monkeypatch.setattr(f"producer.api.{module}.utc_now", lambda: at)


def assert_replayed(first: httpx.Response, again: httpx.Response) -> None:
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]


def count(api: RunningApi, table: sa.Table) -> int:
    with api.store.reading() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.mark.parametrize(
    "times",
    [
        lambda: {"deadline_at": soon()},
        lambda: {"run_at": soon()},
        lambda: {"run_at": soon(), "expires_after_seconds": 5},
        lambda: {"delay_seconds": 60, "expires_after_seconds": 0.5},
        dict,
    ],
)
def test_a_job_is_replayed_when_its_times_have_passed(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch, times: Callable[[], dict[str, Any]]
) -> None:
    document = {**CHECK, **times()}
    first = post(api, "/jobs", document)
    api.store.write(schedules.release_due, limit=10, now=utc_now() + timedelta(minutes=2))
    pass_time(monkeypatch, hours=1)

    again = post(api, "/jobs", document)

    assert first.status_code == 202
    assert_replayed(first, again)
    assert count(api, jobs) == 1


def test_a_job_that_was_redriven_with_other_arguments_is_replayed_as_it_was(api: RunningApi) -> None:
    first = post(api, "/jobs", CHECK)
    job_id = UUID(first.json()["id"])
    api.store.write(recording.record_reports, [make_report(job_id, JobState.PARKED)], now=utc_now())
    api.client.post(f"/jobs/{job_id}/redrive", json={"args": {"url": "https://other.example/"}})

    again = post(api, "/jobs", CHECK)

    assert_replayed(first, again)


def test_a_job_that_is_deleted_is_replayed_all_the_same(api: RunningApi) -> None:
    first = post(api, "/jobs", CHECK)
    with api.store.writing() as connection:
        connection.execute(jobs.delete())

    assert_replayed(first, post(api, "/jobs", CHECK))


def test_a_duplicate_is_replayed_as_it_was_when_the_job_has_ended_since(api: RunningApi) -> None:
    original = api.client.post("/jobs", json=CHECK).json()
    unique = {**CHECK, "unique_for_seconds": 60}
    first = post(api, "/jobs", unique)
    api.client.post(f"/jobs/{original['id']}/cancel")

    again = post(api, "/jobs", unique)

    assert (first.status_code, first.json()["duplicate_of"]) == (200, original["id"])
    assert_replayed(first, again)


@pytest.mark.parametrize("batch", [{"run_at": True}, {"deadline_at": True}, {}])
def test_a_batch_is_replayed_when_its_times_have_passed_and_it_is_cancelled(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch, batch: dict[str, Any]
) -> None:
    document = {**ITEMS, **dict.fromkeys(batch, soon())}
    first = post(api, "/batches", document)
    endings.cancel_batch(api.store, UUID(first.json()["id"]), now=utc_now(), project=None)
    pass_time(monkeypatch, hours=1)

    again = post(api, "/batches", document)

    assert (first.status_code, first.json()["rejected"]["count"]) == (202, 1)
    assert_replayed(first, again)
    assert count(api, jobs) == 1


@pytest.mark.parametrize("name", ["run_at", "deadline_at"])
def test_a_streamed_batch_is_replayed_when_its_times_have_passed(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    query = str(httpx.QueryParams({"kind": "check", name: soon()}))
    first = post_lines(api, query)
    pass_time(monkeypatch, hours=1)

    again = post_lines(api, query)
    other = post_lines(api, query, LINES + b"https://example.com/3\n")

    assert (first.status_code, first.json()["rejected"]["count"]) == (202, 1)
    assert_replayed(first, again)
    assert (other.status_code, other.json()["type"]) == (409, "urn:retriever:idempotency-conflict")
    assert count(api, jobs) == 2


@pytest.mark.parametrize("times", [{}, {"delay_seconds": 60}])
def test_the_answer_to_a_batch_is_what_its_address_shows(api: RunningApi, times: dict[str, float]) -> None:
    callback = {"callback_url": "https://hooks.example/", "callback_events": ["batch.completed"]}
    document = {**ITEMS, **times, **callback, "labels": {"b": "1", "a": "2"}}

    for answer in (
        api.client.post("/batches", json=document),
        post_lines(api, str(httpx.QueryParams(times))),
    ):
        assert answer.status_code == 202
        assert api.client.get(answer.headers["location"]).json() == answer.json()


def test_a_schedule_sent_again_is_made_once_and_answered_as_it_was(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {**EVERY_MINUTE, "starts_at": soon(), "name": "pulse"}
    first = post(api, "/schedules", document)
    shown = api.client.get(first.headers["location"]).json()
    api.client.post(f"{first.headers['location']}/pause")
    pass_time(monkeypatch, hours=23)

    again = post(api, "/schedules", document)
    other = post(api, "/schedules", EVERY_MINUTE)

    assert (first.status_code, first.json()) == (201, shown)
    assert_replayed(first, again)
    assert other.status_code == 409
    assert count(api, schedules_table) == 1


def test_a_run_asked_for_again_is_made_once(api: RunningApi) -> None:
    address = api.client.post("/schedules", json=EVERY_MINUTE).headers["location"]
    first = api.client.post(f"{address}/run", headers=KEY)
    api.client.post(f"{address}/run")

    again = api.client.post(f"{address}/run", headers=KEY)

    assert first.status_code == 202
    assert_replayed(first, again)
    assert again.json()["runs"] == 1
    assert count(api, jobs) == 2


@pytest.mark.parametrize("action", ["redrive", "discard"])
def test_an_operation_asked_for_again_is_begun_once(api: RunningApi, action: str) -> None:
    job = make_job()
    api.store.write(submissions.insert_jobs, [job])
    api.store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=utc_now())
    document = {"filter": {"kind": "check"}}
    dry = post(api, f"/parked/{action}", {**document, "dry_run": True})
    first = post(api, f"/parked/{action}", document)
    api.client.post(f"{first.headers['location']}/cancel")

    again = post(api, f"/parked/{action}", document)
    other = post(api, f"/parked/{'discard' if action == 'redrive' else 'redrive'}", document)

    assert (dry.status_code, first.status_code, first.json()["total"]) == (200, 202, 1)
    assert_replayed(first, again)
    assert other.status_code == 409
    assert count(api, operations) == 1


@pytest.mark.parametrize("path", ["/jobs", "/batches", "/schedules"])
def test_a_request_that_was_refused_leaves_its_key_free(api: RunningApi, path: str) -> None:
    valid = {"/jobs": CHECK, "/batches": ITEMS, "/schedules": EVERY_MINUTE}[path]

    refused = post(api, path, {"kind": "nonsense"})
    stored = post(api, path, valid)

    assert (refused.status_code, stored.status_code) == (400, 201 if path == "/schedules" else 202)
    assert "idempotent-replayed" not in stored.headers


@pytest.mark.parametrize("path", ["/jobs", "/batches"])
def test_a_key_that_version_0_1_0_took_is_answered_as_that_version_does(api: RunningApi, path: str) -> None:
    document: dict[str, Any] = {**(CHECK if path == "/jobs" else ITEMS), "delay_seconds": 60}
    first = post(api, path, document)
    with api.store.writing() as connection:
        nothing = dict.fromkeys(("answer", "answer_status", "answer_location"))
        connection.execute(idempotency_keys.update().values(nothing))

    assert_replayed(first, post(api, path, document))
    assert post(api, path, {**document, "delay_seconds": 61}).status_code == 409


def test_a_key_is_free_again_after_a_day(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [post(api, "/jobs", CHECK), post(api, "/batches", ITEMS), post(api, "/schedules", EVERY_MINUTE)]
    pass_time(monkeypatch, hours=25)

    later = [post(api, "/jobs", CHECK), post(api, "/batches", ITEMS), post(api, "/schedules", EVERY_MINUTE)]

    assert [each.headers["location"] for each in first] != [each.headers["location"] for each in later]
    assert all("idempotent-replayed" not in each.headers for each in later)


def test_jobs_of_one_commit_with_one_key_are_answered_with_a_job_that_is_stored(api: RunningApi) -> None:
    there = make_job()
    api.store.write(submissions.admit_jobs, [unique_job(there.args)])
    key = IdempotencyKey(KeyScope.JOB, "one", b"same", utc_now() + timedelta(days=1), project="default")
    group = [unique_job(there.args, key) for _ in range(3)]

    answers = api.store.write(submissions.admit_jobs, group)

    (stored,) = api.store.read(queries.search_jobs, JobFilter(), limit=10, after=None, project=None).records
    assert {answer.id for answer in answers.values()} == {stored.id}
    statuses = [answers[job.id].status for job in group]
    assert statuses == [SubmissionStatus.DUPLICATE, *[SubmissionStatus.DUPLICATE_REPLAYED] * 2]


@pytest.mark.parametrize("unique", [{}, {"unique_for_seconds": 600}])
@pytest.mark.parametrize("is_there", [False, True])
async def test_one_request_many_times_at_once_gets_one_answer(
    api: RunningApi, unique: dict[str, Any], is_there: bool
) -> None:
    if is_there:
        api.client.post("/jobs", json=CHECK)
    async with httpx.AsyncClient(base_url=api.client.base_url, timeout=30) as client:
        answers = await asyncio.gather(
            *(client.post("/jobs", json={**CHECK, **unique}, headers=KEY) for _ in range(24)),
            *(client.post("/batches", json=ITEMS, headers=KEY) for _ in range(6)),
            *(client.post("/schedules", json=EVERY_MINUTE, headers=KEY) for _ in range(6)),
        )

    for each in (answers[:24], answers[24:30], answers[30:]):
        assert len({(answer.status_code, answer.content, answer.headers["location"]) for answer in each}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in each) == 1
        assert api.client.get(each[0].headers["location"]).status_code == 200


@pytest.mark.parametrize("path", ["/jobs", "/batches", "/schedules", "/parked/redrive"])
def test_two_idempotency_keys_are_refused(api: RunningApi, path: str) -> None:
    fields = [("Idempotency-Key", "a"), ("idempotency-key", "a")]

    refused = api.client.post(path, json=CHECK, headers=fields)

    assert refused.status_code == 400
    assert refused.json()["errors"][0]["loc"] == "/header/Idempotency-Key"
    assert count(api, jobs) == 0


def test_two_actors_are_refused(api: RunningApi) -> None:
    fields = [("Retriever-Actor", "ann"), ("Retriever-Actor", "bob")]

    refused = api.client.post("/kinds/check/pause", headers=fields)

    assert refused.status_code == 400
    assert refused.json()["errors"][0]["loc"] == "/header/Retriever-Actor"
    assert api.client.get("/kinds").json()["items"][0]["queues"][0]["paused"] is None
