"""Parked jobs over HTTP, on both stores: groups, edits, discards, operations, and what is refused."""

from collections.abc import Iterable
from typing import Any

import httpx
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
    assert (entry["action"], entry["by"]) == ("job_redriven", "anonymous (ann@example.com)")
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


def test_a_batch_and_a_time_are_called_the_same_in_every_filter(api: RunningApi) -> None:
    job_id = park(api)
    batch = api.client.post("/batches", json={"kind": "check", "items": [{"url": "https://a.example/"}]})
    ids = [batch.json()["id"], str(new_id())]

    def matching(**fields: Any) -> int:
        answer = api.client.post("/parked/redrive", json={"filter": fields, "dry_run": True})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["matching"])

    def grouped(**fields: str) -> int:
        answer = api.client.get("/parked", params=fields)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["total_jobs"])

    def listed(name: str) -> list[int]:
        return [len(api.client.get("/jobs", params={name: each}).json()["items"]) for each in ids]

    parked_at = api.client.get(f"/jobs/{job_id}").json()["finished_at"]
    for times, count in (({"parked_after": parked_at}, 1), ({"parked_before": parked_at}, 0)):
        assert matching(**times) == grouped(**times) == count
    assert matching(older_than_seconds=0, parked_before=parked_at) == 0
    assert matching(batch_id=ids[0]) == grouped(batch_id=ids[0]) == grouped(batch=ids[0]) == 0
    # The name of 0.1.0 is still taken, but not both.
    assert listed("batch_id") == listed("batch") == [1, 0]
    for path, name in (("/jobs", "batch"), ("/jobs", "schedule"), ("/parked", "batch")):
        both = api.client.get(path, params={name: ids[0], f"{name}_id": ids[1]})
        assert (both.status_code, both.json()["errors"][0]["loc"]) == (400, f"/query/{name}")


@pytest.mark.parametrize("name", ["parked_after", "parked_before"])
def test_the_ends_of_the_calendar_are_times_like_others(api: RunningApi, name: str) -> None:
    park(api)

    for at in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        assert api.client.get("/parked", params={name: at}).status_code == 200
        body = {"filter": {name: at}, "dry_run": True}
        assert api.client.post("/parked/discard", json=body).status_code == 200


def test_a_field_or_parameter_that_is_unknown_is_answered_with_those_that_there_are(api: RunningApi) -> None:
    def fault(answer: httpx.Response) -> tuple[str, str]:
        assert answer.status_code == 400
        (error,) = answer.json()["errors"]
        return error["loc"], error["msg"]

    redrive = api.client.post("/parked/redrive", json={"filter": {"batch": str(new_id())}})
    listed = api.client.get("/parked", params={"group": "x"})
    submitted = api.client.post(
        "/jobs", json={"kind": "check", "args": {"url": "http://a.example/", "timeout": 3}}
    )

    loc, msg = fault(redrive)
    assert loc == "/filter/batch"
    assert msg.startswith("There is no such field; there are: group, batch_id, kind, host, reason, ")
    # Former names are taken, and not advertised.
    names = "kind, reason, host, batch_id, parked_after, parked_before, limit"
    assert fault(listed) == ("/query/group", f"There is no such parameter; there are: {names}")
    loc, msg = fault(submitted)
    assert loc == "/args/timeout" and "timeout_seconds" in msg


def post_ids(api: RunningApi, path: str, ids: Iterable[str], **query: str) -> httpx.Response:
    content = "\n".join(ids)
    headers = {"Content-Type": "text/plain", **ANN}
    return api.client.post(path, content=content, params=query, headers=headers)


def test_jobs_can_be_listed_without_a_limit(api: RunningApi) -> None:
    parked = [park(api), park(api)]
    unfinished = make_job()
    api.store.write(submissions.insert_jobs, [unfinished])
    # More than one chunk, some twice in different ones, most unknown.
    ids = [*parked, str(unfinished.id), *(str(new_id()) for _ in range(2_500)), *parked]

    counted = post_ids(api, "/parked/redrive", ids, dry_run="true")
    assert (counted.status_code, counted.json()) == (200, {"matching": 2})
    assert api.client.get("/operations").json()["items"] == []
    assert api.client.get("/audit").json()["items"] == []
    begun = post_ids(api, "/parked/discard", ids, rate_per_second="7")

    assert begun.status_code == 202, begun.text
    operation = api.client.get(begun.headers["location"]).json()
    assert operation == begun.json()
    assert (operation["action"], operation["total"], operation["rate_per_second"]) == ("discard", 2, 7)
    assert (operation["filter"], operation["by"]) == ({"ids_sent": 2_505}, "anonymous (ann@example.com)")
    (entry,) = api.client.get("/audit").json()["items"]
    assert (entry["action"], entry["details"]["total"]) == ("discard_started", 2)


def test_a_list_that_is_sent_again_with_its_key_is_answered_again(api: RunningApi) -> None:
    job_id = park(api)

    def send(*ids: str) -> httpx.Response:
        headers = {"Content-Type": "text/plain", "Idempotency-Key": "one"}
        return api.client.post("/parked/discard", content="\n".join(ids), headers=headers)

    first, again, other = send(job_id), send(job_id), send(job_id, job_id)

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
    assert again.json() == first.json() and again.headers["Idempotent-Replayed"] == "true"
    assert len(api.client.get("/operations").json()["items"]) == 1


def test_a_list_with_a_typing_error_begins_nothing(api: RunningApi) -> None:
    job_id = park(api)

    answer = post_ids(api, "/parked/redrive", [job_id, job_id[:-1], job_id])

    assert answer.status_code == 400
    assert [error["loc"] for error in answer.json()["errors"]] == ["/lines/2"]
    assert api.client.get("/operations").json()["items"] == []


def test_a_filter_takes_no_parameters_of_a_list(api: RunningApi) -> None:
    body = {"filter": {"kind": "check"}}

    answer = api.client.post("/parked/discard", json=body, params={"dry_run": "true"})

    assert answer.status_code == 400 and "fields of the document" in answer.json()["detail"]
    assert post_ids(api, "/parked/discard", [str(new_id())], rate_per_second="0").status_code == 400
    assert api.client.get("/operations").json()["items"] == []


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
        "anonymous (ann@example.com)",
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
