"""Parked jobs over HTTP, on both stores: groups, edits, discards, operations, and what is refused."""

from typing import Any

import pytest

from producer.store import recording, submissions
from producer.store.schema import audit
from shared.identity import new_id
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import NOON, make_job, make_report

ANN = {"Retriever-Actor": "ann@example.com"}


def park(api: RunningApi, *, host: str = "a.example") -> str:
    job = make_job(host=host)
    api.store.write(submissions.insert_jobs, [job])
    api.store.write(recording.record_reports, [make_report(job.id, JobState.PARKED)], now=NOON)
    return str(job.id)


def test_a_group_can_be_asked_for_by_its_id(api: RunningApi) -> None:
    park(api)
    park(api, host="b.example")
    groups = api.client.get("/parked", params={"host": "B.example", "reason": "http_503"}).json()
    (group,) = groups["items"]

    body = {"filter": {"group": group["group"]}, "dry_run": True}
    answer = api.client.post("/parked/discard", json=body)

    assert (group["kind"], group["reason"], group["host"], group["count"]) == (
        "check",
        "http_503",
        "b.example",
        1,
    )
    assert answer.json() == {"matching": 1}


def test_a_redrive_with_edited_arguments_keeps_the_old_ones_in_the_audit_log(api: RunningApi) -> None:
    job_id = park(api)

    answer = api.client.post(
        f"/jobs/{job_id}/redrive", json={"args": {"url": "HTTPS://B.example"}}, headers=ANN
    )

    assert answer.status_code == 202
    job = answer.json()
    assert (job["args"], job["host"], job["run"]) == ({"url": "https://b.example/"}, "b.example", 2)
    (entry,) = api.client.get("/audit", params={"target": f"job/{job_id}"}).json()["items"]
    assert (entry["action"], entry["by"]) == ("job_redriven", "ann@example.com")
    assert entry["details"]["old_args"] == {"url": "https://a.example/"}


def test_the_audit_log_shows_what_only_a_newer_version_does(api: RunningApi) -> None:
    row = {
        "id": new_id(),
        "at": NOON,
        "by": "ann",
        "action": "levitated",
        "target": "kind/check",
        "details": {},
    }
    with api.store.writing() as connection:
        connection.execute(audit.insert().values(row))

    (entry,) = api.client.get("/audit").json()["items"]

    assert (entry["action"], entry["by"]) == ("levitated", "ann")


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"args": {"url": "ftp://a.example"}}, "/args/url"),
        ({"args": {}}, "/args/url"),
        ({"arguments": {}}, "/arguments"),
    ],
)
def test_wrong_edited_arguments_are_refused_by_name(api: RunningApi, body: dict[str, Any], loc: str) -> None:
    job_id = park(api)

    answer = api.client.post(f"/jobs/{job_id}/redrive", json=body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["loc"] == loc
    assert api.client.get(f"/jobs/{job_id}").json()["state"] == "parked"


def test_a_discarded_job_says_who_ended_it(api: RunningApi) -> None:
    job_id = park(api)

    answer = api.client.post(f"/jobs/{job_id}/discard")

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["reason"]) == ("cancelled", "discarded")
    assert answer.json()["explanation"] == "Discarded from the parking lot by anonymous."
    assert api.client.post(f"/jobs/{job_id}/discard").status_code == 409


def test_an_operation_is_listed_and_can_be_cancelled_twice(api: RunningApi) -> None:
    park(api)
    body = {"filter": {"kind": "check", "older_than_seconds": 0}}

    begun = api.client.post("/parked/redrive", json=body, headers=ANN)
    path = begun.headers["location"]
    cancelled = [api.client.post(f"{path}/cancel") for _ in range(2)]

    assert begun.status_code == 202
    assert (begun.json()["filter"], begun.json()["rate_per_second"], begun.json()["by"]) == (
        body["filter"],
        50,
        "ann@example.com",
    )
    assert [answer.json()["state"] for answer in cancelled] == ["cancelled"] * 2
    assert api.client.get("/operations").json() == {"items": [cancelled[0].json()], "next": None}


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, "/filter"),
        ({"filter": {}}, "/filter"),
        ({"filter": {"hosts": "a"}}, "/filter/hosts"),
        ({"filter": {"group": "nonsense"}}, "/filter/group"),
        ({"filter": {"ids": []}}, "/filter/ids"),
        ({"filter": {"ids": [str(new_id())] * 1_001}}, "/filter/ids"),
        ({"filter": {"kind": "check"}, "rate_per_second": 1_001}, "/rate_per_second"),
    ],
)
def test_a_wrong_order_is_refused_by_name(api: RunningApi, body: dict[str, Any], loc: str) -> None:
    answer = api.client.post("/parked/discard", json=body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["loc"] == loc
    assert api.client.get("/operations").json()["items"] == []


def test_a_name_that_no_log_should_hold_is_refused(api: RunningApi) -> None:
    job_id = park(api)

    answer = api.client.post(f"/jobs/{job_id}/discard", headers={"Retriever-Actor": "a" * 101})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["loc"] == "/header/Retriever-Actor"


def test_what_is_done_or_unknown_cannot_be_cancelled(api: RunningApi) -> None:
    done = api.client.post("/parked/redrive", json={"filter": {"kind": "fetch"}}).headers["location"]

    answers = [api.client.post(f"{path}/cancel") for path in (done, f"/operations/{new_id()}")]

    assert [answer.json()["type"] for answer in answers] == [
        "urn:retriever:operation-finished",
        "urn:retriever:operation-not-found",
    ]


def test_the_retention_is_shown(api: RunningApi) -> None:
    retention = api.client.get("/retention").json()

    assert (retention["days"], retention["states"]) == (7, ["succeeded", "cancelled"])


@pytest.mark.parametrize("path", ["/operations/%0Ax", "/batches/%0Ax/results", "/jobs/x%0A"])
def test_a_newline_in_a_path_is_not_found(api: RunningApi, path: str) -> None:
    assert api.client.get(path).status_code == 404
