"""Paged fetches of every style, from the arguments to the items, without a broker between."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from consumer.http.client import Client
from producer.store import endings, parking, queries, recording, results
from producer.store import events as store_events
from producer.store import pages as store_pages
from producer.store.database import Database
from producer.store.migrate import migrate
from shared.clock import utc_now
from shared.events import EventType
from shared.states import JobState
from tests.support.http_servers import client_that_reaches_loopback
from tests.support.paged_site import (
    PagedSite,
    answer_of,
    claim,
    items,
    measured,
    paged_site,
    submit,
    work_all,
    work_one,
)

BODY = {"items": "items", "key": "id"}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    # What differs between the databases is in test_store_paging.py.
    url = f"sqlite:///{tmp_path / 'retriever.db'}"
    migrate(url)
    opened = Database.open(url)
    yield opened
    opened.close()


@pytest.fixture
async def site() -> AsyncIterator[PagedSite]:
    async with paged_site(95) as opened:
        yield opened


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_that_reaches_loopback() as opened:
        yield opened


@pytest.mark.parametrize(
    "pages",
    [
        {"by": "page"},
        {"by": "page", "size_parameter": "limit", "size": 10, "total": "total"},
        {"by": "page", "total_header": "x-total-count"},
        {"by": "page", "total": "to_string(total)"},
        {"by": "offset", "size": 10},
        {"by": "offset", "size": 10, "total_header": "Content-Range"},
    ],
    ids=str,
)
async def test_numbered_pages_are_read_in_a_row_or_as_planned(
    store: Database, site: PagedSite, client: Client, pages: dict[str, Any]
) -> None:
    root = submit(store, f"{site.url}/api?q=a%20b", {**pages, **BODY}, labels={"team": "web"})

    done = await work_all(store, client)

    report = measured(store, root)
    has_total = bool({"total", "total_header"} & pages.keys())
    # Without a total only an empty page says that the short one before was the last.
    asked = 10 if has_total else 11
    assert items(store, root) == site.items
    assert (done, report.pages.planned, report.pages.done, report.pages.open) == (asked, asked, asked, 0)
    assert (report.items, report.distinct, report.duplicates, report.complete) == (95, 95, 0, True)
    assert (report.missing, report.drift) == ((0, 0) if has_total else (None, None))
    assert all(path.startswith("/api?q=a%20b&") for path in site.asked)
    assert report.batch_id is not None
    batch = store.read(queries.get_batch, report.batch_id, project=None)
    assert (batch.total, batch.labels, batch.finished_at is not None) == (asked - 1, {"team": "web"}, True)
    first = store.read(queries.get_job, root.id, project=None)
    assert first.result is not None and first.result["page"]["batch_id"] == str(report.batch_id)


async def test_ranges_follow_the_size_that_the_target_really_gives(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.cap = 20
    root = submit(store, f"{site.url}/api", {"by": "offset", "size": 500, "total": "total", **BODY})

    await work_all(store, client)

    assert items(store, root) == site.items
    assert site.asked == ["/api?offset=0&limit=500", *(f"/api?offset={n}&limit=20" for n in (20, 40, 60, 80))]


def with_cursor(site: PagedSite) -> None:
    def answer(request: web.Request) -> web.Response:
        start = int(request.query.get("after", "0x0"), 16)
        more = start + 10 < len(site.items)
        return site.page(start, 10, next=hex(start + 10) if more else None)

    site.answers["/api"] = answer


def with_links(site: PagedSite, *, in_body: bool = False, base: str = "") -> None:
    def answer(request: web.Request) -> web.Response:
        start = int(request.query.get("start", 0))
        more = start + 10 < len(site.items)
        following = f"{base}?start={start + 10}" if more else None
        response = site.page(start, 10, **({"next": following} if in_body else {}))
        response.headers.add("Link", '<?start=0>; rel="first"')
        if following and not in_body:
            response.headers.add("Link", f'<x>; rel="prev"; title="a, b", <{following}>; rel="last NEXT"')
        return response

    site.answers["/api"] = answer


async def test_cursors_links_and_next_urls_lead_from_page_to_page(
    store: Database, site: PagedSite, client: Client
) -> None:
    for pages in (
        {"by": "cursor", "cursor": "next", "parameter": "after"},
        {"by": "link"},
        {"by": "next_url", "next_url": "next"},
    ):
        with_cursor(site) if pages["by"] == "cursor" else with_links(site, in_body=pages["by"] == "next_url")
        root = submit(store, f"{site.url}/api", {**pages, **BODY}, lane="interactive")

        assert await work_all(store, client) == 10

        report = measured(store, root)
        assert items(store, root) == site.items
        assert (report.pages.done, report.complete, report.stopped_by) == (10, True, "no_next")


async def test_a_batch_of_pages_is_never_complete_before_the_last_of_them(
    store: Database, site: PagedSite, client: Client
) -> None:
    with_links(site)
    root = submit(store, f"{site.url}/api", {"by": "link", **BODY})
    seen = []

    for _ in range(10):
        (job,) = claim(store)
        report = await work_one(store, client, job)
        store.write(recording.record_reports, [report], now=utc_now())
        if (batch := store.read(store_pages.get_pages, root.id, project=None).batch) is not None:
            seen.append((batch.total, batch.finished_at is not None))

    assert seen == [(n, False) for n in range(1, 10)] + [(9, True)]
    events = store.write(store_events.claim_events, limit=100, lease_seconds=60, now=utc_now())
    assert [event.type for event in events].count(EventType.BATCH) == 1


async def test_a_loop_and_a_page_that_repeats_itself_are_noticed(
    store: Database, site: PagedSite, client: Client
) -> None:
    def ring(request: web.Request) -> web.Response:
        number = int(request.query.get("n", 0))
        headers = {"Link": f"<?n={(number + 1) % 3}>; rel=next"}
        return answer_of([{"id": number, "of": request.path_qs}], headers)

    site.answers["/ring"] = ring
    site.answers["/same"] = lambda request: answer_of([{"id": 1}, {"id": 2}])
    loop = submit(store, f"{site.url}/ring", {"by": "link", "key": "id"})
    same = submit(store, f"{site.url}/same", {"by": "page"})

    await work_all(store, client)

    looped, repeated = measured(store, loop), measured(store, same)
    assert (looped.stopped_by, looped.distinct, looped.complete) == ("loop", 3, False)
    assert looped.pages.done <= 12 and "led back" in looped.explanation
    assert (repeated.stopped_by, repeated.items, repeated.pages.done) == ("repeated_page", 2, 2)
    assert not repeated.complete and "same page came twice" in repeated.explanation


@pytest.mark.parametrize("total", [10**30, -5, 1.5, True, "many", "1e3", None, [], "9" * 40, "-1", " "])
async def test_a_total_that_is_none_leaves_pages_to_be_read_in_a_row(
    store: Database, site: PagedSite, client: Client, total: Any
) -> None:
    site.answers["/api"] = lambda request: answer_of(
        {"items": site.items[(n := (int(request.query["page"]) - 1) * 50) : n + 50], "total": total}
    )
    root = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})

    await work_all(store, client)

    report = measured(store, root)
    assert items(store, root) == site.items
    assert (report.baseline_total, report.missing, report.complete) == (None, None, True)


async def test_a_total_of_zero_is_one_page_and_no_batch(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.items.clear()
    root = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})

    assert await work_all(store, client) == 1

    report = measured(store, root)
    assert (report.batch_id, report.items, report.baseline_total, report.missing) == (None, 0, 0, 0)
    assert (report.stopped_by, report.complete) == ("empty_page", True)


async def test_an_empty_first_page_below_a_total_is_said_to_miss_all(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.items.clear()
    site.total = 70
    root = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})

    assert await work_all(store, client) == 1

    report = measured(store, root)
    assert (report.missing, report.complete) == (70, False)


async def test_totals_that_lie_are_bounded_and_told(store: Database, site: PagedSite, client: Client) -> None:
    site.total = 10**15
    too_many = submit(store, f"{site.url}/api", {"by": "page", "total": "total", "max_pages": 12, **BODY})
    await work_all(store, client)
    site.total = 40
    too_few = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})
    site.asked.clear()

    await work_all(store, client)

    high, low = measured(store, too_many), measured(store, too_few)
    assert (high.pages.planned, high.items, high.stopped_by, high.complete) == (12, 95, "max_pages", False)
    assert high.missing == 10**15 - 95
    # Exactly full pages up to the total look like the truth.
    assert (low.pages.planned, low.items) == (4, 40)


async def test_a_last_page_fuller_than_the_total_allows_leads_on_to_the_real_end(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.total = 35
    root = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})

    await work_all(store, client)

    report = measured(store, root)
    assert items(store, root) == site.items
    assert (report.pages.planned, report.items, report.missing) == (11, 95, 0)


async def test_items_that_are_added_meanwhile_are_fetched_and_reported(
    store: Database, site: PagedSite, client: Client
) -> None:
    del site.items[90:]
    pages = {"by": "offset", "size": 10, "total": "total", **BODY}
    root = submit(store, f"{site.url}/api", pages)

    def grow(request: web.Request) -> None:
        if request.query["offset"] == "40" and len(site.items) == 90:
            site.items.extend({"id": number} for number in range(90, 112))

    site.before = grow
    await work_all(store, client)

    report = measured(store, root)
    assert [item["id"] for item in items(store, root)] == list(range(112))
    assert (report.pages.planned, report.baseline_total, report.last_total, report.drift) == (12, 90, 112, 22)
    assert (report.missing, report.duplicates, report.complete) == (0, 0, True)
    assert "The total went from 90 to 112" in report.explanation


async def test_items_that_are_put_in_front_meanwhile_come_twice_and_are_counted(
    store: Database, site: PagedSite, client: Client
) -> None:
    root = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})

    def push(request: web.Request) -> None:
        if request.query["page"] == "5":
            site.items.insert(0, {"id": -1})

    site.before = push
    await work_all(store, client)

    report = measured(store, root)
    # One item moved from the fourth page to the fifth, and the new one was never on a page that was read.
    assert (report.items, report.distinct, report.duplicates, report.missing) == (96, 95, 1, 1)
    assert (report.drift, report.complete) == (1, False)


async def test_items_that_are_taken_away_meanwhile_leave_no_fetch_complete(
    store: Database, site: PagedSite, client: Client
) -> None:
    root = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})

    def pull(request: web.Request) -> None:
        if request.query["page"] == "5":
            del site.items[0]

    site.before = pull
    await work_all(store, client)

    report = measured(store, root)
    assert (report.drift, report.complete) == (-1, False)


async def test_a_page_that_is_parked_is_missed_and_a_redrive_mends_it(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.failing["/api?page=4"] = 1
    root = submit(store, f"{site.url}/api", {"by": "page", "total": "total", **BODY})
    await work_all(store, client)

    before = measured(store, root)
    (parked,) = (
        [
            job
            for job in store.read(
                results.batch_jobs, before.batch_id, after=None, limit=100, project=None
            ).records
            if job.reason
        ]
        if (before.batch_id)
        else []
    )
    store.write(parking.redrive, parked.id, now=utc_now(), project=None)
    await work_all(store, client)

    assert (before.pages.done, before.pages.parked, before.items) == (9, 1, 85)
    assert (before.missing, before.complete) == (10, False)
    assert "redrive" in before.explanation
    assert items(store, root) == site.items and measured(store, root).complete


async def test_a_row_of_pages_goes_on_from_the_one_that_was_parked(
    store: Database, site: PagedSite, client: Client
) -> None:
    with_cursor(site)
    site.failing["/api?after=0x1e"] = 1
    pages = {"by": "cursor", "cursor": "next", "parameter": "after", **BODY}
    root = submit(store, f"{site.url}/api", pages)
    await work_all(store, client)
    before = measured(store, root)
    assert before.batch_id is not None

    (parked,) = [
        job
        for job in store.read(
            results.batch_jobs, before.batch_id, after=None, limit=100, project=None
        ).records
        if job.reason
    ]
    store.write(parking.redrive, parked.id, now=utc_now(), project=None)
    await work_all(store, client)

    assert (before.pages.done, before.pages.parked, before.complete) == (3, 1, False)
    assert items(store, root) == site.items and measured(store, root).complete
    assert max(site.asked.count(path) for path in site.asked) == 2


@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        ({"items": "nothing"}, "no_items"),
        ({"items": "total"}, "extract_failed"),
        ({"items": "items", "key": "abs(id, id)"}, "extract_failed"),
        ({"items": "sum(items)"}, "extract_failed"),
    ],
)
async def test_expressions_that_do_not_fit_park_the_job(
    store: Database, site: PagedSite, client: Client, pages: dict[str, str], reason: str
) -> None:
    root = submit(store, f"{site.url}/api", {"by": "page", **pages})

    await work_all(store, client)

    job = store.read(queries.get_job, root.id, project=None)
    assert (job.state, job.reason) == (JobState.PARKED, reason)
    report = measured(store, root)
    assert (report.pages.planned, report.pages.done, report.pages.parked, report.complete) == (1, 0, 1, False)


async def test_a_next_url_of_another_origin_is_left_unless_it_is_allowed_and_then_gets_no_secret(
    store: Database, site: PagedSite, client: Client
) -> None:
    async with paged_site(30) as other:
        with_links(site, in_body=True, base=f"{other.url}/api")
        with_links(other, in_body=True, base=f"{other.url}/api")
        pages = {"by": "next_url", "next_url": "next", **BODY}
        args = {"headers": {"X-Key": "secret", "Accept-Language": "de"}}
        refused = submit(store, f"{site.url}/api", pages, args=args)
        allowed = submit(store, f"{site.url}/api", {**pages, "other_origins": True}, args=args)

        await work_all(store, client)

    told = measured(store, refused)
    assert (told.stopped_by, told.pages.planned, told.complete) == ("other_origin", 1, False)
    assert measured(store, allowed).pages.done == 3
    assert all("X-Key" not in head for head in other.heads) and len(other.heads) == 2
    assert all(head["Accept-Language"] == "de" for head in other.heads)
    assert all(head["X-Key"] == "secret" for head in site.heads)


async def test_a_paged_post_goes_to_no_other_origin_and_says_so(
    store: Database, site: PagedSite, client: Client
) -> None:
    async with paged_site(30) as other:
        with_links(site, in_body=True, base=f"{other.url}/api")
        pages = {"by": "next_url", "next_url": "next", "other_origins": True, **BODY}
        args = {"method": "POST", "json": {"q": "secret"}}
        root = submit(store, f"{site.url}/api", pages, args=args)

        await work_all(store, client)

        assert other.heads == []
    told = measured(store, root)
    assert (told.stopped_by, told.pages.planned, told.complete) == ("other_origin", 1, False)
    assert told.explanation.endswith("and a POST goes to the origin of its own URL alone.")


async def test_a_next_url_inside_is_refused_by_the_guard(store: Database, site: PagedSite) -> None:
    with_links(site, base="http://127.0.0.2:1/api")
    root = submit(store, f"{site.url}/api", {"by": "link", "other_origins": True, **BODY})
    async with client_that_reaches_loopback() as client:
        (job,) = claim(store)
        store.write(recording.record_reports, [await work_one(store, client, job)], now=utc_now())

    async with client_that_reaches_loopback(allow=()) as client:
        await work_all(store, client)

    record = store.read(store_pages.get_pages, root.id, project=None)
    assert record.batch is not None
    (page,) = store.read(results.batch_jobs, record.batch.id, after=None, limit=9, project=None).records
    assert (page.state, page.reason, page.host) == (JobState.PARKED, "egress_denied", "127.0.0.2")


@pytest.mark.parametrize(
    "following", ["ftp://a.example/", "http://[", 7, ["x"], {"a": 1}, "http://a.example:1e/"]
)
async def test_a_next_url_that_cannot_be_asked_for_ends_the_fetch(
    store: Database, site: PagedSite, client: Client, following: Any
) -> None:
    site.answers["/api"] = lambda request: answer_of({"items": [1], "next": following})
    root = submit(store, f"{site.url}/api", {"by": "next_url", "next_url": "next", "items": "items"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.stopped_by, report.items, report.complete) == ("invalid_next", 1, False)


async def test_a_relative_link_is_read_against_where_the_redirects_led(
    store: Database, site: PagedSite, client: Client
) -> None:
    def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/api/")

    with_links(site)
    site.answers |= {"/old": moved, "/api/": site.answers["/api"]}
    root = submit(store, f"{site.url}/old", {"by": "link", **BODY})

    await work_all(store, client)

    assert items(store, root) == site.items
    assert site.asked[:3] == ["/old", "/api/", "/api/?start=10"]


async def test_cancelling_the_batch_of_pages_stops_a_row_of_them(
    store: Database, site: PagedSite, client: Client
) -> None:
    with_links(site)
    root = submit(store, f"{site.url}/api", {"by": "link", **BODY})
    (first,) = claim(store)
    store.write(recording.record_reports, [await work_one(store, client, first)], now=utc_now())
    (second,) = claim(store)
    in_hand = await work_one(store, client, second)
    batch_id = store.read(store_pages.get_pages, root.id, project=None).batch.id  # type: ignore[union-attr]

    endings.cancel_batch(store, batch_id, now=utc_now(), project=None)
    store.write(recording.record_reports, [in_hand], now=utc_now())

    assert claim(store) == []
    report = measured(store, root)
    assert (report.pages.planned, report.pages.cancelled, report.complete) == (2, 1, False)


async def test_awkward_items_come_back_as_they_were(store: Database, site: PagedSite, client: Client) -> None:
    odd: list[Any] = [None, "a\0b", "\u2028é😀", [], {"id": None}, {"": 1}, 2**63, 1.5, True]
    site.answers["/api"] = lambda request: web.Response(text=json.dumps(odd), content_type="application/json")
    root = submit(store, f"{site.url}/api", {"by": "link", "key": "id"})

    await work_all(store, client)

    expected = [None, "a\ufffdb", *odd[2:]]
    assert items(store, root) == expected
    # What has no key is told by all that it says.
    assert measured(store, root).distinct == len(odd)
