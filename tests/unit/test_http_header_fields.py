"""What a target means by `Retry-After` and `Link`, in all their dialects."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.http.header_fields import (
    MAX_SECONDS,
    asks_to_wait,
    honours_retry_after,
    next_link,
    retry_after_seconds,
)

NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("60", 60),
        (" 60 ", 60),
        ("1.5", 1.5),
        ("30s", 30),
        ("1m30s", 90),
        ("1M30S", 90),
        ("2h", 7_200),
        ("5m", 300),
        ("9" * 400, MAX_SECONDS),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sat, 05 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_SECONDS),
    ],
)
def test_seconds_durations_and_dates_are_understood(text: str, seconds: float) -> None:
    assert retry_after_seconds({"Retry-After": text}, now=NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "-0.5",
        "+5",
        "soon",
        "1e3",
        "nan",
        "inf",
        "0x10",
        "60,60",
        "1 2",
        "s",
        "m",
        "٣",
        "30ms",
        "1s1m",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
    ],
)
def test_garbage_and_negative_numbers_are_ignored(text: str) -> None:
    assert retry_after_seconds({"Retry-After": text}, now=NOW) is None


def test_an_answer_without_the_field_asks_for_nothing() -> None:
    assert retry_after_seconds({}, now=NOW) is None


def test_a_date_is_measured_by_the_clock_of_the_target() -> None:
    headers = {"Retry-After": "Sun, 06 Nov 1994 10:00:30 GMT", "Date": "Sun, 06 Nov 1994 10:00:00 GMT"}

    assert retry_after_seconds(headers, now=NOW) == 30


def test_a_broken_date_of_the_target_is_replaced_by_our_own() -> None:
    headers = {"Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT", "Date": "yesterday"}

    assert retry_after_seconds(headers, now=NOW) == 60


@given(st.text())
def test_no_text_is_ever_an_error(text: str) -> None:
    seconds = retry_after_seconds({"Retry-After": text}, now=NOW)

    assert seconds is None or 0 <= seconds <= MAX_SECONDS


@pytest.mark.parametrize(
    ("status", "honoured"),
    [
        *((status, True) for status in (301, 302, 403, 408, 409, 413, 425, 429, 500, 502, 503, 529)),
        *((status, False) for status in (200, 202, 400, 401, 404, 405, 410, 451, 600, 999)),
    ],
)
def test_the_field_counts_where_waiting_can_help(status: int, honoured: bool) -> None:
    assert honours_retry_after(status) is honoured
    assert asks_to_wait(status, {"Retry-After": "5"}) is (honoured and status >= 400)
    assert not asks_to_wait(status, {"Retry-After": "soon"})


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
        (["<b>; title=\"a, <c>; rel=next\"; rel='next'"], "b"),
        (["<b>; rel='prev Next' "], "b"),
        (["<a>; rel='prev', <b>;rel = 'next';title='it's next'"], "b"),
        (["<b>; title='it's'; rel=next"], "b"),
        (["<b>; rel='next"], None),
        (["<b>; rel='nextpage'"], None),
        (["<b>; title*=UTF-8''n%C3%A4chste; rel=\"next\""], "b"),
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
    "text",
    [
        "<" * 200_000,
        "<a>;b='x" * 50_000,
        "<a>;b='" + " " * 200_000,
        "<a>;" * 100_000,
        '<a>;b="' + "\\" * 200_000,
        "<a>" + " " * 200_000,
    ],
)
def test_a_hostile_link_header_is_read_in_no_time(text: str) -> None:
    started = time.thread_time()

    next_link([text])

    assert time.thread_time() - started < 2
