"""What a project may have, as callers meet it: told in problems, shown, and set by operators alone."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from producer.quotas import DESCRIPTIONS, LimitName
from producer.store import quotas, recording
from producer.store.database import Database
from producer.store.schema import jobs, metadata
from shared.states import JobState
from tests.integration.test_api_rates import answers, api_processes
from tests.support.api import RunningApi
from tests.support.commands import run_producer
from tests.support.factories import NOON, make_report
from tests.support.keys import bearer, make_key
from tests.support.projects import Callers
from tests.support.quotas import limit, usage_of

WEB = "web"
JOB = {"kind": "check", "args": {"url": "https://example.com/"}}
ITEM = {"url": "https://example.com/"}


@pytest.fixture
def api(module_api: RunningApi) -> RunningApi:
    """Return an API that has nothing but keys: none that others use gets any."""
    with module_api.store.writing() as connection:
        for table in reversed(metadata.sorted_tables):
            if table.name not in {"api_keys", "api_key_secrets", "secret_keys"}:
                connection.execute(table.delete())
    module_api.store.known_limits.forget()
    return module_api


@pytest.fixture(scope="module")
def callers(module_api: RunningApi) -> Callers:
    """Return the callers, each with a key."""
    return Callers(module_api)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for other processes: there are none."""
    monkeypatch.setattr("producer.store.quotas.SETTLED_SECONDS", 0.0)


def batch_of(count: int, **fields: Any) -> dict[str, Any]:
    return {"kind": "check", "items": [ITEM] * count, "dedupe": False, **fields}


def value_of(shown: httpx.Response, name: str) -> tuple[int | None, str | None, int | None]:
    (found,) = [item for item in shown.json()["items"] if item["name"] == name]
    return found["value"], found["source"], found["used"]


def test_a_full_project_is_told_which_limit_its_value_and_what_is_used(
    api: RunningApi, callers: Callers
) -> None:
    limit(api.store, WEB, stored_jobs=2)
    headers = callers.of(WEB)

    stored = [api.client.post("/jobs", json=JOB, headers=headers).status_code for _ in range(2)]
    refused = api.client.post("/jobs", json=JOB, headers=headers)
    task = api.client.post("/tasks", json={"payload": 1}, headers=headers)
    batch = api.client.post("/batches", json=batch_of(3), headers=headers)
    others = api.client.post("/jobs", json=JOB, headers=callers.of("other"))

    assert stored == [202, 202]
    told = {"name": "stored_jobs", "project": WEB, "value": 2, "used": 2}
    for answer in (refused, task, batch):
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:retriever:quota-reached")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["limit"] == told
        # Nothing that waiting helps against.
        assert "retry-after" not in answer.headers
    assert refused.json()["detail"] == (
        "The project web may store 2 jobs, and stores 2 (stored_jobs). What has ended makes room when its "
        "retention is over."
    )
    assert "3 more do not fit" in batch.json()["detail"]
    assert others.status_code == 202
    assert usage_of(api.store, WEB).jobs == 2


def test_a_repeated_request_is_answered_as_before_in_a_full_project(
    api: RunningApi, callers: Callers
) -> None:
    limit(api.store, WEB, stored_jobs=1)
    headers = {**callers.of(WEB), "Idempotency-Key": "once"}

    first, again = [api.client.post("/jobs", json=JOB, headers=headers) for _ in range(2)]
    other = api.client.post("/jobs", json=JOB, headers={**headers, "Idempotency-Key": "twice"})
    limit(api.store, WEB, stored_jobs=2)
    later = api.client.post("/jobs", json=JOB, headers={**headers, "Idempotency-Key": "twice"})

    assert (first.status_code, again.status_code, again.content) == (202, 202, first.content)
    assert other.status_code == 409
    assert (later.status_code, "idempotent-replayed" in later.headers) == (202, False)


@pytest.mark.parametrize("media_type", ["text/plain", "application/json"])
def test_a_batch_larger_than_its_project_may_hand_in_is_refused_whole(
    api: RunningApi, callers: Callers, media_type: str
) -> None:
    limit(api.store, WEB, batch_jobs=3)

    def post(count: int, project: str) -> httpx.Response:
        headers = callers.of(project)
        if media_type == "application/json":
            return api.client.post("/batches", json=batch_of(count), headers=headers)
        lines = b"https://example.com/\n" * count
        headers = {**headers, "Content-Type": media_type}
        return api.client.post("/batches?kind=check&dedupe=false", content=lines, headers=headers)

    fits, refused, of_others = post(3, WEB), post(4, WEB), post(4, "other")

    assert (fits.status_code, refused.status_code, of_others.status_code) == (202, 413, 202)
    assert refused.json()["type"] == "urn:retriever:batch-too-large"
    assert refused.json()["limit"] == {"name": "batch_jobs", "project": WEB, "value": 3, "used": 4}


def test_so_many_batches_of_a_project_run_and_who_is_refused_is_told_to_wait(
    api: RunningApi, callers: Callers
) -> None:
    limit(api.store, WEB, unfinished_batches=1)
    headers = callers.of(WEB)
    first = api.client.post("/batches", json=batch_of(1), headers=headers)
    refused = api.client.post("/batches", json=batch_of(1), headers=headers)
    (job,) = api.client.get(f"/jobs?batch_id={first.json()['id']}", headers=headers).json()["items"]
    api.store.write(recording.record_reports, [make_report(job["id"], JobState.SUCCEEDED)], now=NOON)
    again = api.client.post("/batches", json=batch_of(1), headers=headers)

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    assert refused.json()["limit"] == {"name": "unfinished_batches", "project": WEB, "value": 1, "used": 1}
    assert again.status_code == 202


def test_lines_that_became_no_job_are_listed_up_to_the_limit_of_the_project(
    api: RunningApi, callers: Callers
) -> None:
    limit(api.store, WEB, rejected_lines=20)
    lines = b"https://example.com/\n" + b"nonsense\n" * 50

    def post(project: str) -> dict[str, Any]:
        headers = {**callers.of(project), "Content-Type": "text/plain"}
        batch = api.client.post("/batches?kind=check", content=lines, headers=headers).json()
        said: dict[str, Any] = batch["rejected"]
        return said

    ours, others = post(WEB), post("other")

    # One more tells of those that are not listed.
    assert (ours["count"], ours["listed"]) == (50, 21)
    assert (others["count"], others["listed"]) == (50, 50)


@pytest.mark.parametrize("path", ["/jobs", "/tasks", "/batches", "/schedules"])
def test_more_labels_than_a_project_may_use_are_the_fault_of_a_field(
    api: RunningApi, callers: Callers, path: str
) -> None:
    limit(api.store, WEB, labels=1)
    labels = {"a": "1", "b": "2"}
    documents = {
        "/jobs": {**JOB, "labels": labels},
        "/tasks": {"payload": 1, "labels": labels},
        "/batches": batch_of(1, labels=labels),
        "/schedules": {"every_seconds": 60, "job": JOB, "labels": labels},
    }

    refused = api.client.post(path, json=documents[path], headers=callers.of(WEB))
    of_others = api.client.post(path, json=documents[path], headers=callers.of("other"))

    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (400, "/labels")
    assert "may put 1 on one (labels)" in refused.json()["detail"]
    assert of_others.is_success


def test_a_schedule_beyond_the_limit_and_a_run_in_a_full_project_are_refused(
    api: RunningApi, callers: Callers
) -> None:
    limit(api.store, WEB, schedules=1, stored_jobs=1)
    headers, document = callers.of(WEB), {"every_seconds": 3_600, "job": JOB}
    first = api.client.post("/schedules", json=document, headers=headers)
    second = api.client.post("/schedules", json=document, headers=headers)
    runs = [api.client.post(f"/schedules/{first.json()['id']}/run", headers=headers) for _ in range(2)]

    assert (first.status_code, second.status_code) == (201, 409)
    assert second.json()["limit"] == {"name": "schedules", "project": WEB, "value": 1, "used": 1}
    assert [run.status_code for run in runs] == [202, 409]
    assert runs[1].json()["limit"]["name"] == "stored_jobs"


def test_a_project_sees_what_it_may_have_and_has(api: RunningApi, callers: Callers) -> None:
    headers = callers.of(WEB)
    for _ in range(2):
        api.client.post("/jobs", json=JOB, headers=headers)
    api.client.post("/tasks", json={"payload": 1}, headers=headers)
    api.client.post("/batches", json=batch_of(1), headers=headers)
    before = api.client.get("/limits", headers=headers)
    limit(api.store, WEB, stored_jobs=10, labels=3)
    limit(api.store, "*", schedules=5)

    after = api.client.get("/limits", headers=headers)

    assert before.status_code == 200
    assert [item["name"] for item in before.json()["items"]] == list(LimitName)
    assert value_of(before, "stored_jobs") == (None, None, 4)
    assert value_of(after, "stored_jobs") == (10, "project", 4)
    assert value_of(after, "stored_tasks") == (None, None, 1)
    assert value_of(after, "unfinished_batches") == (None, None, 1)
    assert value_of(after, "schedules") == (5, "every", 0)
    assert value_of(after, "labels") == (3, "project", None)
    assert api.client.get("/projects/web/limits", headers=headers).json() == after.json()
    assert api.client.get("/projects/web/limits", headers=callers.of(None)).json() == after.json()


def test_limits_of_another_project_are_not_there_and_nobody_but_an_operator_sets_any(
    api: RunningApi, callers: Callers
) -> None:
    limit(api.store, "theirs", stored_jobs=3)
    for project in ("theirs", "nobody", "*"):
        seen = api.client.get(f"/projects/{project}/limits", headers=callers.of(WEB))
        assert (seen.status_code, seen.json()["detail"]) == (
            404,
            "No project that you may see has this name.",
        )
    for project in ("theirs", WEB, "*"):
        asked = {"stored_jobs": 9}
        refused = api.client.put(f"/projects/{project}/limits", json=asked, headers=callers.of(WEB))
        assert refused.status_code == 403

    assert api.store.read(quotas.read_limits).by_project == {"theirs": {LimitName.STORED_JOBS: 3}}


def test_an_operator_sets_and_takes_away_limits_and_the_log_keeps_it(
    api: RunningApi, callers: Callers
) -> None:
    operator = callers.of(None)
    api.client.post("/jobs", json=JOB, headers=callers.of(WEB))

    put = api.client.put("/projects/web/limits", json={"stored_jobs": 1, "labels": None}, headers=operator)
    full = api.client.post("/jobs", json=JOB, headers=callers.of(WEB))
    gone = api.client.put("/projects/web/limits", json={}, headers=operator)
    again = api.client.post("/jobs", json=JOB, headers=callers.of(WEB))
    log = api.client.get("/audit?target=project/web", headers=operator).json()["items"]
    seen = api.client.get("/audit?target=project/web", headers=callers.of(WEB)).json()["items"]

    assert value_of(put, "stored_jobs") == (1, "project", 1)
    assert (full.status_code, again.status_code) == (409, 202)
    assert value_of(gone, "stored_jobs") == (None, None, 1)
    assert [entry["details"]["limits"] for entry in log] == [{}, {"stored_jobs": 1}]
    assert {(entry["action"], entry["by"]) for entry in log} == {("limits_set", "key:of-None")}
    assert seen == log


@pytest.mark.parametrize(
    ("document", "loc"),
    [
        ({"stored_jobs": -1}, "/stored_jobs"),
        ({"stored_jobs": 1.5}, "/stored_jobs"),
        ({"stored_jobs": 10**13}, "/stored_jobs"),
        ({"labels": 21}, "/labels"),
        ({"audit_days": 0}, "/audit_days"),
        ({"rejected_lines": 19}, "/rejected_lines"),
        ({"jobs": 3}, "/jobs"),
    ],
    ids=str,
)
def test_what_is_no_limit_is_refused_by_its_field(
    api: RunningApi, callers: Callers, document: dict[str, Any], loc: str
) -> None:
    refused = api.client.put("/projects/web/limits", json=document, headers=callers.of(None))

    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (400, loc)
    assert api.store.read(quotas.read_limits).by_project == {}


def test_each_limit_says_what_it_is() -> None:
    assert list(DESCRIPTIONS) == list(LimitName)


async def test_two_processes_that_race_for_the_last_places_let_in_as_many_as_there_are(
    database_url: str, store: Database
) -> None:
    key = make_key(store, "busy", project=WEB)
    operator = make_key(store, "operator")
    with api_processes(database_url, 2) as urls:
        for url in urls:
            assert (await answers(url, key)).status_code == 200
        # Both go by it once it is answered, whichever was asked.
        asked = {"stored_jobs": 40}
        async with httpx.AsyncClient(headers=bearer(operator), timeout=30) as client:
            put = await client.put(f"{urls[0]}/projects/web/limits", json=asked)
        assert put.status_code == 200
        start = threading.Barrier(16)

        def race(number: int) -> list[int]:
            start.wait()
            with httpx.Client(base_url=urls[number % 2], headers=bearer(key), timeout=60) as client:
                return [
                    client.post("/batches", json=batch_of(2)).status_code
                    if number % 4 == 3
                    else client.post("/jobs", json=JOB).status_code
                    for _ in range(8)
                ]

        def race_all() -> list[list[int]]:
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(race, range(16)))

        statuses = await asyncio.to_thread(race_all)

    assert {status for each in statuses for status in each} == {202, 409}
    with store.reading() as connection:
        stored = connection.scalar(sa.select(sa.func.count()).where(jobs.c.project == WEB))
    assert stored == 40
    assert usage_of(store, WEB).jobs == 40


# The command has no SQL of its own.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_command_line_sets_lists_and_shows_limits(database_url: str, store: Database) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = run_producer(database_url, "amqp://127.0.0.1:1/", "projects", "limits", *arguments)
        return done.returncode, done.stdout + done.stderr

    began = time.monotonic()
    first = run("set", WEB, "stored_jobs=5", "labels=3")
    # In the other process it was not patched.
    assert time.monotonic() - began >= 1.5
    second = run("set", WEB, "labels=none", "batch_jobs=2")
    every = run("set", "*", "schedules=7")
    wrong = [run("set", WEB, each)[1] for each in ("jobs=3", "labels=21", "labels=", "stored_jobs")]

    assert first == (0, "web  stored_jobs=5  labels=3\n")
    assert second == (0, "web  stored_jobs=5  batch_jobs=2\n")
    assert every == (0, "*  schedules=7\n")
    assert run("list") == (0, "*  schedules=7\nweb  stored_jobs=5  batch_jobs=2\n")
    assert run("show", WEB) == (
        0,
        "stored_jobs=5  schedules=7  batch_jobs=2\nstores 0 jobs, 0 of them tasks\n",
    )
    assert "jobs is none of stored_jobs, stored_tasks" in wrong[0]
    assert "labels is none, or 0 to 20" in wrong[1]
    assert all("is none, or" in each for each in wrong[1:])
    assert run("set", "No Project", "labels=1")[0] == 2
