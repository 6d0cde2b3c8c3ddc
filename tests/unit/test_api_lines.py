"""Lines cut from chunks, and judged one by one."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.api.lines import LineBatch, LineSplitter
from producer.submission import BatchInvalid, JobTemplate
from shared.errors import JobInvalid
from shared.identity import new_id
from shared.kinds.registry import KINDS, Lane


def make_batch() -> LineBatch:
    kind = KINDS["check"]
    return LineBatch(JobTemplate(kind, Lane.BULK, kind.retry, {}, datetime(2025, 1, 1, tzinfo=UTC)))


def split(chunks: list[bytes], *, max_line_bytes: int = 8) -> list[tuple[int, bytes | None]]:
    splitter = LineSplitter(max_line_bytes)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.finish())


@given(
    body=st.binary(max_size=60).map(lambda body: body.replace(b"\x00", b"\n")),
    cuts=st.lists(st.integers(0, 60)),
)
def test_lines_do_not_depend_on_where_the_body_was_cut(body: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]

    assert split(chunks) == split([body])


def test_a_line_that_is_too_long_is_dropped_while_it_arrives() -> None:
    splitter = LineSplitter(8)

    for _ in range(1_000):
        assert list(splitter.feed(b"x" * 8)) == []
        assert len(splitter._rest) <= 8

    assert list(splitter.feed(b"\nok\n")) == [(1, None), (2, b"ok")]


def test_blanks_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_line() -> None:
    assert split([b"\xef\xbb\xbfa\r\n\t b \n\n"]) == [(1, b"a"), (2, b"b"), (3, b"")]


def test_valid_lines_become_jobs_in_their_order() -> None:
    with make_batch() as lines:
        lines.feed(b"http://a.example\nhttp://b.")
        lines.feed(b"example")
        lines.finish()
        batch_id = new_id()

        jobs = list(lines.jobs(batch_id=batch_id))

    assert [(job.args["url"], job.host) for job in jobs] == [
        ("http://a.example/", "a.example"),
        ("http://b.example/", "b.example"),
    ]
    assert {job.batch_id for job in jobs} == {batch_id}
    assert jobs[0].id < jobs[1].id


def test_wrong_lines_are_named_by_number() -> None:
    with make_batch() as lines:
        lines.feed(b"http://a.example\n\nnonsense\n\xff\n")

        with pytest.raises(BatchInvalid) as caught:
            lines.finish()

    assert [error.loc for error in caught.value.errors] == ["/lines/3", "/lines/4"]
    assert caught.value.summary.startswith("2 of 3 lines")


def test_no_line_at_all_is_invalid() -> None:
    with make_batch() as lines, pytest.raises(JobInvalid, match="no URL"):
        lines.finish()
