"""The jobs of further pages, made with the success that leads to them: once, whoever records it."""

import base64
import threading
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from producer.records import NewJob, ScheduledRun
from producer.store import (
    batches,
    endings,
    parking,
    queries,
    recording,
    results,
    retention,
    schedules,
    submissions,
)
from producer.store import events as store_events
from producer.store import pages as store_pages
from producer.store.database import Database
from shared.errors import JobNotFound, JobNotPaged
from shared.identity import derived_id, new_id
from shared.kinds.pages import PagePlace, PageReport
from shared.kinds.registry import Lane
from shared.messages import Report
from shared.retry import RetryPolicy
from shared.states import JobState
from shared.urls import url_host
from tests.support.factories import NOON, make_batch, make_job, make_report, make_schedule

LATER = NOON + timedelta(minutes=1)
URL = "https://example.com/items"


def paged_job(**changes: Any) -> NewJob:
    args = {"url": URL, "headers": {"X-Key": "k"}, "pages": {"by": "page", "total": "total"}}
    args |= changes.pop("args", {})
    return make_job(kind="fetch", args=args, labels={"team": "web"}, **changes)


def page_report(
    job_id: UUID,
    following: PagePlace | None = None,
    *,
    items: int = 2,
    keys: bytes | None = None,
    **page: Any,
) -> Report:
    told = PageReport(
        items=items,
        keys=base64.b64encode(keys).decode() if keys is not None else None,
        following=following,
        **page,
    )
    result = {"data": list(range(items)), "page": {"index": 0, "items": items}}
    report = make_report(job_id, JobState.SUCCEEDED, kind="fetch", result=result)
    return report.model_copy(update={"page": told})


def plan(last: int) -> PagePlace:
    return PagePlace(index=1, last=last, size=2, total=2 * last + 2)


def stored(store: Database, **changes: Any) -> NewJob:
    job = paged_job(**changes)
    store.write(submissions.insert_jobs, [job])
    return job


def test_a_plan_becomes_a_batch_of_jobs_in_the_order_of_their_pages(store: Database) -> None:
    root = stored(
        store,
        args={"pages": {"by": "page", "total": "total", "max_pages": 2_501}},
        lane=Lane.INTERACTIVE,
        retry=RetryPolicy(max_attempts=9),
        deadline_at=LATER,
        ref="row 7",
    )

    store.write(recording.record_reports, [page_report(root.id, plan(9_999))], now=LATER)

    record = store.read(store_pages.get_pages, root.id, project=None)
    assert record.batch is not None
    assert record.root.result is not None and record.root.result["page"]["batch_id"] == str(record.batch.id)
    assert (record.batch.id, record.batch.total, record.batch.kind) == (
        derived_id(root.id, 0),
        2_500,
        "fetch",
    )
    assert (dict(record.batch.counts), record.batch.labels) == ({JobState.ACCEPTED: 2_500}, {"team": "web"})
    assert store.read(batches.wrong_counts, record.batch.id) == {}
    jobs = store.read(results.batch_jobs, record.batch.id, after=None, limit=3_000, project=None).records
    assert [job.args["page"]["index"] for job in jobs] == list(range(1, 2_501))
    one = jobs[6]
    assert (one.id, one.lane, one.retry.max_attempts) == (derived_id(root.id, 7), Lane.BULK, 9)
    assert (one.labels, one.host, one.deadline_at) == ({"team": "web"}, "example.com", None)
    assert (one.ref, one.line) == ("row 7", None)
    assert one.args == {
        **root.args,
        "page": {"root": str(root.id), "index": 7, "last": 9_999, "size": 2, "total": 20_000},
    }


def test_a_success_that_comes_again_or_late_leads_on_once(store: Database) -> None:
    root = stored(store)
    report = page_report(root.id, plan(3))

    store.write(recording.record_reports, [report, report], now=LATER)
    store.write(recording.record_reports, [report], now=LATER)
    store.write(recording.record_reports, [page_report(root.id, plan(9))], now=LATER)

    record = store.read(store_pages.get_pages, root.id, project=None)
    assert (record.planned, record.completeness.done) == (4, 1)


def test_two_recorders_at_once_make_the_pages_once(store: Database) -> None:
    roots = [stored(store) for _ in range(8)]
    reports = [page_report(root.id, plan(5)) for root in roots]
    failures: list[Exception] = []

    def record(order: list[Report]) -> None:
        try:
            store.write(recording.record_reports, order, now=LATER)
        except Exception as error:
            failures.append(error)

    threads = [
        threading.Thread(target=record, args=(order,))
        for order in (reports, reports[::-1], reports[4:] + reports[:4])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    for root in roots:
        record_of_root = store.read(store_pages.get_pages, root.id, project=None)
        assert record_of_root.batch is not None and record_of_root.batch.total == 5
        assert store.read(batches.wrong_counts, record_of_root.batch.id) == {}


def test_pages_that_find_more_at_once_add_each_page_once_and_the_batch_is_told_complete_once(
    store: Database,
) -> None:
    root = stored(store)
    store.write(recording.record_reports, [page_report(root.id, plan(3))], now=LATER)
    children = [derived_id(root.id, index) for index in (1, 2, 3)]
    more = PagePlace(index=4, last=5, size=2, total=8)
    threads = [
        threading.Thread(
            target=partial(store.write, recording.record_reports, [page_report(child, more)], now=LATER)
        )
        for child in children
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    between = store.read(store_pages.get_pages, root.id, project=None)
    store.write(
        recording.record_reports, [page_report(derived_id(root.id, index)) for index in (4, 5)], now=LATER
    )

    after = store.read(store_pages.get_pages, root.id, project=None)
    assert between.batch is not None and after.batch is not None
    assert (between.planned, between.completeness.done, between.batch.finished_at) == (6, 4, None)
    assert (after.planned, after.completeness.done, after.batch.finished_at) == (6, 6, LATER)
    assert store.read(batches.wrong_counts, after.batch.id) == {}
    events = store.write(store_events.claim_events, limit=100, lease_seconds=60, now=LATER)
    assert [event.body["total"] for event in events if event.type == "batch"] == [5]


def test_a_page_leads_on_within_a_batch_of_somebody_and_their_counts_stay_true(store: Database) -> None:
    batch = make_batch(kind="fetch")
    roots = [paged_job(), paged_job()]
    store.write(submissions.insert_batch, batch, roots)

    store.write(recording.record_reports, [page_report(root.id, plan(2)) for root in roots], now=LATER)

    assert store.read(batches.wrong_counts, batch.id) == {}
    assert store.read(queries.get_batch, batch.id, project=None).finished_at == LATER
    assert [store.read(store_pages.get_pages, root.id, project=None).planned for root in roots] == [3, 3]


@pytest.mark.parametrize(
    ("index", "following"),
    [
        # What is before a page, or beyond all limits, is not made by it.
        (2, PagePlace(index=1, last=3)),
        (2, PagePlace(index=2)),
        (2, PagePlace(index=9_999)),
        (2, PagePlace(index=3, url="file:///etc/passwd")),
    ],
)
def test_a_forged_report_makes_no_pages_that_its_job_could_not_lead_to(
    store: Database, index: int, following: PagePlace
) -> None:
    root = stored(store)
    store.write(recording.record_reports, [page_report(root.id, plan(2))], now=LATER)

    store.write(recording.record_reports, [page_report(derived_id(root.id, index), following)], now=LATER)

    assert store.read(store_pages.get_pages, root.id, project=None).planned == 3


def test_a_job_that_only_says_that_it_is_a_page_leads_nowhere(store: Database) -> None:
    root = stored(store)
    store.write(recording.record_reports, [page_report(root.id, plan(2))], now=LATER)
    liar = stored(store, args={"page": {"root": str(root.id), "index": 1}})
    plain = make_job(kind="fetch", args={"url": URL})
    check = make_job(args={"url": URL})
    store.write(submissions.insert_jobs, [plain, check])

    for job in (liar, plain, check):
        store.write(recording.record_reports, [page_report(job.id, plan(9))], now=LATER)

    assert (
        store.read(store_pages.get_pages, root.id, project=None).planned,
        store.read(store_pages.get_pages, root.id, project=None).completeness.done,
    ) == (3, 1)
    for job in (liar, plain, check):
        with pytest.raises(JobNotPaged):
            store.read(store_pages.get_pages, job.id, project=None)
    with pytest.raises(JobNotFound):
        store.read(store_pages.get_pages, new_id(), project=None)
    with pytest.raises(JobNotPaged, match=f"page 1 of job {root.id}"):
        store.read(store_pages.get_root, derived_id(root.id, 1), project=None)


BY_URL = {"by": "next_url", "next_url": "next", "other_origins": True}


@pytest.mark.parametrize(
    ("url", "is_foreign", "headers"),
    [
        ("https://example.com/items?p=2", False, {"X-Key": "k"}),
        ("https://other.example/x", False, None),
        ("http://example.com/items?p=2", False, None),
        ("https://example.com:8443/items?p=2", False, None),
        ("https://example.com/items?p=2", True, None),
    ],
)
def test_a_page_gets_the_headers_of_its_job_only_at_its_origin_and_when_that_named_it(
    store: Database, url: str, is_foreign: bool, headers: dict[str, str] | None
) -> None:
    root = stored(store, args={"pages": BY_URL})
    place = PagePlace(index=1, url=url, is_foreign=is_foreign)

    store.write(recording.record_reports, [page_report(root.id, place)], now=LATER)

    page = store.read(queries.get_job, derived_id(root.id, 1), project=None)
    assert (page.args["url"], page.args.get("headers"), page.host) == (url, headers, url_host(url))
    assert not {"url", "is_foreign"} & page.args["page"].keys()


@pytest.mark.parametrize(
    ("args", "place", "stopped_by"),
    [
        (
            {"method": "POST", "json": {"a": 1}, "pages": BY_URL},
            PagePlace(index=1, url="https://other.example/"),
            "other_origin",
        ),
        (
            {"method": "POST", "pages": BY_URL},
            PagePlace(index=1, url="https://example.com/", is_foreign=True),
            "other_origin",
        ),
        (
            {"pages": {"by": "next_url", "next_url": "next"}},
            PagePlace(index=1, url="https://other.example/"),
            "other_origin",
        ),
        ({"pages": BY_URL}, PagePlace(index=1, url="ftp://example.com/"), "invalid_next"),
    ],
    ids=["body", "method", "not allowed", "no URL"],
)
def test_a_page_that_a_worker_of_before_leads_to_and_that_may_not_be_asked_for_ends_the_fetch(
    store: Database, args: dict[str, Any], place: PagePlace, stopped_by: str
) -> None:
    root = stored(store, args=args)

    store.write(recording.record_reports, [page_report(root.id, place)], now=LATER)

    record = store.read(store_pages.get_pages, root.id, project=None)
    assert (record.planned, record.completeness.stopped_by, record.is_complete) == (1, stopped_by, False)


def test_a_fetch_whose_pages_were_cancelled_in_mid_way_is_not_complete(store: Database) -> None:
    root = stored(store, args={"pages": {"by": "cursor", "cursor": "next"}})
    first, second = PagePlace(index=1, size=2), PagePlace(index=2, size=2)
    store.write(recording.record_reports, [page_report(root.id, first)], now=LATER)
    running = make_report(derived_id(root.id, 1), JobState.RUNNING, kind="fetch")
    store.write(recording.record_reports, [running], now=LATER)
    endings.cancel_batch(store, derived_id(root.id, 0), now=LATER, project=None)

    # It was faster than its cancellation, and leads nowhere.
    store.write(recording.record_reports, [page_report(running.job_id, second)], now=LATER)

    record = store.read(store_pages.get_pages, root.id, project=None)
    assert (record.planned, record.completeness.done, record.completeness.stopped_by) == (2, 2, None)
    assert (record.is_cut, record.is_complete) == (True, False)


def test_a_page_that_is_redriven_after_its_batch_was_cancelled_leads_on(store: Database) -> None:
    def place(index: int) -> PagePlace:
        return PagePlace(index=index, size=2, total=99)

    root = stored(store)
    ids = [derived_id(root.id, index) for index in range(5)]
    store.write(recording.record_reports, [page_report(root.id, place(1))], now=LATER)
    store.write(recording.record_reports, [make_report(ids[1], JobState.PARKED, kind="fetch")], now=LATER)
    endings.cancel_batch(store, ids[0], now=LATER, project=None)
    store.write(parking.redrive, ids[1], now=LATER + timedelta(seconds=1), project=None)

    again = page_report(ids[1], place(2)).model_copy(update={"run": 2})
    store.write(recording.record_reports, [again], now=LATER + timedelta(seconds=2))
    # What follows is in its first run, and began after the cancel as well.
    store.write(recording.record_reports, [page_report(ids[2], place(3))], now=LATER + timedelta(seconds=3))

    assert store.read(queries.get_job, ids[3], project=None).state is JobState.ACCEPTED
    # No worker covers pages by their batch, so each is told of.
    endings.cancel_batch(store, ids[0], now=LATER + timedelta(seconds=4), project=None)
    told = store.write(store_events.claim_events, limit=100, lease_seconds=60, now=LATER)
    assert (str(ids[3]), 1) in [(event.body.get("job_id"), event.body.get("run")) for event in told]
    late = page_report(ids[3], place(4))
    store.write(recording.record_reports, [late], now=LATER + timedelta(seconds=5))
    with pytest.raises(JobNotFound):
        store.read(queries.get_job, ids[4], project=None)


def test_a_parked_or_cancelled_first_page_has_no_others_and_a_redriven_one_gets_them(store: Database) -> None:
    root, ended = stored(store), stored(store)
    store.write(recording.record_reports, [make_report(root.id, JobState.PARKED, kind="fetch")], now=LATER)
    store.write(recording.record_reports, [page_report(root.id, plan(3))], now=LATER)
    store.write(endings.cancel_job, ended.id, now=LATER, project=None)
    store.write(recording.record_reports, [page_report(ended.id, plan(3))], now=LATER)
    before = [store.read(store_pages.get_pages, job.id, project=None).planned for job in (root, ended)]

    store.write(parking.redrive, root.id, now=LATER, project=None)
    late = page_report(root.id, plan(3))
    store.write(recording.record_reports, [late, late.model_copy(update={"run": 2})], now=LATER)

    assert before == [1, 1]
    assert store.read(store_pages.get_pages, root.id, project=None).planned == 4


@pytest.mark.parametrize(
    ("keys", "distinct"),
    [
        ([b"a" * 8 + b"b" * 8, b"b" * 8 + b"c" * 8], 3),
        ([b"a" * 8 + b"b" * 8, b"short"], None),
        ([b"a" * 8 + b"b" * 8, None], None),
    ],
)
def test_keys_are_compared_over_all_pages_when_each_item_has_one(
    store: Database, keys: list[bytes | None], distinct: int | None
) -> None:
    root = stored(store)

    store.write(recording.record_reports, [page_report(root.id, plan(1), keys=keys[0], total=4)], now=LATER)
    store.write(
        recording.record_reports, [page_report(derived_id(root.id, 1), keys=keys[1], total=4)], now=LATER
    )

    seen = store.read(store_pages.get_pages, root.id, project=None).completeness
    assert (seen.items, seen.distinct) == (4, distinct)
    assert seen.missing == (0 if distinct is None else 4 - distinct)
    assert store.read(store_pages.next_page_items, root.id, after=0, project=None) == (
        1,
        [b"0", b"1"],
        keys[1] if distinct else None,
    )


@pytest.mark.parametrize("keys", ["é", "====", "AAAA", "A" * 1_000])
def test_digests_of_keys_that_cannot_be_read_stop_no_recorder(store: Database, keys: str) -> None:
    root = stored(store)
    report = page_report(root.id)
    assert report.page is not None
    odd = report.page.model_copy(update={"keys": keys})

    store.write(
        recording.record_reports, [report.model_copy(update={"page": odd, "result": None})], now=LATER
    )

    record = store.read(store_pages.get_pages, root.id, project=None)
    assert (record.completeness.items, record.completeness.distinct) == (2, None)


def test_a_run_of_a_schedule_is_unfinished_while_pages_of_its_job_are(store: Database) -> None:
    schedule = make_schedule()
    other = stored(store)
    root = paged_job()
    store.write(schedules.insert_schedule, schedule)
    before = store.read(
        schedules.has_unfinished_run, store.read(schedules.get_schedule, schedule.id, project=None)
    )
    record = store.write(schedules.run_now, schedule.id, ScheduledRun(NOON, [root]), now=NOON, project=None)
    store.write(recording.record_reports, [page_report(root.id, plan(1))], now=LATER)
    between = store.read(schedules.has_unfinished_run, record)

    store.write(recording.record_reports, [page_report(derived_id(root.id, 1))], now=LATER)

    assert (before, between, store.read(schedules.has_unfinished_run, record)) == (False, True, False)
    assert store.read(queries.get_job, other.id, project=None).state is JobState.ACCEPTED


def test_pages_are_deleted_with_their_jobs(store: Database) -> None:
    root = stored(store)
    store.write(recording.record_reports, [page_report(root.id, plan(1))], now=LATER)
    store.write(recording.record_reports, [page_report(derived_id(root.id, 1))], now=LATER)
    before = LATER + timedelta(days=365 * 90)

    assert (
        store.write(
            retention.delete_single_jobs, JobState.SUCCEEDED, before=before, after=None, limit=10
        ).deleted
        == 1
    )

    assert store.read(store_pages.next_page_items, root.id, after=-1, project=None) == (1, [b"0", b"1"], None)
