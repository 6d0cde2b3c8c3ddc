"""Schedules over HTTP, on both stores: create, look up, pause, resume, run now, delete."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.support.api import RunningApi

JOB = {"kind": "check", "args": {"url": "https://example.com/"}}
BATCH = {"kind": "check", "items": [{"url": "https://example.com/"}, {"url": "https://example.org/"}]}


def create(api: RunningApi, **fields: Any) -> dict[str, Any]:
    response = api.client.post("/schedules", json={"every_seconds": 3600, "job": JOB, **fields})
    assert response.status_code == 201, response.text
    document: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/schedules/{document['id']}"
    return document


def act(api: RunningApi, schedule: dict[str, Any], action: str) -> httpx.Response:
    return api.client.post(f"/schedules/{schedule['id']}/{action}")


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def test_a_schedule_shows_its_next_five_times(api: RunningApi) -> None:
    schedule = create(api, name="pulse", labels={"team": "docs"})

    runs = schedule["next_runs"]
    assert len(runs) == 5
    assert seconds_between(schedule["created_at"], runs[0]) == 3600
    assert {seconds_between(*pair) for pair in pairwise(runs)} == {3600}
    assert (schedule["name"], schedule["labels"], schedule["job"]) == ("pulse", {"team": "docs"}, JOB)
    assert (schedule["overlap"], schedule["catch_up"], schedule["paused"]) == ("skip", "one", False)
    assert (schedule["last_run"], schedule["runs"], schedule["batch"]) == (None, 0, None)
    assert api.client.get(f"/schedules/{schedule['id']}").json() == schedule


def test_who_orders_what_of_a_schedule_or_a_cancel_is_in_the_audit_log(api: RunningApi) -> None:
    schedule = create(api, batch=BATCH, job=None)
    as_ann = {"Retriever-Actor": "ann"}
    path = f"/schedules/{schedule['id']}"
    for action in ("run", "pause", "resume"):
        assert api.client.post(f"{path}/{action}", headers=as_ann).status_code < 300
    (batch,) = api.client.get("/batches").json()["items"]
    job = api.client.get("/jobs").json()["items"][0]
    api.client.post(f"/jobs/{job['id']}/cancel", headers=as_ann)
    api.client.post(f"/batches/{batch['id']}/cancel", headers=as_ann)
    api.client.delete(path, headers=as_ann)

    entries = api.client.get("/audit").json()["items"]
    assert [
        (entry["action"], entry["target"]) for entry in reversed(entries) if entry["by"] == "anonymous (ann)"
    ] == [
        ("schedule_run_made", f"schedule/{schedule['id']}"),
        ("schedule_paused", f"schedule/{schedule['id']}"),
        ("schedule_resumed", f"schedule/{schedule['id']}"),
        ("job_cancelled", f"job/{job['id']}"),
        ("batch_cancelled", f"batch/{batch['id']}"),
        ("schedule_deleted", f"schedule/{schedule['id']}"),
    ]
    assert entries[-1]["action"] == "schedule_created"
    assert api.client.get("/audit", params={"target": f"batch/{batch['id']}"}).json()["items"] == entries[1:2]


def test_labels_of_a_schedule_and_its_job_are_twenty_at_most(api: RunningApi) -> None:
    def labels(prefix: str, count: int) -> dict[str, str]:
        return {f"{prefix}{number}": "x" for number in range(count)}

    job = {**JOB, "labels": labels("a", 12)}
    body = {"every_seconds": 3600, "job": job}
    assert create(api, job=job, labels=labels("b", 8))["labels"] == labels("b", 8)

    answer = api.client.post("/schedules", json={**body, "labels": labels("b", 9)})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["loc"] == "/labels"


def test_a_cron_schedule_goes_by_the_clock_of_its_place(api: RunningApi) -> None:
    schedule = create(api, every_seconds=None, cron="30 9 * * *", timezone="Asia/Kolkata")

    # Half past nine in India is four o'clock UTC, all year.
    assert {run[11:] for run in schedule["next_runs"]} == {"04:00:00Z"}
    assert (schedule["cron"], schedule["timezone"]) == ("30 9 * * *", "Asia/Kolkata")
    assert create(api, every_seconds=None, cron="* * * * *")["timezone"] == "UTC"


def test_the_times_of_an_interval_are_counted_from_its_start(api: RunningApi) -> None:
    starts_at = datetime.now(UTC) + timedelta(days=1)

    schedule = create(api, starts_at=starts_at.isoformat())

    assert datetime.fromisoformat(schedule["next_runs"][0]) == starts_at


def test_a_run_now_makes_a_job_that_is_found_by_its_schedule(api: RunningApi) -> None:
    schedule = create(api)

    response = act(api, schedule, "run")

    assert response.status_code == 202
    after = response.json()
    job = api.client.get(response.headers["location"]).json()
    assert (job["schedule_id"], job["state"]) == (schedule["id"], "accepted")
    assert (after["last_run"]["job_id"], after["runs"]) == (job["id"], 1)
    assert after["next_runs"] == schedule["next_runs"]
    listed = api.client.get("/jobs", params={"schedule": schedule["id"]}).json()["items"]
    assert [each["id"] for each in listed] == [job["id"]]


def test_a_template_with_a_wrong_item_is_refused_whether_or_not_it_is_strict(api: RunningApi) -> None:
    for strict in (True, False):
        items = [{"url": "http://a.example/"}, {"url": "nonsense"}]
        batch = {"kind": "check", "items": items, "strict": strict}

        response = api.client.post("/schedules", json={"every_seconds": 60, "batch": batch})

        assert response.status_code == 400
        assert response.json()["errors"][0]["loc"] == "/batch/items/1/url"


def test_a_run_of_a_batch_makes_a_batch(api: RunningApi) -> None:
    schedule = create(api, job=None, batch=BATCH)

    response = act(api, schedule, "run")

    batch = api.client.get(response.headers["location"]).json()
    assert (batch["total"], batch["schedule_id"]) == (2, schedule["id"])
    assert response.json()["last_run"]["batch_id"] == batch["id"]


def test_a_schedule_is_paused_resumed_and_deleted(api: RunningApi) -> None:
    schedule = create(api)

    paused = act(api, schedule, "pause").json()
    resumed = act(api, schedule, "resume").json()
    deleted = api.client.delete(f"/schedules/{schedule['id']}")

    assert (paused["paused"], paused["next_runs"]) == (True, [])
    assert (resumed["paused"], resumed["next_runs"]) == (False, schedule["next_runs"])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert api.client.get(f"/schedules/{schedule['id']}").status_code == 404


def test_schedules_are_listed_newest_first_a_page_at_a_time(api: RunningApi) -> None:
    ids = [create(api)["id"] for _ in range(3)]

    first = api.client.get("/schedules", params={"limit": 2}).json()
    second = api.client.get("/schedules", params={"limit": 2, "cursor": first["next"]}).json()

    assert [each["id"] for each in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None


def test_an_unknown_schedule_is_not_found(api: RunningApi) -> None:
    for name in ("x", "01a203ed-41f9-7748-9387-575740560da6"):
        requests = [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run")]
        for method, action in requests:
            response = api.client.request(method, f"/schedules/{name}{action}")

            assert response.status_code == 404
            assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"cron": "* * * * *"}, "/cron"),
        ({"every_seconds": None}, "/cron"),
        ({"every_seconds": 0}, "/every_seconds"),
        ({"every_seconds": 1.5}, "/every_seconds"),
        ({"every_seconds": None, "cron": "* * * *"}, "/cron"),
        ({"every_seconds": None, "cron": "0 0 31 2 *"}, "/cron"),
        ({"every_seconds": None, "cron": "* * * * *", "timezone": "Mars/Base"}, "/timezone"),
        ({"every_seconds": None, "cron": "* * * * *", "timezone": "../../etc/passwd"}, "/timezone"),
        *(
            ({"every_seconds": None, "cron": "* * * * *", "timezone": name}, "/timezone")
            for name in (
                "",
                " ",
                "localtime",
                "posixrules",
                "Factory",
                "europe/berlin",
                "UTC\n",
                "+01:00",
                "X",
            )
        ),
        ({"every_seconds": None, "cron": "*/90 * * * *"}, "/cron"),
        ({"every_seconds": None, "cron": "0 0 30 2 *"}, "/cron"),
        ({"every_seconds": None, "cron": ""}, "/cron"),
        ({"timezone": "Europe/Berlin"}, "/timezone"),
        ({"batch": BATCH}, "/job"),
        ({"job": None}, "/job"),
        ({"job": {"kind": "check", "args": {"url": "nonsense"}}}, "/job/args/url"),
        ({"job": {"kind": "nonsense", "args": {}}}, "/job/kind"),
        ({"job": {**JOB, "run_at": "2026-01-01T00:00:00Z"}}, "/job/run_at"),
        ({"job": {**JOB, "lane": "fast"}}, "/job/lane"),
        ({"job": None, "batch": {**BATCH, "items": [{"url": "nonsense"}]}}, "/batch/items/0/url"),
        ({"starts_at": "2999-01-01T00:00:00Z"}, "/starts_at"),
        ({"overlap": "queue"}, "/overlap"),
        ({"catch_up": "some"}, "/catch_up"),
        ({"jobs": []}, "/jobs"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named(api: RunningApi, fields: dict[str, Any], loc: str) -> None:
    response = api.client.post("/schedules", json={"every_seconds": 3600, "job": JOB, **fields})

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["loc"] == loc
    assert api.client.get("/schedules").json() == {"items": [], "next": None}
