"""A streamed batch: its query is a submission, its lines are judged as they come."""

from collections.abc import Mapping

import pytest

from producer.api.batch_bodies import BatchLimits, BatchSpool, Stream, read_query
from producer.api.problems import HttpProblem
from producer.batch_validation import BatchInvalid
from shared.errors import JobInvalid
from shared.identity import new_id
from shared.kinds.registry import Lane


def stream(body: bytes, spool: BatchSpool, *, media_type: str = "text/plain", **query: str) -> Stream:
    opened = Stream.open(media_type, query, spool, project="default")
    opened.feed(body)
    opened.finish()
    return opened


def test_the_query_says_whatever_a_json_batch_can_say() -> None:
    submission = read_query(
        {
            "kind": "fetch",
            "lane": "interactive",
            "strict": "TRUE",
            "defaults": '{"timeout_seconds": 5}',
            "labels": '{"team": "docs"}',
            "retry": '{"max_attempts": 2}',
            "delay_seconds": "60",
            "deadline_at": "2030-01-01T00:00:00Z",
        }
    )

    assert (submission.kind, submission.lane, submission.strict) == ("fetch", Lane.INTERACTIVE, True)
    assert submission.defaults == {"timeout_seconds": 5} and submission.labels == {"team": "docs"}
    assert submission.retry.model_dump(exclude_unset=True) == {"max_attempts": 2}
    assert submission.delay_seconds == 60 and submission.deadline_at is not None


@pytest.mark.parametrize(
    ("query", "loc"),
    [
        ({"defaults": "{"}, "/query/defaults"),
        ({"defaults": "[]"}, "/query/defaults"),
        ({"defaults": '{"a": NaN}'}, "/query/defaults"),
        ({"labels": '{"team": 5}'}, "/query/labels/team"),
        ({"retry": '{"max_attempts": "5"}'}, "/query/retry/max_attempts"),
        ({"delay_seconds": "nan"}, "/query/delay_seconds"),
        ({"delay_seconds": "5", "run_at": "2020-01-01T00:00:00Z"}, "/query/delay_seconds"),
        ({"run_at": "tomorrow"}, "/query/run_at"),
        ({"run_at": "9999-01-01T00:00:00Z"}, "/query/run_at"),
        ({"kind": "nonsense"}, "/query/kind"),
        ({"strict": "perhaps"}, "/query"),
        ({"items": "[]"}, "/query/items"),
    ],
)
def test_a_wrong_query_is_named_by_its_parameter(query: Mapping[str, str], loc: str) -> None:
    with BatchSpool() as spool, pytest.raises(JobInvalid) as caught:
        Stream.open("text/plain", query, spool, project="default")

    assert caught.value.errors[0].loc == loc


def test_valid_lines_become_jobs_in_their_order_and_the_others_are_kept() -> None:
    with BatchSpool() as spool:
        opened = stream(
            b"http://a.example\nsecret\nhttp://b.example\n\xff", spool, defaults='{"max_redirects": 1}'
        )
        spool.check(strict=opened.submission.strict, noun="lines")
        batch_id = new_id()

        jobs = list(spool.jobs(opened.template, batch_id=batch_id))
        rejected = list(spool.rejected())

    assert [(job.args["url"], job.host) for job in jobs] == [
        ("http://a.example/", "a.example"),
        ("http://b.example/", "b.example"),
    ]
    assert {(job.batch_id, job.args["max_redirects"]) for job in jobs} == {(batch_id, 1)}
    assert jobs[0].id < jobs[1].id
    assert [(each.number, each.loc) for each in rejected] == [(2, "/lines/2/url"), (4, "/lines/4")]
    assert [each.given for each in rejected] == ["secret", "\N{REPLACEMENT CHARACTER}"]
    assert "secret" not in str([(each.loc, each.msg) for each in rejected])


def test_a_strict_batch_falls_with_one_line() -> None:
    with BatchSpool() as spool:
        opened = stream(b"http://a.example\n\nnonsense\n", spool, strict="true")

        with pytest.raises(BatchInvalid) as caught:
            spool.check(strict=opened.submission.strict, noun="lines")

    assert [error.loc for error in caught.value.errors] == ["/lines/3/url"]
    assert caught.value.summary.startswith("1 of 2 lines")


@pytest.mark.parametrize("body", [b"nonsense\n" * 30, b"", b"\n \n"])
def test_a_batch_of_nothing_valid_is_none(body: bytes) -> None:
    with BatchSpool() as spool:
        stream(body, spool)

        with pytest.raises(JobInvalid):
            spool.check(strict=False, noun="lines")


def test_other_types_are_read_as_they_are() -> None:
    for media_type, body in (
        ("text/csv", b"url,timeout_seconds\nhttp://a/,5\n"),
        ("application/jsonl", b'{"url": "http://a/", "timeout_seconds": 5}\n'),
        ("application/x-ndjson", b'{"url": "http://a/", "timeout_seconds": 5}\n'),
    ):
        with BatchSpool() as spool:
            opened = stream(body, spool, media_type=media_type)

            (job,) = spool.jobs(opened.template, batch_id=new_id())

        assert job.args == {"url": "http://a/", "timeout_seconds": 5}


@pytest.mark.parametrize("line", [b"http://a.example/\n", b"nonsense\n"])
def test_the_defaults_of_all_lines_count_for_the_size_of_a_batch(line: bytes) -> None:
    defaults = f'{{"user": "{"x" * 10_000}"}}'
    with BatchSpool(BatchLimits(bytes=1_000_000)) as spool, pytest.raises(HttpProblem) as caught:
        stream(line * 101, spool, defaults=defaults)

    assert (caught.value.status, caught.value.errors[0].loc) == (413, "/lines")
    assert "With the defaults of each" in caught.value.detail


def test_a_list_of_which_the_first_hundred_thousand_lines_are_wrong_is_read_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producer.batch_validation.HOPELESS_LINES", 100)
    monkeypatch.setattr("producer.batch_validation.MAX_REJECTED", 300)
    with BatchSpool() as spool, pytest.raises(BatchInvalid, match="lines/1") as none_valid:
        stream(b"nonsense\n" * 101, spool)
    with BatchSpool() as spool:
        stream(b"http://a.example/\n" + b"nonsense\n" * 300, spool)
        assert (spool.valid, spool.rejections) == (1, 300)
        with pytest.raises(BatchInvalid) as too_many:
            stream(b"http://a.example/\n" + b"nonsense\n" * 301, spool)

    assert none_valid.value.summary.startswith(
        "100 of the first 100 lines are not valid; the rest was not read"
    )
    assert too_many.value.summary.startswith("301 of the first 303 lines")


def test_a_pointer_into_a_strangers_json_is_kept_shortened() -> None:
    body = b'{"a":' * 100 + b'{"b": 1, "b": 2}' + b"}" * 100
    with BatchSpool() as spool:
        stream(body, spool, media_type="application/x-ndjson")

        assert [len(each.loc) for each in spool.rejected()] == [200]
