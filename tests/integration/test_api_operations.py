"""Operations on any jobs: exactly those that match, all of them, of the caller's project alone."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from producer.parking import OperationState
from producer.store import bulk_actions, recording
from shared.clock import utc_now
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_report
from tests.support.keys import bearer, make_key

SOON = "2099-01-01T00:00:00Z"


def submit(api: RunningApi, url: str = "https://example.com/", **fields: Any) -> str:
    document = {"kind": "check", "args": {"url": url}} | fields
    answer = api.client.post("/jobs", json=document)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def report(api: RunningApi, *ids: str, state: JobState) -> None:
    reports = [make_report(UUID(each), state) for each in ids]
    api.store.write(recording.record_reports, reports, now=utc_now())


def begin(
    api: RunningApi, action: str, headers: dict[str, str] | None = None, **which: Any
) -> dict[str, Any]:
    document = {"action": action, "filter": which, "rate_per_second": 1_000}
    answer = api.client.post("/operations", json=document, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/operations/{answer.json()['id']}"
    operation: dict[str, Any] = answer.json()
    return operation


def matching(api: RunningApi, action: str, **which: Any) -> int:
    answer = api.client.post("/operations", json={"action": action, "filter": which, "dry_run": True})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["matching"])


def run(api: RunningApi) -> None:
    """Do all that is begun, as a ledger does."""
    while api.store.read(bulk_actions.next_page_at, now=utc_now()):
        api.store.write(bulk_actions.make_page, now=utc_now())


def state_of(api: RunningApi, job_id: str) -> str:
    return str(api.client.get(f"/jobs/{job_id}").json()["state"])


def test_what_matches_and_has_not_ended_is_cancelled_and_nothing_else(api: RunningApi) -> None:
    labels = {"team": "docs"}
    waiting = submit(api, labels=labels)
    later = submit(api, labels=labels, delay_seconds=3_600)
    running, done, parked = (submit(api, labels=labels) for _ in range(3))
    report(api, running, state=JobState.RUNNING)
    report(api, done, state=JobState.SUCCEEDED)
    report(api, parked, state=JobState.PARKED)
    others = [submit(api), submit(api, labels={"team": "Docs"}), submit(api, labels={"team": "docs2"})]

    assert matching(api, "cancel", labels=labels) == 3
    operation = begin(api, "cancel", labels=labels)
    run(api)

    assert (operation["action"], operation["total"], operation["filter"]) == ("cancel", 3, {"labels": labels})
    states = [state_of(api, each) for each in (waiting, later, running, done, parked)]
    assert states == ["cancelled", "cancelled", "running", "succeeded", "parked"]
    # Its worker is told.
    assert "cancel" in api.client.get(f"/jobs/{running}").json()["explanation"].lower()
    assert {state_of(api, each) for each in others} == {"accepted"}
    found = api.client.get(f"/operations/{operation['id']}").json()
    assert (found["state"], found["done"], found["skipped"]) == ("done", 3, 0)
    audited = api.client.get("/audit", params={"target": f"operation/{operation['id']}"}).json()["items"]
    assert [(each["action"], each["details"]["total"]) for each in audited] == [("cancel_started", 3)]


@pytest.mark.parametrize(
    ("which", "count"),
    [
        ({"url": "EXAMPLE.com/docs"}, 2),
        ({"host": "Example.COM"}, 3),
        ({"kind": "fetch"}, 1),
        ({"ref": "a.md:1"}, 1),
        ({"labels": {"day": "1", "team": "docs"}}, 1),
        ({"created_after": "2020-01-01T00:00:00Z", "created_before": SOON}, 4),
        ({"created_before": "2020-01-01T00:00:00Z"}, 0),
        ({"reason": "http_503"}, 0),
        ({"batch_id": str(uuid4())}, 0),
        ({"kind": "fetch", "ref": "a.md:1"}, 0),
    ],
)
def test_every_filter_counts_what_it_names(api: RunningApi, which: dict[str, Any], count: int) -> None:
    submit(api, "https://example.com/docs/1", ref="a.md:1")
    submit(api, "https://example.com/docs/2", labels={"team": "docs", "day": "1"})
    submit(api, kind="fetch")
    submit(api, "https://other.example/?u=x", labels={"team": "docs"})

    assert matching(api, "cancel", **which) == count
    assert matching(api, "redrive", **which) == 0


def test_parked_jobs_are_redriven_and_discarded_by_any_filter(api: RunningApi) -> None:
    docs = [submit(api, "https://example.com/docs", labels={"team": "docs"}) for _ in range(3)]
    web, other = submit(api, labels={"team": "web"}), submit(api, "https://example.com/docs")
    report(api, *docs, web, other, state=JobState.PARKED)

    assert begin(api, "redrive", labels={"team": "docs"}, url="/docs")["total"] == 3
    assert begin(api, "discard", labels={"team": "web"})["total"] == 1
    run(api)

    assert {state_of(api, each) for each in docs} == {"accepted"}
    assert (state_of(api, web), state_of(api, other)) == ("cancelled", "parked")


def test_the_parked_jobs_of_a_batch_are_sent_back(api: RunningApi) -> None:
    items = [{"url": f"https://example.com/{number}"} for number in range(3)]
    batch = api.client.post("/batches", json={"kind": "check", "items": items}).json()["id"]
    ids = [job["id"] for job in api.client.get("/jobs", params={"batch_id": batch}).json()["items"]]
    report(api, *ids[:2], state=JobState.PARKED)
    report(api, ids[2], state=JobState.SUCCEEDED)
    alone = submit(api)
    report(api, alone, state=JobState.PARKED)

    headers = {"Idempotency-Key": uuid4().hex}
    answers = [api.client.post(f"/batches/{batch}/redrive", headers=headers) for _ in range(2)]
    run(api)

    assert [each.status_code for each in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["total"] == 2
    assert [state_of(api, each) for each in ids] == ["accepted", "accepted", "succeeded"]
    assert state_of(api, alone) == "parked"
    assert api.client.post(f"/batches/{uuid4()}/redrive").status_code == 404


def test_a_redrive_that_is_sent_again_is_one_redrive_even_if_the_job_is_parked_again(api: RunningApi) -> None:
    job = submit(api)
    report(api, job, state=JobState.PARKED)
    headers = {"Idempotency-Key": uuid4().hex}
    first = api.client.post(f"/jobs/{job}/redrive", headers=headers)
    again = [make_report(UUID(job), JobState.PARKED, run=2)]
    api.store.write(recording.record_reports, again, now=utc_now())

    second = api.client.post(f"/jobs/{job}/redrive", headers=headers)

    assert (first.status_code, first.json()["run"], first.headers["location"]) == (202, 2, f"/jobs/{job}")
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert state_of(api, job) == "parked"
    other = {"args": {"url": "https://example.com/other"}}
    assert api.client.post(f"/jobs/{job}/redrive", json=other, headers=headers).status_code == 409
    assert api.client.post(f"/jobs/{job}/redrive").json()["run"] == 3


def test_a_job_that_ended_meanwhile_is_skipped(api: RunningApi) -> None:
    first, second = submit(api), submit(api)
    operation = begin(api, "cancel", kind="check")
    report(api, first, state=JobState.SUCCEEDED)
    run(api)

    found = api.client.get(f"/operations/{operation['id']}").json()
    assert (found["done"], found["skipped"], found["state"]) == (1, 1, OperationState.DONE)
    assert (state_of(api, first), state_of(api, second)) == ("succeeded", "cancelled")


def test_an_operation_that_is_cancelled_does_no_more(api: RunningApi) -> None:
    jobs = [submit(api) for _ in range(3)]
    document = {"action": "cancel", "filter": {"kind": "check"}, "rate_per_second": 2}
    operation = api.client.post("/operations", json=document).json()
    api.store.write(bulk_actions.make_page, now=utc_now())

    ended = api.client.post(f"/operations/{operation['id']}/cancel").json()
    run(api)

    assert (ended["state"], ended["done"]) == ("cancelled", 1)
    assert sorted(state_of(api, each) for each in jobs) == ["accepted", "accepted", "cancelled"]


def test_many_jobs_are_found_window_by_window(api: RunningApi) -> None:
    items = [{"url": f"https://example.com/{number}"} for number in range(6_000)]
    document = {"kind": "check", "items": items, "labels": {"of": "many"}}
    assert api.client.post("/batches", json=document).status_code == 202
    submit(api, labels={"of": "few"})

    assert matching(api, "cancel", labels={"of": "many"}) == 6_000
    # 1, 10 to 19, 100 to 199, 1,000 to 1,999.
    assert matching(api, "cancel", url="example.com/1") == 1_111


def test_nothing_of_another_project_is_touched(module_api: RunningApi) -> None:
    api = module_api
    ours, theirs = (bearer(make_key(api.store, name, project=name)) for name in ("ours", "theirs"))
    document = {"kind": "check", "args": {"url": "https://example.com/"}}
    job = api.client.post("/jobs", json=document, headers=theirs).json()["id"]
    batch = api.client.post(
        "/batches", json={"kind": "check", "items": [{"url": "https://example.com/"}]}, headers=theirs
    ).json()["id"]

    assert begin(api, "cancel", ours, created_before=SOON)["total"] == 0
    assert begin(api, "cancel", ours, batch_id=batch)["total"] == 0
    assert api.client.post(f"/batches/{batch}/redrive", headers=ours).status_code == 404
    run(api)
    assert api.client.get(f"/jobs/{job}", headers=theirs).json()["state"] == "accepted"
    assert begin(api, "cancel", theirs, created_before=SOON)["total"] == 2


@pytest.mark.parametrize(
    ("document", "loc"),
    [
        ({"action": "cancel", "filter": {}}, "/filter"),
        ({"action": "cancel"}, "/filter"),
        ({"action": "sing", "filter": {"kind": "check"}}, "/action"),
        ({"action": "cancel", "filter": {"state": "queued"}}, "/filter/state"),
        ({"action": "cancel", "filter": {"labels": {}}}, "/filter/labels"),
        ({"action": "cancel", "filter": {"url": "\n"}}, "/filter/url"),
        ({"action": "cancel", "filter": {"kind": "check"}, "rate_per_second": 0}, "/rate_per_second"),
    ],
)
def test_a_wrong_request_is_refused_by_name(api: RunningApi, document: dict[str, Any], loc: str) -> None:
    answer = api.client.post("/operations", json=document)

    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, loc)


def test_the_same_request_with_the_same_key_is_one_operation(api: RunningApi) -> None:
    submit(api)
    document = {"action": "cancel", "filter": {"kind": "check"}}
    headers = {"Idempotency-Key": uuid4().hex}

    answers = [api.client.post("/operations", json=document, headers=headers) for _ in range(2)]

    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotent-replayed"] == "true"
    other = api.client.post("/operations", json={**document, "action": "redrive"}, headers=headers)
    assert other.status_code == 409
