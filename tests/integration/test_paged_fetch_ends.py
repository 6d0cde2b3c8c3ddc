"""Where a paged fetch ends, by what targets answer behind their last page; nothing is lost before."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from consumer.http.client import Client
from producer.store import queries
from producer.store.database import Database
from producer.store.migrate import migrate
from shared.states import JobState
from tests.support.http_servers import client_that_reaches_loopback
from tests.support.paged_site import (
    Answer,
    PagedSite,
    answer_of,
    items,
    measured,
    paged_site,
    submit,
    work_all,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'retriever.db'}"
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


def with_pages(site: PagedSite, *counts: int, behind: Answer | None = None, total: int | None = None) -> None:
    """Give pages of so many items, by number or by offset in tens; and then what is behind the last."""
    starts = [sum(counts[:index]) for index in range(len(counts))]

    def answer(request: web.Request) -> web.Response:
        query = request.query
        index = int(query["page"]) - 1 if "page" in query else -(-int(query["offset"]) // 10)
        if index >= len(counts) and behind is not None:
            return behind(request)
        there = range(starts[index], starts[index] + counts[index]) if index < len(counts) else ()
        return answer_of({"items": list(there), "total": total})

    site.answers["/api"] = answer


@pytest.mark.parametrize("total", [None, 37])
@pytest.mark.parametrize(
    "pages",
    [
        {"by": "page"},
        {"by": "page", "size": 10, "size_parameter": "size"},
        {"by": "offset", "size": 10},
    ],
    ids=str,
)
async def test_no_item_is_lost_when_the_first_page_has_more_than_the_others(
    store: Database, site: PagedSite, client: Client, pages: dict[str, Any], total: int | None
) -> None:
    # As with posts that are pinned to the first page.
    with_pages(site, 12, 10, 10, 5, total=total)
    root = submit(store, f"{site.url}/api", {**pages, "items": "items", "key": "@", "total": "total"})

    await work_all(store, client)

    report = measured(store, root)
    assert items(store, root) == list(range(37))
    assert (report.complete, report.missing) == (True, None if total is None else 0)
    # Without a total nobody can tell for sure, and the report says so.
    assert ("No total says" in report.explanation) is (total is None)


async def test_pages_that_are_filtered_after_paging_are_read_to_the_empty_one(
    store: Database, site: PagedSite, client: Client
) -> None:
    with_pages(site, 10, 3, 8, 1, 10, 2)
    root = submit(store, f"{site.url}/api", {"by": "page", "items": "items"})

    await work_all(store, client)

    assert items(store, root) == list(range(34))
    assert measured(store, root).stopped_by == "empty_page"


async def test_a_target_that_repeats_its_short_last_page_has_come_to_its_end(
    store: Database, site: PagedSite, client: Client
) -> None:
    with_pages(site, 10, 10, 4, behind=lambda request: answer_of({"items": list(range(20, 24))}))
    root = submit(store, f"{site.url}/api", {"by": "page", "items": "items"})

    await work_all(store, client)

    report = measured(store, root)
    assert items(store, root) == list(range(24))
    assert (report.stopped_by, report.complete) == ("short_page", True)


@pytest.mark.parametrize("status", [204, 205, 400, 404, 416])
@pytest.mark.parametrize("by", ["page", "offset"])
async def test_a_target_says_by_many_a_status_that_no_page_is_behind_the_last(
    store: Database, site: PagedSite, client: Client, by: str, status: int
) -> None:
    with_pages(site, 10, 10, behind=lambda request: web.Response(status=status))
    pages = {"by": by, "items": "items", **({"size": 10} if by == "offset" else {})}
    root = submit(store, f"{site.url}/api", pages)

    await work_all(store, client)

    report = measured(store, root)
    stop = "empty_page" if status < 400 else "not_found"
    assert (report.items, report.stopped_by, report.complete) == (20, stop, True)
    assert report.pages.parked == 0


@pytest.mark.parametrize("status", [401, 403, 410, 422])
async def test_a_refusal_that_says_nothing_of_pages_is_no_end(
    store: Database, site: PagedSite, client: Client, status: int
) -> None:
    with_pages(site, 10, 10, behind=lambda request: web.Response(status=status))
    root = submit(store, f"{site.url}/api", {"by": "page", "items": "items"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.pages.parked, report.complete) == (1, False)


@pytest.mark.parametrize("status", [400, 404, 416])
@pytest.mark.parametrize("pages", [{"by": "page"}, {"by": "link"}], ids=str)
async def test_a_first_page_that_is_not_there_is_a_failure(
    store: Database, site: PagedSite, client: Client, pages: dict[str, Any], status: int
) -> None:
    site.answers["/api"] = lambda request: web.Response(status=status)
    root = submit(store, f"{site.url}/api", pages)

    await work_all(store, client)

    assert store.read(queries.get_job, root.id, project=None).state is JobState.PARKED


@pytest.mark.parametrize("status", [400, 404, 416])
async def test_a_page_to_which_another_led_is_lost_when_it_is_not_there(
    store: Database, site: PagedSite, client: Client, status: int
) -> None:
    first = answer_of([1], {"Link": "<?n=2>; rel='next'"})
    site.answers["/api"] = lambda request: web.Response(status=status) if "n" in request.query else first
    root = submit(store, f"{site.url}/api", {"by": "link"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.items, report.pages.parked, report.complete) == (1, 1, False)


@pytest.mark.parametrize("status", [400, 404, 416])
async def test_a_page_that_the_total_promises_is_lost_when_it_is_not_there(
    store: Database, site: PagedSite, client: Client, status: int
) -> None:
    with_pages(site, 10, 10, behind=lambda request: web.Response(status=status), total=30)
    root = submit(store, f"{site.url}/api", {"by": "page", "items": "items", "total": "total"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.pages.parked, report.missing, report.complete) == (1, 10, False)


async def test_no_content_is_an_empty_list_on_the_first_page(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.answers["/api"] = lambda request: web.Response(status=204)
    styles = [{"by": "page"}, {"by": "link"}, {"by": "cursor", "cursor": "next"}]
    roots = [submit(store, f"{site.url}/api", style) for style in styles]

    await work_all(store, client)

    reports = [measured(store, root) for root in roots]
    assert [(report.items, report.complete) for report in reports] == [(0, True)] * 3


async def test_pages_fewer_than_the_size_of_the_first_promised_are_not_called_lost(
    store: Database, site: PagedSite, client: Client
) -> None:
    # The first page is filtered, so the plan has more pages than there are.
    with_pages(site, 5, 10, behind=lambda request: web.Response(status=404), total=20)
    pages = {"by": "page", "size": 10, "size_parameter": "n", "items": "items", "total": "total"}
    root = submit(store, f"{site.url}/api", pages)

    await work_all(store, client)

    report = measured(store, root)
    assert (report.pages.parked, report.items, report.missing, report.complete) == (0, 15, 5, False)


async def test_a_fetch_of_one_page_says_that_it_led_to_no_other(
    store: Database, site: PagedSite, client: Client
) -> None:
    # The name of the cursor may be wrong.
    site.answers["/api"] = lambda request: answer_of({"items": [1], "next": "a"})
    root = submit(store, f"{site.url}/api", {"by": "cursor", "cursor": "nxt", "items": "items"})

    await work_all(store, client)

    assert "The first page led to no other." in measured(store, root).explanation


async def test_no_content_where_a_cursor_led_does_not_say_that_it_is_the_end(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.answers["/api"] = lambda request: (
        web.Response(status=204) if "cursor" in request.query else answer_of({"items": [1], "next": "a"})
    )
    root = submit(store, f"{site.url}/api", {"by": "cursor", "cursor": "next", "items": "items"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.items, report.pages.parked, report.complete) == (1, 1, False)


@pytest.mark.parametrize(
    "pages",
    [
        {"by": "page"},
        {"by": "page", "total": "total"},
        {"by": "cursor", "cursor": "next"},
        {"by": "next_url", "next_url": "next"},
        {"by": "link"},
    ],
    ids=str,
)
async def test_an_error_message_with_200_is_no_empty_page(
    store: Database, site: PagedSite, client: Client, pages: dict[str, Any]
) -> None:
    following = f"{site.url}/api?n=2"
    first = {"items": [1, 2], "total": 4, "next": following}
    answers = [answer_of({"error": "Too fast."}), answer_of(first, {"Link": f"<{following}>; rel='next'"})]
    site.answers["/api"] = lambda request: answers.pop()
    root = submit(store, f"{site.url}/api", {**pages, "items": "items[]"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.items, report.pages.parked, report.complete) == (2, 1, False)


async def test_a_first_list_that_is_null_is_an_empty_one(
    store: Database, site: PagedSite, client: Client
) -> None:
    site.answers["/api"] = lambda request: answer_of({"items": None})
    root = submit(store, f"{site.url}/api", {"by": "page", "items": "items"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.items, report.stopped_by, report.complete) == (0, "empty_page", True)


async def test_a_list_that_is_null_is_an_empty_one(store: Database, site: PagedSite, client: Client) -> None:
    # Go writes an empty slice so.
    with_pages(site, 10, 4, behind=lambda request: answer_of({"items": None}))
    root = submit(store, f"{site.url}/api", {"by": "page", "items": "items[].{n: @}"})

    await work_all(store, client)

    report = measured(store, root)
    assert (report.items, report.stopped_by, report.complete) == (14, "empty_page", True)
