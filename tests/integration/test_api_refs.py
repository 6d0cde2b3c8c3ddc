"""`ref`, a sender's own name for a job: taken with every item, refused by name, given back, searched by."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest

from producer.ledger.relay_messages import job_messages
from producer.store import endings, events, outbox, recording
from shared.clock import utc_now
from shared.messages import JobMessage
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import NOON, TOKENS, make_report

URL = "http://a.example/"
CHECK = {"kind": "check", "args": {"url": URL}}
LONGEST = "😀" * 512
CALLBACK = "https://hooks.example.com/retriever"
# How a body says that an item has a ref, or none.
BODIES = {
    "application/x-ndjson": lambda ref: json.dumps({"url": URL, **({} if ref is None else {"ref": ref})}),
    "text/csv": lambda ref: f"url,ref\n{URL},{ref or ''}",
}


def post_lines(api: RunningApi, media_type: str, body: str, **query: str) -> httpx.Response:
    headers = {"Content-Type": media_type}
    return api.client.post("/batches", params=query, content=body.encode(), headers=headers)


def jobs_of(api: RunningApi, answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the jobs of a batch that was taken, in the order of its items."""
    assert answer.status_code == 202, answer.text
    lines = api.client.get(f"{answer.headers['Location']}/results").text.splitlines()
    return [json.loads(line) for line in lines]


def found(api: RunningApi, **query: str) -> list[str]:
    answer = api.client.get("/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["items"]]


def faults(answer: httpx.Response, status: int = 400) -> list[str]:
    assert answer.status_code == status, answer.text
    return [error["loc"] for error in answer.json()["errors"]]


def test_the_ref_of_a_job_is_given_back_wherever_the_job_is_shown(api: RunningApi) -> None:
    answer = api.client.post("/jobs", json={**CHECK, "ref": LONGEST})
    others = [api.client.post("/jobs", json=body).json() for body in (CHECK, {**CHECK, "ref": "😀" * 511})]

    job = answer.json()
    assert (answer.status_code, job["ref"], job["line"]) == (202, LONGEST, None)
    assert api.client.get(f"/jobs/{job['id']}").json()["ref"] == LONGEST
    assert found(api, ref=LONGEST) == [job["id"]]
    assert found(api, ref=LONGEST, state="parked") == found(api, ref="😀") == []
    assert [other["ref"] for other in others] == [None, "😀" * 511]
    # A parked job, in the list of those and when it is cancelled for good.
    report = make_report(UUID(job["id"]), JobState.PARKED)
    api.store.write(recording.record_reports, [report], now=NOON)
    parked = api.client.get("/jobs", params={"state": "parked"}).json()["items"]
    assert [each["ref"] for each in parked] == [LONGEST]
    assert api.client.post(f"/jobs/{job['id']}/redrive").json()["ref"] == LONGEST


def test_every_item_of_a_batch_may_have_a_ref(api: RunningApi) -> None:
    items = [
        {"url": URL, "ref": "row 1"},
        {"url": URL, "ref": None},
        {"url": URL},
        {"url": URL, "ref": "row 4"},
    ]
    document = api.client.post("/batches", json={"kind": "check", "items": items})
    lines = post_lines(api, "application/x-ndjson", "\n".join(map(json.dumps, items)))
    table = post_lines(api, "text/csv", f"ref,url\nrow 1,{URL}\n,{URL}\n,{URL}\nrow 4,{URL}\n")
    plain = post_lines(api, "text/plain", f"{URL}\n\n{URL}\n")

    for answer, first in ((document, 1), (lines, 1), (table, 2)):
        jobs = jobs_of(api, answer)
        assert [job["ref"] for job in jobs] == ["row 1", None, None, "row 4"]
        assert [job["line"] for job in jobs] == list(range(first, first + 4))
        assert {json.dumps(job["args"]) for job in jobs} == {json.dumps({"url": URL})}
    assert [(job["ref"], job["line"]) for job in jobs_of(api, plain)] == [(None, 1), (None, 3)]
    assert len(found(api, ref="row 1")) == 3
    assert len(found(api, ref="row 1", batch_id=document.json()["id"])) == 1


def test_a_ref_in_the_defaults_is_that_of_every_item_without_one(api: RunningApi) -> None:
    items = [{"url": URL}, {"url": URL, "ref": "mine"}]
    batch = {"kind": "check", "defaults": {"ref": "all"}, "items": items}

    jobs = jobs_of(api, api.client.post("/batches", json=batch))

    assert [job["ref"] for job in jobs] == ["all", "mine"]


@pytest.mark.parametrize("bad", ["😀" * 513, "", "a\nb", "a\tb", "\x7f", "\x85", 7, ["a"], {"a": 1}, True])
def test_a_ref_that_cannot_be_kept_is_refused_by_name(api: RunningApi, bad: object) -> None:
    good = {"url": URL}
    assert faults(api.client.post("/jobs", json={**CHECK, "ref": bad})) == ["/ref"]
    template = {"every_seconds": 60, "job": {**CHECK, "ref": bad}}
    assert faults(api.client.post("/schedules", json=template)) == ["/job/ref"]
    template = {"every_seconds": 60, "batch": {"kind": "check", "items": [{**good, "ref": bad}]}}
    assert faults(api.client.post("/schedules", json=template)) == ["/batch/items/0/ref"]
    batch = {"kind": "check", "items": [good, {**good, "ref": bad}]}
    answer = api.client.post("/batches", json=batch)
    assert [each["loc"] for each in answer.json()["rejected"]["errors"]] == ["/items/1/ref"]
    lines = "\n".join(json.dumps(each) for each in batch["items"])
    answer = post_lines(api, "application/x-ndjson", lines)
    assert [each["loc"] for each in answer.json()["rejected"]["errors"]] == ["/lines/2/ref"]


def test_a_rejected_item_is_known_by_its_ref(api: RunningApi) -> None:
    items = [{"url": URL}, {"url": "nonsense", "ref": "row 2"}, {"url": "nonsense", "ref": "a\0"}]

    batch = api.client.post("/batches", json={"kind": "check", "items": items}).json()

    assert [each["ref"] for each in batch["rejected"]["errors"]] == ["row 2", None]
    listed = api.client.get(f"/batches/{batch['id']}/rejected").json()["items"]
    assert [each["ref"] for each in listed] == ["row 2", None]


def test_a_record_whose_cells_cannot_be_read_is_known_by_its_ref_where_that_is_sure(api: RunningApi) -> None:
    records = ["x,5,row 2", "x,never,row 3", "x,never,\x07", "x,never", f"{URL},5,row 6"]
    table = "\n".join(["url,timeout_seconds,ref", *records])

    rejected = post_lines(api, "text/csv", table).json()["rejected"]["errors"]

    assert [(each["number"], each["ref"]) for each in rejected] == [
        (2, "row 2"),
        (3, "row 3"),
        (4, None),
        (5, None),
    ]


def test_a_replay_answers_with_the_ref_and_another_ref_is_another_request(api: RunningApi) -> None:
    key = {"Idempotency-Key": "a"}
    first = api.client.post("/jobs", json={**CHECK, "ref": "row 1"}, headers=key)
    again = api.client.post("/jobs", json={**CHECK, "ref": "row 1"}, headers=key)
    other = api.client.post("/jobs", json={**CHECK, "ref": "row 2"}, headers=key)

    assert (again.status_code, again.json()) == (202, first.json())
    assert other.status_code == 409


def test_a_duplicate_keeps_the_ref_of_the_job_that_answers_it(api: RunningApi) -> None:
    unique = {**CHECK, "unique_for_seconds": 60}
    first = api.client.post("/jobs", json={**unique, "ref": "row 1"}).json()

    answer = api.client.post("/jobs", json={**unique, "ref": "row 2"}).json()

    assert (answer["id"], answer["ref"]) == (first["id"], "row 1")


def test_the_search_refuses_what_is_no_ref(api: RunningApi) -> None:
    for bad in ("", "a\nb", "x" * 513):
        assert faults(api.client.get("/jobs", params={"ref": bad})) == ["/query/ref"]


@pytest.mark.parametrize(
    "template",
    [
        {"job": {**CHECK, "ref": "pulse"}},
        {"batch": {"kind": "check", "items": [{"url": URL, "ref": "pulse"}]}},
    ],
)
def test_the_jobs_of_a_schedule_have_its_ref(api: RunningApi, template: Mapping[str, Any]) -> None:
    schedule = api.client.post("/schedules", json={"every_seconds": 60, **template}).json()

    for _ in range(2):
        assert api.client.post(f"/schedules/{schedule['id']}/run").status_code == 202

    jobs = api.client.get("/jobs", params={"ref": "pulse"}).json()["items"]
    assert [job["schedule_id"] for job in jobs] == [schedule["id"]] * 2


@pytest.mark.parametrize("end", ["succeeded", "parked", "cancelled"])
def test_outcomes_and_webhooks_tell_the_ref(api: RunningApi, end: str) -> None:
    job = api.client.post("/jobs", json={**CHECK, "ref": "row 1", "callback_url": CALLBACK}).json()
    plain = api.client.post("/jobs", json={**CHECK, "callback_url": CALLBACK}).json()
    ids = [UUID(each["id"]) for each in (job, plain)]

    if end == "cancelled":
        for job_id in ids:
            api.store.write(endings.cancel_job, job_id, now=NOON, project=None)
    else:
        reports = [make_report(job_id, JobState(end)) for job_id in ids]
        api.store.write(recording.record_reports, reports, now=NOON)

    webhooks = api.client.get("/jobs", params={"kind": "webhook"}).json()["items"]
    told = {each["args"]["data"]["job_id"]: each["args"]["data"].get("ref") for each in webhooks}
    assert told == {job["id"]: "row 1", plain["id"]: None}
    # It is the name of what was handed in, not of what tells of it.
    assert {each["ref"] for each in webhooks} == {None}
    claimed = api.store.write(events.claim_events, limit=10, lease_seconds=60, now=utc_now())
    outcomes = {each.body["job_id"]: each.body.get("ref") for each in claimed if each.type == "outcome"}
    assert outcomes == told


def test_the_messages_of_a_job_bring_its_ref(api: RunningApi) -> None:
    job = api.client.post("/jobs", json={**CHECK, "ref": 'row\u20281 "é"'}).json()

    claimed = api.store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=utc_now())

    ((message, _),) = job_messages(claimed, tokens=TOKENS, bundle_jobs=10)
    assert (JobMessage.decode(message.body).id, JobMessage.decode(message.body).ref) == (
        UUID(job["id"]),
        job["ref"],
    )
