"""Checks of a batch that need not ask, because others have found the URL good lately; on both stores."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from producer.store import recording, repeats
from producer.store.schema import jobs
from shared.clock import utc_now
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_report
from tests.support.keys import bearer, make_key

URL = "https://example.com/a"
OK, BROKEN = {"verdict": "ok", "reason": "ok"}, {"verdict": "broken", "reason": "http_404"}
DAY = 86_400


def submit_batch(
    api: RunningApi, *items: Any, headers: dict[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    sent = [{"url": each} if isinstance(each, str) else each for each in items]
    document = {"kind": "check", "items": sent, "reuse_within_seconds": DAY} | fields
    answer = api.client.post("/batches", json=document, headers=headers)
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


def jobs_of(api: RunningApi, batch: dict[str, Any], headers: dict[str, str] | None = None) -> list[Any]:
    """Return the jobs of a batch in the order of its items."""
    answer_all(api)
    query = {"batch_id": batch["id"], "limit": 1_000}
    found: list[Any] = api.client.get("/jobs", params=query, headers=headers).json()["items"]
    return found[::-1]


def end(
    api: RunningApi,
    job: dict[str, Any],
    result: dict[str, Any] | None = OK,
    state: JobState = JobState.SUCCEEDED,
) -> None:
    report = make_report(UUID(job["id"]), state, result=result)
    api.store.write(recording.record_reports, [report], now=utc_now())
    with api.store.writing() as connection:
        connection.execute(jobs.update().where(jobs.c.id == UUID(job["id"])).values(finished_at=utc_now()))


def answer_all(api: RunningApi) -> None:
    """Answer repeats as a ledger does."""
    while ids := api.store.read(repeats.ended_originals, limit=100):
        api.store.write(repeats.answer_repeats, ids, now=utc_now())


def asked(api: RunningApi, url: str = URL, **fields: Any) -> dict[str, Any]:
    """Return the job that asked for a URL in a batch."""
    (job,) = jobs_of(api, submit_batch(api, url, **fields))
    assert job["state"] == "accepted"
    found: dict[str, Any] = job
    return found


def test_what_was_found_good_lately_is_not_asked_again(api: RunningApi) -> None:
    first = asked(api)
    end(api, first)
    batch = submit_batch(api, URL, "https://example.com/b")

    again, other = jobs_of(api, batch)

    assert (again["state"], again["same_as"], again["result"]) == ("succeeded", first["id"], OK)
    assert (again["attempt"], other["state"], other["same_as"]) == (0, "accepted", None)
    assert (batch["repeats"], batch["counts"]["scheduled"], batch["counts"]["accepted"]) == (1, 1, 1)
    # It stays what it was, and answers again.
    assert api.client.get(f"/jobs/{first['id']}").json()["same_as"] is None
    (third,) = jobs_of(api, submit_batch(api, URL))
    assert third["same_as"] == first["id"]


def test_a_batch_all_of_whose_answers_are_there_is_complete(api: RunningApi) -> None:
    urls = [f"https://example.com/{number}" for number in range(600)]
    for job in jobs_of(api, submit_batch(api, *urls)):
        end(api, job)
    batch = submit_batch(api, *urls)
    answer_all(api)

    found = api.client.get(f"/batches/{batch['id']}").json()
    assert (found["counts"]["succeeded"], found["finished_at"] is not None) == (600, True)


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (BROKEN, JobState.SUCCEEDED),
        (None, JobState.PARKED),
        (None, JobState.SUCCEEDED),
        ({}, JobState.SUCCEEDED),
    ],
)
def test_failures_are_never_reused(api: RunningApi, result: dict[str, Any] | None, state: JobState) -> None:
    end(api, asked(api), result, state)

    (again,) = jobs_of(api, submit_batch(api, URL))

    assert (again["state"], again["same_as"]) == ("accepted", None)


def test_what_has_not_ended_or_ended_long_ago_is_not_reused(api: RunningApi) -> None:
    open_ = asked(api)
    assert jobs_of(api, submit_batch(api, URL))[0]["same_as"] is None
    end(api, open_)
    with api.store.writing() as connection:
        connection.execute(jobs.update().values(finished_at=utc_now() - timedelta(days=2)))

    assert jobs_of(api, submit_batch(api, URL))[0]["same_as"] is None
    assert jobs_of(api, submit_batch(api, URL, reuse_within_seconds=3 * DAY))[0]["same_as"] == open_["id"]


def test_an_answer_does_not_grow_younger_as_it_is_passed_on(api: RunningApi) -> None:
    end(api, asked(api))
    jobs_of(api, submit_batch(api, URL))
    with api.store.writing() as connection:
        old = utc_now() - timedelta(days=2)
        connection.execute(jobs.update().where(jobs.c.same_as.is_(None)).values(finished_at=old))

    (again,) = jobs_of(api, submit_batch(api, URL))

    assert (again["state"], again["same_as"]) == ("accepted", None)


def test_only_the_same_question_has_the_same_answer(api: RunningApi) -> None:
    end(api, asked(api, defaults={"timeout_seconds": 5}))

    (other,) = jobs_of(api, submit_batch(api, URL))
    (same,) = jobs_of(api, submit_batch(api, {"url": f"{URL}#part", "timeout_seconds": 5}))

    assert other["same_as"] is None
    assert same["state"] == "succeeded"


def test_a_page_that_is_searched_for_a_fragment_is_asked_for_again(api: RunningApi) -> None:
    args = {"url": f"{URL}#part", "assertions": {"fragment": True}}
    (first,) = jobs_of(api, submit_batch(api, args))
    end(api, first)

    assert jobs_of(api, submit_batch(api, args))[0]["same_as"] is None


def test_repeats_of_what_is_answered_are_answered_too(api: RunningApi) -> None:
    first = asked(api)
    end(api, first)
    batch = submit_batch(api, URL, f"{URL}#x", URL)

    found = jobs_of(api, batch)

    assert {(job["state"], job["same_as"]) for job in found} == {("succeeded", first["id"])}
    assert batch["repeats"] == 3


def test_batches_that_do_not_ask_for_it_neither_give_nor_take(api: RunningApi) -> None:
    (plain,) = jobs_of(api, submit_batch(api, URL, reuse_within_seconds=None))
    end(api, plain)
    assert jobs_of(api, submit_batch(api, URL))[0]["same_as"] is None
    end(api, asked(api, "https://example.com/b"))

    (other,) = jobs_of(api, submit_batch(api, "https://example.com/b", reuse_within_seconds=None))
    assert other["state"] == "accepted"


def test_a_single_job_gives_its_answer_and_takes_none_of_a_batch(api: RunningApi) -> None:
    document = {"kind": "check", "args": {"url": URL}}
    single = api.client.post("/jobs", json=document).json()
    end(api, single)
    assert jobs_of(api, submit_batch(api, URL))[0]["same_as"] == single["id"]
    other = "https://example.com/b"
    end(api, asked(api, other))

    answer = api.client.post(
        "/jobs", json={"kind": "check", "args": {"url": other}, "unique_for_seconds": DAY}
    )
    assert (answer.status_code, answer.json()["duplicate_of"]) == (202, None)


def test_lines_reuse_too(api: RunningApi) -> None:
    first = asked(api)
    end(api, first)
    answer = api.client.post(
        "/batches",
        params={"kind": "check", "reuse_within_seconds": "86400"},
        content=json.dumps({"url": URL, "ref": "a.md:1"}) + "\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 202, answer.text

    (job,) = jobs_of(api, answer.json())

    assert (job["same_as"], job["ref"], job["state"]) == (first["id"], "a.md:1", "succeeded")


def test_answers_of_another_project_are_not_there(module_api: RunningApi) -> None:
    api = module_api
    ours, theirs = (bearer(make_key(api.store, name, project=name)) for name in ("ours", "theirs"))
    (first,) = jobs_of(api, submit_batch(api, URL, headers=theirs), theirs)
    end(api, first)

    (job,) = jobs_of(api, submit_batch(api, URL, headers=ours), ours)
    (again,) = jobs_of(api, submit_batch(api, URL, headers=theirs), theirs)

    assert (job["state"], job["same_as"]) == ("accepted", None)
    assert again["same_as"] == first["id"]


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"kind": "fetch"}, "/reuse_within_seconds"),
        ({"reuse_within_seconds": 0}, "/reuse_within_seconds"),
        ({"reuse_within_seconds": "1"}, "/reuse_within_seconds"),
    ],
)
def test_a_wrong_wish_is_refused_by_name(api: RunningApi, fields: dict[str, Any], loc: str) -> None:
    document = {"kind": "check", "items": [{"url": URL}], "reuse_within_seconds": DAY} | fields
    answer = api.client.post("/batches", json=document)

    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, loc)


def test_a_schedule_asks_each_time(api: RunningApi) -> None:
    batch = {"kind": "check", "items": [{"url": URL}], "reuse_within_seconds": DAY}
    answer = api.client.post("/schedules", json={"every_seconds": 3_600, "batch": batch})

    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, "/batch/reuse_within_seconds")
