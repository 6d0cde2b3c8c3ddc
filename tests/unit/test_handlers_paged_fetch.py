"""Which pages follow a page: plans and their changes, stop rules, loops, and parameters in a query."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from consumer.compute.extract import extract
from consumer.handlers.next_pages import FetchedPage, NextPages, next_pages, offset_of
from consumer.handlers.paged_fetch import _is_null, with_parameters
from shared.kinds.pages import PagePlace, Pages, StopReason

PAGES: TypeAdapter[Pages] = TypeAdapter(Pages)


def pages_of(by: str = "page", **fields: Any) -> Pages:
    needed = {"cursor": {"cursor": "c"}, "next_url": {"next_url": "n"}}.get(by, {})
    return PAGES.validate_python({"by": by, **needed, **fields})


def numbers(count: int, *, start: int = 0) -> list[int]:
    return list(range(start, start + count))


def planned(total: int, *, first: int = 25, **fields: Any) -> tuple[int, int] | StopReason | None:
    """Return the range that a first page leads to, or why there is none."""
    after = next_pages(pages_of(total="t", **fields), None, FetchedPage(numbers(first), total=total))
    return (after.following.index, after.following.last or 0) if after.following else after.stopped_by


def place(index: int, last: int, *, size: int = 25, total: int = 100) -> PagePlace:
    return PagePlace(index=index, last=last, size=size, total=total)


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (1_000, (1, 39)),
        (1_001, (1, 40)),
        (26, (1, 1)),
        (25, None),
        (10**15, (1, 999)),
        # The total lies: what is there already is more than all.
        (10, (1, 1)),
    ],
)
def test_the_ranges_follow_from_the_total_and_the_real_size_of_the_first_page(
    total: int, expected: tuple[int, int] | None
) -> None:
    assert planned(total) == expected


def test_a_plan_keeps_to_its_limits_and_says_so() -> None:
    by_pages = next_pages(pages_of(total="t", max_pages=10), None, FetchedPage(numbers(25), total=1_000))
    by_items = next_pages(pages_of(total="t", max_items=30), None, FetchedPage(numbers(25), total=1_000))
    one = next_pages(pages_of(total="t", max_items=7), None, FetchedPage(numbers(25), total=1_000))

    assert (by_pages.stopped_by, by_pages.following and by_pages.following.last) == (StopReason.MAX_PAGES, 9)
    assert (by_items.stopped_by, by_items.following and by_items.following.last) == (StopReason.MAX_ITEMS, 1)
    assert one == NextPages(7, StopReason.MAX_ITEMS)


@pytest.mark.parametrize("total", [0, 5, 10**15])
def test_an_empty_first_page_cannot_be_planned_from(total: int) -> None:
    assert next_pages(pages_of(total="t"), None, FetchedPage([], total=total)) == NextPages(
        0, StopReason.EMPTY_PAGE
    )


def test_a_first_page_without_a_total_leads_to_the_next() -> None:
    after = next_pages(pages_of(total="t"), None, FetchedPage(numbers(25)))

    assert after.following is not None
    assert (after.following.index, after.following.last, after.following.items_before) == (1, None, 25)


def test_the_last_planned_page_ends_a_plan_that_holds() -> None:
    assert next_pages(pages_of(total="t"), place(3, 3), FetchedPage(numbers(25), total=100)) == NextPages(25)
    assert next_pages(pages_of(total="t"), place(2, 3), FetchedPage(numbers(25), total=100)) == NextPages(25)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_any_page_that_says_a_greater_total_adds_the_pages_that_are_missing(index: int) -> None:
    after = next_pages(pages_of(total="t"), place(index, 3), FetchedPage(numbers(25), total=151))

    assert after.following is not None
    assert (after.following.index, after.following.last, after.following.total) == (4, 6, 100)


def test_a_last_page_that_is_fuller_than_the_total_allows_adds_one() -> None:
    after = next_pages(pages_of(total="t"), place(3, 3, total=90), FetchedPage(numbers(25), total=90))
    unsaid = next_pages(pages_of(total="t"), place(3, 3, total=90), FetchedPage(numbers(25)))
    at_limit = next_pages(
        pages_of(total="t", max_pages=4), place(3, 3, total=90), FetchedPage(numbers(25), total=90)
    )

    assert after.following is not None and (after.following.index, after.following.last) == (4, 4)
    assert unsaid.following == after.following
    assert at_limit == NextPages(25, StopReason.MAX_PAGES)


def test_the_last_page_is_cut_at_the_most_items_that_are_wanted() -> None:
    after = next_pages(pages_of(total="t", max_items=30), place(1, 1), FetchedPage(numbers(25), total=100))

    assert after == NextPages(5, StopReason.MAX_ITEMS)


def test_a_target_that_ignores_the_page_is_noticed_in_a_plan_and_in_a_row() -> None:
    for fields in ({"total": "t"}, {}):
        first = next_pages(pages_of(**fields), None, FetchedPage(numbers(25), total=100 if fields else None))

        again = next_pages(
            pages_of(**fields), first.following, FetchedPage(numbers(25), total=100 if fields else None)
        )

        assert again == NextPages(0, StopReason.REPEATED_PAGE)


def walk(pages: Pages, answer: Callable[[int, str], FetchedPage]) -> tuple[int, StopReason | None]:
    """Ask page after page; return how many were asked for and why no more."""
    here: PagePlace | None = None
    token = ""
    for count in range(1, 20_000):
        after = next_pages(pages, here, answer(count - 1, token))
        if after.following is None:
            return count, after.stopped_by
        here = PagePlace.model_validate_json(after.following.model_dump_json(exclude_defaults=True))
        assert here.index == count
        token = here.cursor or here.url or ""
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([3, 3, 2, 0], (4, StopReason.EMPTY_PAGE)),
        ([3, 3, 0], (3, StopReason.EMPTY_PAGE)),
        ([0], (1, StopReason.EMPTY_PAGE)),
        ([5, 3, 1, 3, 0], (5, StopReason.EMPTY_PAGE)),
    ],
)
@pytest.mark.parametrize("by", ["page", "offset"])
def test_without_a_total_an_empty_page_is_behind_the_last_and_a_short_one_proves_nothing(
    by: str, sizes: list[int], expected: tuple[int, StopReason]
) -> None:
    assert walk(pages_of(by), lambda n, _: FetchedPage(numbers(sizes[n], start=n * 100))) == expected


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        # Short, behind others: so some targets answer whatever is behind their last page.
        ([3, 3, 2], StopReason.SHORT_PAGE),
        # It may be that no page is given beyond some limit, or that the parameter is ignored.
        ([3, 3, 3], StopReason.REPEATED_PAGE),
        ([3], StopReason.REPEATED_PAGE),
        ([2], StopReason.REPEATED_PAGE),
    ],
)
def test_a_last_page_that_comes_again_is_the_end_only_when_it_is_short(
    sizes: list[int], reason: StopReason
) -> None:
    def answer(n: int, _: str) -> FetchedPage:
        last = min(n, len(sizes) - 1)
        return FetchedPage(numbers(sizes[last], start=last * 100))

    pages = pages_of("page", size=3, size_parameter="size")

    assert walk(pages, answer) == (len(sizes) + 1, reason)


@pytest.mark.parametrize(("size", "counts"), [(100, [20, 20, 20]), (10, [12, 10, 10])])
def test_a_page_is_short_by_what_others_have_and_not_by_what_was_asked_for_alone(
    size: int, counts: list[int]
) -> None:
    # The target gives 20 at most, or pins two to its first page; and no page beyond some limit.
    def answer(n: int, _: str) -> FetchedPage:
        last = min(n, 2)
        return FetchedPage(numbers(counts[last], start=last * 100))

    assert walk(pages_of("page", size=size, size_parameter="n"), answer) == (4, StopReason.REPEATED_PAGE)


def test_a_page_that_comes_again_is_known_by_its_keys() -> None:
    def answer(n: int, _: str) -> FetchedPage:
        names = [1, 2, 3] if n % 2 else [3, 1, 2]
        return FetchedPage([{"id": name, "asked_at": n} for name in names], names=names)

    assert walk(pages_of("page", key="id"), answer) == (2, StopReason.REPEATED_PAGE)


@pytest.mark.parametrize(
    ("counts", "offsets"),
    [
        ([10, 10, 5, 0], [0, 10, 20, 25]),
        # Two items are pinned to the first page.
        ([12, 10, 10, 5, 0], [0, 10, 20, 30, 35]),
        # The target gives five, whatever is asked for.
        ([5, 5, 0], [0, 5, 10]),
        ([7, 10, 0], [0, 7, 17]),
    ],
)
def test_offsets_leave_no_item_out_whatever_a_page_has(counts: list[int], offsets: list[int]) -> None:
    pages = pages_of("offset", size=10)
    asked, here = [], None
    for index, count in enumerate(counts):
        asked.append(offset_of(here))
        here = next_pages(pages, here, FetchedPage(numbers(count, start=100 * index))).following

    assert (asked, here) == (offsets, None)


@pytest.mark.parametrize("total", [None, 137])
@pytest.mark.parametrize("count", [9, 10, 11, 12, 19, 24, 25, 36, 137])
@pytest.mark.parametrize(
    ("pinned", "large"), [*((0, large) for large in (1, 7, 10, 11, 12, 25, 60)), (2, 10), (15, 10), (2, 25)]
)
def test_every_item_comes_once_whatever_the_target_makes_of_the_limit(
    pinned: int, large: int, count: int, total: int | None
) -> None:
    """Its pages have `large` items, whatever is asked for, and `pinned` more on the first."""
    pages = pages_of("offset", size=10, total="t")
    pins = [f"pinned {number}" for number in range(pinned)]
    kept: list[Any] = []
    here = None
    for _ in range(200):
        offset = offset_of(here) if here is None or here.last is None else here.index * (here.size or 0)
        found = [*(pins if offset == 0 else []), *numbers(count)[offset : offset + large]]
        after = next_pages(pages, here, FetchedPage(found, total=total and count + pinned))
        kept += after.of(found)
        if after.following is not None and after.following.last is not None:
            here = after.following
        elif here is not None and here.last is not None and here.index < here.last:
            here = here.model_copy(update={"index": here.index + 1})
        else:
            here = after.following
        if here is None:
            break

    if pinned and large > 10:
        # What is pinned hides where a page begins: some come twice, and none is lost.
        assert set(kept) == {*pins, *numbers(count)}
    else:
        assert kept == [*pins, *numbers(count)]


@pytest.mark.parametrize(
    ("first", "total", "last"),
    [
        (12, 37, 3),
        (12, 102, 9),
        (12, 12, None),
        (10, 37, 3),
        # Less than was asked for is what the target gives.
        (5, 37, 7),
    ],
)
def test_pages_are_planned_by_the_size_that_was_asked_for(first: int, total: int, last: int | None) -> None:
    pages = pages_of(size=10, total="t", size_parameter="size")

    after = next_pages(pages, None, FetchedPage(numbers(first), total=total))

    assert (after.following and after.following.last) == last


def test_pages_that_are_smaller_than_the_first_lead_on_from_the_last_that_was_planned() -> None:
    # Nothing says how large a page is; the first has two more than the others.
    plan = next_pages(pages_of(total="t"), None, FetchedPage(numbers(12), total=102)).following
    assert plan is not None and plan.last == 8

    after = next_pages(
        pages_of(total="t"), place(8, 8, size=12, total=102), FetchedPage(numbers(10), total=102)
    )

    assert after.following is not None and after.following.last == 9


def test_the_most_items_that_are_wanted_count_those_that_the_first_page_has_beyond_its_size() -> None:
    pages = pages_of(total="t", max_items=30, size=10, size_parameter="size")
    plan = next_pages(pages, None, FetchedPage(numbers(12), total=102)).following
    assert plan is not None and plan.last == 2

    last = plan.model_copy(update={"index": 2})

    assert next_pages(pages, last, FetchedPage(numbers(10), total=102)).kept == 8


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_pages": 5}, (5, StopReason.MAX_PAGES)),
        ({"max_pages": 1}, (1, StopReason.MAX_PAGES)),
        ({"max_items": 7}, (3, StopReason.MAX_ITEMS)),
        ({"max_items": 6}, (2, StopReason.MAX_ITEMS)),
    ],
)
@pytest.mark.parametrize("by", ["page", "cursor", "link"])
def test_every_way_keeps_to_its_limits(
    by: str, fields: dict[str, int], expected: tuple[int, StopReason]
) -> None:
    def answer(n: int, _: str) -> FetchedPage:
        return FetchedPage(numbers(3, start=3 * n), cursor=n + 1, next_url=f"http://a/{n + 1}", here=str(n))

    assert walk(pages_of(by, **fields), answer) == expected


@pytest.mark.parametrize("before", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("by", ["cursor", "link", "next_url"])
def test_every_loop_is_found_before_it_was_walked_thrice(by: str, before: int, length: int) -> None:
    def node(n: int) -> str:
        return str(n if n < before else before + (n - before) % length)

    def answer(n: int, token: str) -> FetchedPage:
        here = token or ("" if by == "cursor" else f"http://a/{node(0)}")
        following = node(n + 1)
        return FetchedPage([n], cursor=f"c{following}", next_url=f"http://a/{following}", here=here)

    count, reason = walk(pages_of(by, max_pages=10_000), answer)

    assert reason is StopReason.LOOP
    assert count <= 3 * (before + length) + 3


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        (None, StopReason.NO_NEXT),
        ("", StopReason.NO_NEXT),
        (False, StopReason.NO_NEXT),
        (True, StopReason.INVALID_NEXT),
        ({"a": 1}, StopReason.INVALID_NEXT),
        (1.5, StopReason.INVALID_NEXT),
        (10**4_200, StopReason.INVALID_NEXT),
        ("x" * 4_097, StopReason.INVALID_NEXT),
    ],
)
def test_a_cursor_that_is_none_or_cannot_be_sent_ends_the_fetch(cursor: Any, reason: StopReason) -> None:
    assert next_pages(pages_of("cursor"), None, FetchedPage([1], cursor=cursor)) == NextPages(1, reason)


def test_a_cursor_of_zero_is_one() -> None:
    after = next_pages(pages_of("cursor"), None, FetchedPage([1], cursor=0))

    assert after.following is not None and after.following.cursor == "0"


def test_an_empty_page_with_a_cursor_is_not_the_end() -> None:
    answers = [
        FetchedPage([1], cursor="a"),
        FetchedPage([], cursor="b"),
        FetchedPage([], cursor="c"),
        FetchedPage([2]),
    ]

    assert walk(pages_of("cursor"), lambda n, token: answers[n]) == (4, StopReason.NO_NEXT)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/", "http://a.example/?page=2"),
        ("http://a.example/x?page=1", "http://a.example/x?page=2"),
        ("http://a.example/x?page=1&q=a%20b&page=9", "http://a.example/x?q=a%20b&page=2"),
        ("http://a.example/x?pa%67e=1&Page=3", "http://a.example/x?Page=3&page=2"),
        ("http://a.example/x?a=1;b&&=#top", "http://a.example/x?a=1;b&=&page=2#top"),
        ("http://[::1]:8080/x?", "http://[::1]:8080/x?page=2"),
    ],
)
def test_a_parameter_takes_the_place_of_its_name_and_leaves_the_rest_as_it_is(
    url: str, expected: str
) -> None:
    assert with_parameters(url, {"page": "2"}) == expected


def test_what_a_cursor_holds_cannot_leave_its_parameter() -> None:
    url = with_parameters("http://a.example/", {"page[after]": "a&b=c#d/é ?%"})

    assert url == "http://a.example/?page[after]=a%26b%3Dc%23d%2F%C3%A9%20%3F%25"


@pytest.mark.parametrize(
    ("expression", "document", "expected"),
    [
        ("items", {"items": None}, True),
        ("items", {"items": []}, False),
        ("items[]", {"items": "none"}, False),
        ("items", {"error": "slow down"}, False),
        ("items", [], False),
        ("items", None, False),
        ("data.items[?a].{b: b}", {"data": {"items": None}}, True),
        ("data.items[]", {"data": {}}, False),
        ("data.items[]", {"error": 1}, False),
        ('data."all items" | [0:2]', {"data": {"all items": None}}, True),
        # There it cannot be told.
        ("items || `[]`", {}, None),
        ("@", None, None),
        ("a[0].items", {}, None),
        ('"it\'s"', {}, None),
    ],
)
def test_a_list_that_is_null_is_told_from_one_that_is_not_there(
    expression: str, document: Any, expected: bool | None
) -> None:
    assert extract(document, _is_null(expression)) is expected
