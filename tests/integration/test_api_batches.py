"""Batches over HTTP, on both stores: JSON, streamed lines, counts, exports."""

import csv
import io
import json
import time
from collections.abc import Iterator
from uuid import UUID
from xml.etree import ElementTree as ET

import httpx
import pytest

from producer.records import JobFilter
from producer.store import queries, recording, results
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import NOON, make_report

TEXT = {"Content-Type": "text/plain"}


def submit_lines(api: RunningApi, body: bytes | Iterator[bytes], query: str = "") -> httpx.Response:
    return api.client.post(f"/batches{query}", content=body, headers=TEXT)


def stored(api: RunningApi) -> int:
    return len(
        api.store.read(queries.search_jobs, JobFilter(), limit=1_000, after=None, project=None).records
    )


def test_a_json_batch_fills_in_its_defaults(api: RunningApi) -> None:
    batch = {
        "kind": "check",
        "defaults": {"timeout_seconds": 7, "max_redirects": 1},
        "items": [{"url": "http://a.example/"}, {"url": "http://b.example/", "timeout_seconds": 8}],
        "labels": {"team": "docs"},
    }

    response = api.client.post("/batches", json=batch)

    assert response.status_code == 202
    document = response.json()
    assert (document["total"], document["counts"]["accepted"], document["counts"]["parked"]) == (2, 2, 0)
    assert api.client.get(response.headers["location"]).json() == document
    jobs = api.client.get("/jobs", params={"batch": document["id"]}).json()["items"]
    assert [job["args"]["timeout_seconds"] for job in jobs] == [8, 7]
    assert {job["lane"] for job in jobs} == {"bulk"}
    assert jobs[0]["labels"] == {"team": "docs"}


def test_a_json_batch_waits_for_its_time(api: RunningApi) -> None:
    batch = {"kind": "check", "items": [{"url": "http://a.example/"}], "delay_seconds": 3_600}

    document = api.client.post("/batches", json=batch).json()

    assert document["counts"]["scheduled"] == 1
    assert api.client.get(f"/batches/{document['id']}").json() == document


def test_a_wrong_item_fails_a_json_batch_that_is_strict(api: RunningApi) -> None:
    items = [{"url": "http://a.example/"} for _ in range(17)] + [{"url": "nonsense"}]

    response = api.client.post("/batches", json={"kind": "check", "items": items, "strict": True})

    assert (response.status_code, response.json()["type"]) == (422, "urn:retriever:batch-invalid")
    assert response.json()["errors"][0]["loc"] == "/items/17/url"
    assert stored(api) == 0


def test_a_wrong_item_does_not_sink_the_rest(api: RunningApi) -> None:
    items = [{"url": "http://a.example/"}, {"url": "secret"}, "secret", {"url": "http://b.example/"}]

    response = api.client.post("/batches", json={"kind": "check", "items": items})

    assert response.status_code == 202
    document = response.json()
    assert (document["total"], document["rejected"]["count"]) == (2, 2)
    assert [(each["number"], each["loc"]) for each in document["rejected"]["errors"]] == [
        (2, "/items/1/url"),
        (3, "/items/2"),
    ]
    assert [each["given"] for each in document["rejected"]["errors"]] == ['{"url":"secret"}', '"secret"']
    assert "secret" not in str([each["msg"] for each in document["rejected"]["errors"]])
    assert api.client.get(response.headers["location"]).json() == document


def test_a_json_batch_without_items_is_refused(api: RunningApi) -> None:
    assert api.client.post("/batches", json={"kind": "check", "items": [5]}).status_code == 422
    wrong: list[object] = [[], None, "x"]
    for items in wrong:
        response = api.client.post("/batches", json={"kind": "check", "items": items})

        assert response.status_code == 400
        assert response.json()["errors"][0]["loc"].startswith("/items")


def test_lines_are_read_as_they_come_however_they_are_cut(api: RunningApi) -> None:
    body = b"\xef\xbb\xbfhttp://a.example/\r\n\n  http://b.example/x  \n\t\nhttp://c.example/\xc3\xa9"

    response = submit_lines(
        api, (body[at : at + 1] for at in range(len(body))), "?kind=fetch&lane=interactive"
    )

    assert response.status_code == 202
    assert response.json()["total"] == 3
    jobs = api.client.get("/jobs").json()["items"]
    assert [job["args"]["url"] for job in jobs][::-1] == [
        "http://a.example/",
        "http://b.example/x",
        "http://c.example/%C3%A9",
    ]
    assert {(job["kind"], job["lane"], job["batch_id"]) for job in jobs} == {
        ("fetch", "interactive", response.json()["id"])
    }


def test_wrong_lines_of_a_strict_batch_are_named_by_number_and_nothing_is_stored(api: RunningApi) -> None:
    lines = [
        b"http://a.example/",
        b"nonsense",
        b"",
        b"http://" + b"a" * 40_000,
        b"http://\xff/",
        b"http://b.example/",
    ]

    response = submit_lines(api, b"\n".join(lines), "?strict=true")

    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == ["/lines/2/url", "/lines/4", "/lines/5"]
    assert response.json()["detail"].startswith("3 of 5 lines are not valid")
    assert stored(api) == 0


def test_only_the_first_twenty_wrong_lines_are_named(api: RunningApi) -> None:
    response = submit_lines(api, b"nonsense\n" * 5_000)

    assert response.status_code == 422
    assert len(response.json()["errors"]) == 20
    assert "5,000 of 5,000" in response.json()["detail"]


def test_a_batch_without_lines_is_refused(api: RunningApi) -> None:
    for body in (b"", b"\n \r\n\t\n"):
        assert submit_lines(api, body).status_code == 400
        assert submit_lines(api, iter([body])).status_code == 400


def test_a_wrong_query_of_lines_is_refused(api: RunningApi) -> None:
    for query, loc in (
        ("?kind=nonsense", "/query/kind"),
        ("?lane=slow", "/query/lane"),
        ("?kinds=check", "/query/kinds"),
        ("?strict=perhaps", "/query/strict"),
        ("?delay_seconds=soon", "/query/delay_seconds"),
        ("?delay_seconds=1e400", "/query/delay_seconds"),
        ("?labels=docs", "/query/labels"),
        ("?retry={%22max_attempts%22:0}", "/query/retry/max_attempts"),
        ("?run_at=9999-12-31T00:00:00Z", "/query/run_at"),
    ):
        response = submit_lines(api, b"http://a.example/\n", query)

        assert (response.status_code, response.json()["errors"][0]["loc"]) == (400, loc)


def test_a_json_batch_takes_no_kind_in_its_query(api: RunningApi) -> None:
    response = api.client.post("/batches?kind=check", json={"kind": "check", "items": [{"url": "http://a/"}]})

    assert response.status_code == 400


def test_a_client_that_leaves_while_it_sends_stores_nothing(api: RunningApi) -> None:
    with api.connect() as connection:
        connection.sendall(
            b"POST /batches HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            b"12\r\nhttp://a.example/\n\r\n"
        )

    wait_for_metric(api, 'operation="submit_batch"', 1)
    assert stored(api) == 0


def test_results_are_exported_as_ndjson_and_csv_in_the_order_of_the_items(api: RunningApi) -> None:
    total = 1_203
    body = b"".join(b"http://example.com/%d\n" % n for n in range(total))
    batch = submit_lines(api, body).json()

    ndjson = api.client.get(f"/batches/{batch['id']}/results")
    table = api.client.get(f"/batches/{batch['id']}/results", headers={"Accept": "text/csv"})

    jobs = [json.loads(line) for line in ndjson.text.splitlines()]
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert ndjson.headers["content-type"] == "application/x-ndjson"
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert [job["args"]["url"] for job in jobs] == [f"http://example.com/{n}" for n in range(total)]
    assert "attempts" not in jobs[0]
    assert [row["id"] for row in rows] == [job["id"] for job in jobs]
    assert (rows[0]["kind"], rows[0]["state"], rows[0]["attempts"]) == ("check", "accepted", "0")


def test_an_unknown_batch_is_not_found(api: RunningApi) -> None:
    for path in ["/batches/x", "/batches/x/results", "/batches/01a203ed-41f9-7748-9387-575740560da6"]:
        response = api.client.get(path)

        assert response.status_code == 404
        assert response.json()["type"] == "urn:retriever:batch-not-found"


def test_a_batch_is_exported_as_junit(api: RunningApi) -> None:
    batch = submit_lines(api, b"http://a.example/?a=1&b=2\nhttp://b.example/\nhttp://c.example/\n").json()
    ids = [
        job.id
        for job in api.store.read(
            results.batch_jobs, UUID(batch["id"]), after=None, limit=10, project=None
        ).records
    ]
    broken = {"verdict": "broken", "reason": "http_404", "explanation": "\0 & gone"}
    reports = [
        make_report(ids[0], JobState.SUCCEEDED, result=broken),
        make_report(ids[1], JobState.PARKED, reason="http_503"),
    ]
    api.store.write(recording.record_reports, reports, now=NOON)

    for headers, query in (
        ({"Accept": "application/xml"}, ""),
        ({"Accept": "text/xml"}, ""),
        ({}, "?format=junit"),
    ):
        answer = api.client.get(f"/batches/{batch['id']}/results{query}", headers=headers)
        suite = ET.fromstring(answer.content)  # noqa: S314

        assert answer.headers["content-type"] == "application/xml"
        assert suite[0].attrib["name"] == "http://a.example/?a=1&b=2"
        assert [[(each.tag, each.get("type")) for each in case] for case in suite] == [
            [("failure", "http_404")],
            [("error", "http_503")],
            [("skipped", None)],
        ]
        counted = [suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")]
        assert counted == ["3", "1", "1", "1"]
        assert suite[0].attrib["time"] == "1.000"


def test_an_unknown_format_is_refused_and_head_exports_nothing(api: RunningApi) -> None:
    batch = submit_lines(api, b"http://a.example/").json()

    assert api.client.get(f"/batches/{batch['id']}/results?format=xml").status_code == 400
    head = api.client.head(f"/batches/{batch['id']}/results?format=csv")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/csv; charset=utf-8")


def wait_for_metric(api: RunningApi, label: str, wanted: int) -> None:
    """Wait until so many requests of a label have ended: a request is counted at its very end."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = api.client.get("/metrics").text.splitlines()
        requests = [
            line for line in lines if line.startswith("retriever_http_requests_total") and label in line
        ]
        if sum(float(line.rsplit(maxsplit=1)[1]) for line in requests) >= wanted:
            return
    pytest.fail(f"not {wanted} requests of {label}")
