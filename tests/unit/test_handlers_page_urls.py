"""Parameters in a query, and the many ways to write a `Link` header."""

import time

import pytest

from consumer.handlers.paged_fetch import with_parameters
from consumer.http.header_fields import absolute_url, next_link


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/", "http://a.example/?page=2"),
        ("http://a.example/x?page=1", "http://a.example/x?page=2"),
        ("http://a.example/x?page=1&q=a%20b&page=9", "http://a.example/x?q=a%20b&page=2"),
        ("http://a.example/x?pa%67e=1&Page=3", "http://a.example/x?Page=3&page=2"),
        ("http://a.example/x?a=1;b&&=#top", "http://a.example/x?a=1;b&=&page=2#top"),
        ("http://[::1]:80/x?", "http://[::1]:80/x?page=2"),
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
    ("fields", "expected"),
    [
        (['<http://a.example/?page=2>; rel="next"'], "http://a.example/?page=2"),
        (["<b>; rel=next"], "b"),
        (["<b> ; rel = next"], "b"),
        (['<a>; rel="prev", <b>; rel="next"'], "b"),
        (['<a>; rel="first prev"', '<b>; rel="last next"'], "b"),
        (['<b>; rel="NEXT"; title="x"'], "b"),
        (['<b>; REL="Next"'], "b"),
        (["<b>; title=\"a, <c>; rel=next\"; rel='next'"], None),
        (['<a>; title="a, <c>; rel=next", <b>; rel=next'], "b"),
        (['<a>; title="say \\"next\\" ; rel=next"'], None),
        (["<a,b;c?d=e,f>; rel=next"], "a,b;c?d=e,f"),
        (['<a>; rel="prev"; rel="next"'], None),
        (['<a>; rel="nextpage"'], None),
        (['<a>; rel="next"; anchor="#other", <b>; rel="next"'], "b"),
        (["<a>; crossorigin; rel=next"], "a"),
        (["<>; rel=next"], ""),
        (["a; rel=next"], None),
        (["<a; rel=next"], None),
        (['<a>; rel="next'], "a"),
        (["<a>; rel="], None),
        (["<a>;;; rel=next"], "a"),
        ([",,,<a>;rel=next,,"], "a"),
        ([], None),
        ([""], None),
    ],
)
def test_the_next_page_is_found_in_a_link_header(fields: list[str], expected: str | None) -> None:
    assert next_link(fields) == expected


@pytest.mark.parametrize(
    "text", ["<" * 200_000, "<a>;" * 100_000, '<a>;b="' + "\\" * 200_000, "<a>" + " " * 200_000]
)
def test_a_hostile_link_header_is_read_in_no_time(text: str) -> None:
    started = time.monotonic()

    next_link([text])

    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("?page=2", "http://a.example/x?page=2"),
        ("//b.example/", "http://b.example/"),
        (" /y ", "http://a.example/y"),
        ("/\udcc3\udca9", "http://a.example/%C3%A9"),
        ("ftp://a.example/", None),
        ("javascript:alert(1)", None),
        ("http://[", None),
        ("/" + "a" * 9_000, None),
    ],
)
def test_a_reference_is_read_against_its_page(reference: str, expected: str | None) -> None:
    assert absolute_url(reference, base="http://a.example/x?page=1") == expected
