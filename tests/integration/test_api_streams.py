"""Batches that come as streams, on both stores: NDJSON and CSV, rejected lines, strictness, replays."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from producer.records import JobFilter
from producer.store import queries
from shared.settings import Settings
from tests.support.api import RunningApi, running_api

MEBIBYTE = 1_048_576
CSV = "text/csv; charset=UTF-8; header=present"


def submit(
    api: RunningApi, body: bytes | Iterator[bytes], content_type: str, *, key: str | None = None, **query: str
) -> httpx.Response:
    headers = {"Content-Type": content_type} | ({"Idempotency-Key": key} if key else {})
    return api.client.post("/batches", params=query, content=body, headers=headers)


def stored(api: RunningApi) -> int:
    return len(
        api.store.read(queries.search_jobs, JobFilter(), limit=1_000, after=None, project=None).records
    )


def jobs_of(api: RunningApi, response: httpx.Response) -> list[dict[str, object]]:
    assert response.status_code == 202, response.text
    items: list[dict[str, object]] = api.client.get("/jobs", params={"batch": response.json()["id"]}).json()[
        "items"
    ]
    return items[::-1]


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/jsonl", "Application/JSONL"])
def test_objects_one_a_line_are_a_batch(api: RunningApi, content_type: str) -> None:
    body = b'{"url": "http://a.example/"}\r\n\n{"url": "http://b.example/", "timeout_seconds": 5}'

    response = submit(
        api,
        (body[at : at + 7] for at in range(0, len(body), 7)),
        content_type,
        defaults='{"max_redirects": 1}',
        labels='{"team": "docs"}',
        retry='{"max_attempts": 2}',
        lane="interactive",
    )

    jobs = jobs_of(api, response)
    assert [job["args"] for job in jobs] == [
        {"url": "http://a.example/", "max_redirects": 1},
        {"url": "http://b.example/", "max_redirects": 1, "timeout_seconds": 5},
    ]
    assert response.json()["labels"] == jobs[0]["labels"] == {"team": "docs"}
    assert jobs[0]["lane"] == "interactive"


def test_a_table_is_a_batch(api: RunningApi) -> None:
    body = (
        b"\xef\xbb\xbfurl,extract,timeout_seconds\r\n"
        b'http://a.example/,"items[0].\n""name""",2.5\r\n'
        b"http://b.example/,,\r\n"
        b"nonsense,,\r\n"
    )

    response = submit(api, body, CSV, kind="fetch", defaults='{"timeout_seconds": 7}')

    assert [job["args"] for job in jobs_of(api, response)] == [
        {"url": "http://a.example/", "extract": 'items[0].\n"name"', "timeout_seconds": 2.5},
        {"url": "http://b.example/", "timeout_seconds": 7},
    ]
    assert [(each["number"], each["loc"]) for each in response.json()["rejected"]["errors"]] == [
        (5, "/lines/5/url")
    ]


def test_a_stream_waits_for_its_time(api: RunningApi) -> None:
    response = submit(
        api, b"http://a.example/\n", "text/plain", delay_seconds="3600", expires_after_seconds="60"
    )

    (job,) = jobs_of(api, response)
    assert response.json()["counts"]["scheduled"] == 1
    assert (job["state"], job["due_at"] is None, job["deadline_at"] is None) == ("scheduled", False, False)


def test_a_wrong_header_is_refused_before_the_rest_is_read(api: RunningApi) -> None:
    response = submit(api, b"http://user:secret@a.example/\nhttp://b.example/\n", CSV)

    assert (response.status_code, response.json()["errors"][0]["loc"]) == (400, "/lines/1")
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Type": "text/csv; charset=latin-1"}, "UTF-8"),
        ({"Content-Type": "application/xml"}, "text/csv or text/plain or text/tab-separated-values"),
        ({"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}, "Compressed"),
        ({"Content-Type": "application/ndjson"}, "application/x-ndjson"),
    ],
)
def test_what_is_not_plain_utf8_of_a_known_type_is_unsupported(
    api: RunningApi, headers: dict[str, str], said: str
) -> None:
    response = api.client.post("/batches", content=b"url\nhttp://a/\n", headers=headers)

    assert response.status_code == 415
    assert said in response.json()["detail"]


# Type and body, the paths of the URLs of the jobs, and number, place and reason of each rejected line.
HANDED_IN = [
    ("text/plain", b"http://a.example/1\rhttp://a.example/2\r", [1, 2], []),
    ("text/plain", b"http://a.example/1\r\nhttp://a.example/2\rhttp://a.example/3\n", [1, 2, 3], []),
    ("text/plain", "http://a.example/1\r\nhttp://a.example/2\r\n".encode("utf-16"), [1, 2], []),
    ("text/plain; charset=utf-16", "\ufeffhttp://a.example/1\n".encode("utf-16-be"), [1], []),
    (
        "text/plain",
        b"http://a.example/1\thttp://a.example/2\nhttp://a.example/3 http://a.example/4\nhttp://a.example/5\n",
        [5],
        [(1, "/lines/1", "There is more than one URL"), (2, "/lines/2", "There is more than one URL")],
    ),
    (
        "text/plain",
        "http://a.example/1\u2028http://a.example/2\nhttp://a.example/3\x85x\nhttp://a.example/4".encode(),
        [4],
        [
            (1, "/lines/1", "a line separator (U+2028) in it"),
            (2, "/lines/2", "only CR, LF or both end a line"),
        ],
    ),
    (
        "text/plain",
        b"# comment\n\n<http://a.example/1>\n- [two](http://a.example/2),\nwww.example.com\nmailto:a@b.example\n",
        [1, 2],
        [
            (5, "/lines/5/url", "did you mean https://www.example.com?"),
            (6, "/lines/6/url", "Only http and https URLs are taken; its scheme is mailto"),
        ],
    ),
    ("text/csv", b"url,title\rhttp://a.example/1,Home\rhttp://a.example/2,About\r", [1, 2], []),
    ("text/csv", b'Title;URL\r\n"A, B";http://a.example/1\r\n', [1], []),
    ("text/csv", b"url\ttitle\nhttp://a.example/1\tHome\n", [1], []),
    ("text/tab-separated-values", b"loc\tlastmod\nhttp://a.example/1\t2026-01-01\n", [1], []),
    (
        "text/csv",
        b'url,title\n"http://a.example/1\nhttp://a.example/2",x\n"http://a.example/3\n",y\nhttp://a.example/4,z\n',
        [3, 4],
        [(2, "/lines/2/url", "There is more than one URL")],
    ),
    (
        "text/csv",
        b'url\n"http://a.example/1\n/2"\nhttp://a.example/3\n',
        [3],
        [(2, "/lines/2/url", "The URL has a line feed in it, at character 19")],
    ),
    (
        "application/x-ndjson",
        b'{"url": "http://a.example/1"}\r{"url": "http://a.example/2\\nhttp://a.example/3"}\r',
        [1],
        [(2, "/lines/2/url", "The URL has a line feed in it, at character 19")],
    ),
]


@pytest.mark.parametrize(("content_type", "body", "paths", "rejected"), HANDED_IN)
def test_lines_as_people_hand_them_in_become_one_job_each_or_are_refused_in_words(
    api: RunningApi,
    content_type: str,
    body: bytes,
    paths: list[int],
    rejected: list[tuple[int, str, str]],
) -> None:
    response = submit(api, body, content_type)

    urls = [job["args"] for job in jobs_of(api, response)]
    assert urls == [{"url": f"http://a.example/{path}"} for path in paths]
    errors = response.json()["rejected"]["errors"]
    assert [(each["number"], each["loc"]) for each in errors] == [each[:2] for each in rejected]
    assert all(msg in each["msg"] for each, (*_, msg) in zip(errors, rejected, strict=True))
    assert all(each["given"] for each in errors)


def test_all_rejected_lines_are_listed_a_page_at_a_time(api: RunningApi) -> None:
    body = b'{"url": "http://a.example/"}\n' + b'{"url": "secret", "a\\u0000b": 1}\nsecret\n' * 25

    response = submit(api, body, "application/x-ndjson")

    rejected = response.json()["rejected"]
    assert (rejected["count"], len(rejected["errors"])) == (50, 20)
    listed, cursor, path = [], None, f"{response.headers['location']}/rejected"
    while True:
        page = api.client.get(path, params={"limit": 20} | ({"cursor": cursor} if cursor else {})).json()
        listed += page["items"]
        if (cursor := page["next"]) is None:
            break
    assert [each["number"] for each in listed] == list(range(2, 52))
    assert listed[:20] == rejected["errors"]
    assert "secret" not in str([(each["loc"], each["msg"]) for each in listed])
    assert listed[-1]["given"] == "secret"
    assert api.client.get(f"/batches/{'0' * 8}-0000-0000-0000-{'0' * 12}/rejected").status_code == 404
    for query in ({"limit": 1_001}, {"cursor": "x"}):
        assert api.client.get(path, params=query).status_code == 400


def test_a_replay_is_answered_as_before_with_what_was_rejected(api: RunningApi) -> None:
    body = b"http://a.example/\nnonsense\n"

    first = submit(api, body, "text/plain", key="k", delay_seconds="60")
    again = submit(api, body, "text/plain", key="k", delay_seconds="60")
    other = submit(api, body, "text/plain", key="k", delay_seconds="60", strict="false")

    assert (first.json()["rejected"]["count"], first.json()) == (1, again.json())
    assert (again.headers["idempotent-replayed"], other.status_code) == ("true", 409)
    assert stored(api) == 1
    as_csv = submit(api, b"url\nhttp://a.example/\n", CSV, key="c")
    assert as_csv.status_code == 202
    assert submit(api, b"url\nhttp://a.example/\n", "text/plain", key="c").status_code == 409


def test_two_hundred_thousand_wrong_lines_are_kept_in_flat_memory(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path / 'retriever.db'}"
    settings = Settings(database_url=database_url, max_rejected_lines=200_000)
    with running_api(settings) as api:
        submit(api, b"http://a.example/\n" + b"nonsense\n" * 2_000, "text/plain")
        before = resident_bytes()

        chunks = (b"http://a.example/\n" + b"nonsense\n" * 1_000 for _ in range(200))
        api.client.timeout = httpx.Timeout(180)
        response = submit(api, chunks, "text/plain")

        assert response.json()["rejected"]["count"] == 200_000
        assert (response.json()["total"], resident_bytes() - before < 48 * MEBIBYTE) == (200, True)
        last = api.client.get(f"{response.headers['location']}/rejected?cursor=200198").json()
        assert [each["number"] for each in last["items"]] == [200_199, 200_200] and last["next"] is None


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
