"""Tests of `bench.target`."""

import time

import orjson

from bench.target import Site


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def test_a_page_has_the_size_that_was_asked_for_and_a_head_has_none() -> None:
    site = Site(delay_ms=0, body_bytes=1_024)

    assert len(body_of(site.answer(b"GET /page HTTP/1.1"))) == 1_024
    assert body_of(site.answer(b"HEAD /page HTTP/1.1")) == b""
    assert b"Content-Length: 1024" in site.answer(b"HEAD /page HTTP/1.1")


def test_requests_are_counted_and_asking_for_the_count_is_none() -> None:
    site = Site(delay_ms=0, body_bytes=0)

    for _ in range(3):
        assert body_of(site.answer(b"GET /page HTTP/1.1")) == b""
        site.answer(b"GET /served HTTP/1.1")

    assert body_of(site.answer(b"GET /served HTTP/1.1")) == b"3"


def test_a_request_that_was_due_a_second_ago_is_a_second_late() -> None:
    site = Site(delay_ms=0, body_bytes=2)
    due_ms = round(time.time() * 1_000) - 1_000

    site.answer(b"GET /due/%d HTTP/1.1" % due_ms)

    late_ms = orjson.loads(body_of(site.answer(b"GET /lateness HTTP/1.1")))
    assert 999 <= late_ms["p50"] < 30_000


def test_without_anything_due_nothing_is_late() -> None:
    assert body_of(Site(delay_ms=0, body_bytes=2).answer(b"GET /lateness HTTP/1.1")) == b"null"
