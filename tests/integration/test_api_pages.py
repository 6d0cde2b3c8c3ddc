"""Paged fetches over HTTP, on both stores: refused arguments, their measure, their items as lines."""

import base64
import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from producer.store import recording
from shared.clock import utc_now
from shared.identity import derived_id, new_id
from shared.kinds.pages import PagePlace, PageReport
from shared.messages import Report
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_report

PAGES = {"by": "page", "total": "total", "key": "id"}


def submit(api: RunningApi, pages: Any = PAGES) -> UUID:
    job = {"kind": "fetch", "args": {"url": "http://a.example/", "pages": pages}}
    answer = api.client.post("/jobs", json=job)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"])


def page(
    job_id: UUID,
    items: Sequence[Any],
    *,
    keys: Sequence[int] | None = None,
    last: int | None = None,
    total: int | None = None,
) -> Report:
    following = PagePlace(index=1, last=last, size=2, total=total) if last else None
    digests = (
        base64.b64encode(b"".join(key.to_bytes(8) for key in keys)).decode() if keys is not None else None
    )
    result = {"data": list(items), "page": {"index": 0, "items": len(items)}}
    report = make_report(job_id, JobState.SUCCEEDED, kind="fetch", result=result)
    told = PageReport(items=len(items), total=total, keys=digests, following=following)
    return report.model_copy(update={"page": told})


def lines(api: RunningApi, job_id: UUID, query: str = "") -> list[Any]:
    answer = api.client.get(f"/jobs/{job_id}/items{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_measure_of_a_fetch_is_there_from_its_submission_to_its_end(api: RunningApi) -> None:
    root = submit(api)
    fresh = api.client.get(f"/jobs/{root}/pages").json()

    api.store.write(
        recording.record_reports, [page(root, ["a", "b"], keys=[1, 2], last=2, total=6)], now=utc_now()
    )
    under_way = api.client.get(f"/jobs/{root}/pages").json()
    rest = [page(derived_id(root, n), ["b", "c"], keys=[2, n + 10], total=7) for n in (2, 1)]
    api.store.write(recording.record_reports, rest, now=utc_now())

    assert (fresh["state"], fresh["batch_id"], fresh["items"], fresh["complete"]) == (
        "accepted",
        None,
        0,
        False,
    )
    assert fresh["pages"] == {"planned": 1, "done": 0, "parked": 0, "cancelled": 0, "open": 1}
    assert under_way["pages"] == {"planned": 3, "done": 1, "parked": 0, "cancelled": 0, "open": 2}
    assert api.client.get(f"/jobs/{root}/pages").json() == {
        "job_id": str(root),
        "state": "succeeded",
        "batch_id": under_way["batch_id"],
        "pages": {"planned": 3, "done": 3, "parked": 0, "cancelled": 0, "open": 0},
        "items": 6,
        "distinct": 4,
        "duplicates": 2,
        "missing": 3,
        "baseline_total": 6,
        "last_total": 7,
        "drift": 1,
        "stopped_by": None,
        "complete": False,
        "explanation": "3 of 3 pages are done, with 6 items. The total went from 6 to 7 while pages were"
        " read, so items may have moved from page to page."
        " 3 of the 7 items that the pages promise are missing."
        " 2 items have the key of another.",
    }
    assert api.client.get(f"/batches/{under_way['batch_id']}").json()["counts"]["succeeded"] == 2


def test_items_come_in_the_order_of_their_pages_however_these_were_done(api: RunningApi) -> None:
    root = submit(api)
    assert lines(api, root) == []
    api.store.write(recording.record_reports, [page(root, [0, None], last=3, total=8)], now=utc_now())
    for index in (3, 1):
        api.store.write(
            recording.record_reports, [page(derived_id(root, index), [index, "\ud800\0é"])], now=utc_now()
        )

    assert lines(api, root) == [0, None, 1, "\ud800\0é", 3, "\ud800\0é"]
    assert lines(api, root, "?distinct=true") == [0, None, 1, "\ud800\0é", 3]


def test_distinct_goes_by_keys_where_there_are_any(api: RunningApi) -> None:
    root = submit(api)
    first = [{"id": 1, "seen": 1}, {"id": 2}]
    api.store.write(
        recording.record_reports, [page(root, first, keys=[1, 2], last=1, total=4)], now=utc_now()
    )
    api.store.write(
        recording.record_reports,
        [page(derived_id(root, 1), [{"id": 1, "seen": 2}, {"id": 2}], keys=[1, 3])],
        now=utc_now(),
    )

    assert len(lines(api, root)) == 4
    assert lines(api, root, "?distinct=true") == [*first, {"id": 2}]
    assert len(lines(api, root, "?distinct=false")) == 4


@pytest.mark.parametrize("path", ["pages", "items"])
def test_only_the_job_that_was_submitted_has_pages(api: RunningApi, path: str) -> None:
    root = submit(api)
    api.store.write(recording.record_reports, [page(root, ["a"], last=1, total=2)], now=utc_now())
    plain = api.client.post("/jobs", json={"kind": "check", "args": {"url": "http://a.example/"}}).json()

    of_page = api.client.get(f"/jobs/{derived_id(root, 1)}/{path}")
    of_plain = api.client.get(f"/jobs/{plain['id']}/{path}")

    assert (of_page.status_code, of_page.json()["detail"]) == (409, f"It is page 1 of job {root}.")
    assert (of_plain.status_code, of_plain.json()["type"]) == (409, "urn:retriever:job-not-paged")
    assert api.client.get(f"/jobs/{new_id()}/{path}").status_code == 404
    assert api.client.get(f"/jobs/nonsense/{path}").status_code == 404
    assert api.client.get(f"/jobs/{root}/{path}?distinct=maybe").status_code == 400


def test_a_page_cannot_be_handed_in_but_a_parked_one_can_be_redriven_with_other_arguments(
    api: RunningApi,
) -> None:
    root = submit(api)
    api.store.write(recording.record_reports, [page(root, ["a"], last=1, total=2)], now=utc_now())
    child = derived_id(root, 1)
    args = api.client.get(f"/jobs/{child}").json()["args"]

    handed_in = api.client.post("/jobs", json={"kind": "fetch", "args": args})
    in_a_batch = api.client.post("/batches", json={"kind": "fetch", "items": [args]})
    api.store.write(
        recording.record_reports, [make_report(child, JobState.PARKED, kind="fetch")], now=utc_now()
    )
    redriven = api.client.post(f"/jobs/{child}/redrive", json={"args": {**args, "timeout_seconds": 60}})

    assert (handed_in.status_code, handed_in.json()["errors"][0]["loc"]) == (400, "/args/page")
    assert (in_a_batch.status_code, in_a_batch.json()["errors"][0]["loc"]) == (422, "/items/0/page")
    assert redriven.status_code == 202 and redriven.json()["args"]["page"] == args["page"]
    api.store.write(
        recording.record_reports, [page(child, ["b"], total=2).model_copy(update={"run": 2})], now=utc_now()
    )
    assert lines(api, root) == ["a", "b"]


def test_a_thousand_pages_are_measured_and_streamed_in_no_time(api: RunningApi) -> None:
    root = submit(api)
    api.store.write(
        recording.record_reports,
        [page(root, range(100), keys=range(100), last=999, total=100_000)],
        now=utc_now(),
    )
    reports = [
        page(
            derived_id(root, n),
            range(100 * n, 100 * n + 100),
            keys=range(100 * n, 100 * n + 100),
            total=100_000,
        )
        for n in range(1, 1_000)
    ]
    for at in range(0, len(reports), 200):
        api.store.write(recording.record_reports, reports[at : at + 200], now=utc_now())

    started = time.monotonic()
    seen = api.client.get(f"/jobs/{root}/pages").json()
    measured = time.monotonic()
    items = lines(api, root, "?distinct=true")

    assert (seen["items"], seen["distinct"], seen["missing"], seen["complete"]) == (100_000, 100_000, 0, True)
    assert items == list(range(100_000))
    assert measured - started < 5 and time.monotonic() - measured < 30
