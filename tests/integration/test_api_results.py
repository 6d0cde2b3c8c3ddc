"""The results of a batch over HTTP: chosen by filters, with what was handed in, rejected lines among them."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import httpx
import pytest

from producer.api.exports import COLUMNS
from producer.records import REJECTED
from producer.store import recording, results
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import NOON, make_report

TABLE = """ref,url,timeout_seconds
a.md:1,HTTP://Good.example,
a.md:2,http://gone.example/,
a.md:3,nonsense,
a.md:4,http://wall.example/,
a.md:5,http://down.example/,
a.md:6,http://open.example/,
,http://late.example/,never
"""
# By the line on which each is written.
ENDS: Mapping[int, tuple[JobState, str | None, dict[str, Any]]] = {
    2: (JobState.SUCCEEDED, None, {"verdict": "ok", "reason": "ok", "status": 200, "title": 'Good, "very"'}),
    3: (JobState.SUCCEEDED, None, {"verdict": "broken", "reason": "http_404", "explanation": "It is gone."}),
    5: (JobState.SUCCEEDED, None, {"verdict": "blocked", "reason": "bot_wall", "explanation": "A wall."}),
    6: (JobState.PARKED, "http_503", {"verdict": "down", "reason": "http_503"}),
}


@pytest.fixture
def path(api: RunningApi) -> str:
    """Return where the results of a batch are, of which one job is unfinished and two lines are rejected."""
    answer = api.client.post("/batches", content=TABLE, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 202, answer.text
    page = api.store.read(results.batch_jobs, UUID(answer.json()["id"]), after=None, limit=10, project=None)
    reports = []
    for job in page.records:
        if job.line is not None and job.line in ENDS:
            state, reason, result = ENDS[job.line]
            result = {**result, "final_url": f"{job.args['url']}end"}
            reports.append(make_report(job.id, state, reason=reason, result=result, explanation="Said so."))
    api.store.write(recording.record_reports, reports, now=NOON)
    return f"{answer.headers['Location']}/results"


def table(api: RunningApi, path: str, **query: Any) -> list[dict[str, str]]:
    answer = api.client.get(path, params={"format": "csv", **query})
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def lines(api: RunningApi, path: str, **query: Any) -> list[int]:
    """Return the lines that each format shows, after it was looked up that all show the same."""
    rows = [int(row["line"]) for row in table(api, path, **query)]
    suite = junit(api, path, **query)
    assert [int(case.attrib["line"]) for case in suite] == rows
    documents = api.client.get(path, params=query).text.splitlines()
    shown = [json.loads(each)["line"] for each in documents]
    is_asked = REJECTED in str(query.get("state"))
    assert shown == [line for line in rows if is_asked or line not in (4, 8)]
    return rows


def junit(api: RunningApi, path: str, **query: Any) -> ET.Element:
    answer = api.client.get(path, params={"format": "junit", **query})
    assert answer.status_code == 200, answer.text
    suite: ET.Element = ET.fromstring(answer.content)  # noqa: S314
    assert int(suite.attrib["tests"]) == len(suite)
    for attribute, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[attribute]) == len(list(suite.iter(element)))
    return suite


def test_a_table_says_of_each_line_what_was_handed_in_and_what_came_of_it(api: RunningApi, path: str) -> None:
    rows = {row["line"]: row for row in table(api, path)}

    assert list(rows) == ["2", "3", "5", "6", "7", "4", "8"]
    assert tuple(rows["2"]) == COLUMNS
    good, gone, wall, down, unfinished, nonsense, never = rows.values()
    assert (good["ref"], good["given_url"], good["url"]) == (
        "a.md:1",
        "HTTP://Good.example",
        "http://good.example/",
    )
    assert (good["final_url"], good["title"], good["explanation"]) == (
        "http://good.example/end",
        'Good, "very"',
        "",
    )
    assert (gone["given_url"], gone["explanation"]) == ("http://gone.example/", "It is gone.")
    assert (wall["verdict"], wall["reason"]) == ("blocked", "bot_wall")
    assert (down["state"], down["verdict"], down["explanation"]) == ("parked", "down", "Said so.")
    assert unfinished["explanation"].startswith("Stored; waiting")
    assert (nonsense["state"], nonsense["ref"], nonsense["id"]) == ("rejected", "a.md:3", "")
    assert nonsense["explanation"].startswith("/lines/4/url: ")
    assert (nonsense["given_url"], never["given_url"]) == ("a.md:3,nonsense,", ",http://late.example/,never")
    assert never["explanation"] == "/lines/8/timeout_seconds: Must be a number such as 2.5"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({}, [2, 3, 5, 6, 7, 4, 8]),
        ({"verdict": "broken"}, [3]),
        ({"verdict": ["broken", "down"]}, [3, 6]),
        ({"state": "succeeded"}, [2, 3, 5]),
        ({"state": ["parked", "accepted"]}, [6, 7]),
        ({"state": "rejected"}, [4, 8]),
        ({"state": ["rejected", "parked"]}, [6, 4, 8]),
        ({"reason": "http_404"}, [3]),
        ({"reason": ["http_503", "bot_wall"]}, [5, 6]),
        ({"reason": "http_500"}, []),
        ({"ref": "a.md:2"}, [3]),
        ({"ref": "a.md:3"}, [4]),
        ({"ref": "a.md:2", "verdict": "ok"}, []),
        ({"state": "succeeded", "verdict": ["blocked", "down"]}, [5]),
    ],
    ids=str,
)
def test_filters_choose_the_same_in_every_format(
    api: RunningApi, path: str, query: dict[str, Any], shown: list[int]
) -> None:
    assert lines(api, path, **query) == shown


@pytest.mark.parametrize(
    ("name", "values", "known"),
    [
        ("verdict", ["good"], "ok, broken, blocked, down"),
        ("verdict", ["ok", "OK"], "ok, broken, blocked, down"),
        ("verdict", ["broken,down"], "ok, broken, blocked, down"),
        ("verdict", [""], "ok, broken, blocked, down"),
        ("state", ["failed"], ", ".join([*JobState, REJECTED])),
        ("junit_fail_on", ["ok"], "broken, blocked, down"),
    ],
)
def test_a_filter_that_nothing_can_match_is_refused_with_those_that_something_may(
    api: RunningApi, path: str, name: str, values: Sequence[str], known: str
) -> None:
    answer = api.client.get(path, params={name: values})

    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"loc": f"/query/{name}", "msg": f"It must be one of: {known}"}]


@pytest.mark.parametrize("query", [{"reason": ""}, {"reason": "a b"}, {"ref": "a\nb"}, {"ref": ["a", "b"]}])
def test_a_filter_that_is_none_is_refused_by_name(api: RunningApi, path: str, query: dict[str, Any]) -> None:
    answer = api.client.get(path, params=query)

    assert answer.status_code == 400
    assert [error["loc"] for error in answer.json()["errors"]] == [f"/query/{next(iter(query))}"]


def test_a_build_fails_on_what_is_blocked_only_when_it_is_asked_to(api: RunningApi, path: str) -> None:
    def cases(**query: Any) -> dict[str, list[str | None]]:
        suite = junit(api, path, **query)
        return {
            tag: [case.get("line") for case in suite if case.find(tag) is not None]
            for tag in ("failure", "error", "skipped")
        }

    assert cases() == {"failure": ["3"], "error": ["6", "4", "8"], "skipped": ["5", "7"]}
    strict = {"failure": ["3", "5"], "error": ["6", "4", "8"], "skipped": ["7"]}
    assert cases(junit_fail_on="blocked") == cases(junit_fail_on=["broken", "blocked"]) == strict
    (wall,) = junit(api, path, verdict="blocked")
    assert wall.attrib["name"] == "http://wall.example/"
    assert [(each.tag, each.get("message")) for each in wall][1:] == [("skipped", "A wall.")]


def test_lines_become_no_job_beyond_one_page_and_all_are_shown(api: RunningApi) -> None:
    body = "\n".join(["http://a.example/", *["nonsense"] * 1_001])
    batch = api.client.post("/batches", content=body, headers={"Content-Type": "text/plain"}).json()

    rows = table(api, f"/batches/{batch['id']}/results")

    assert [row["line"] for row in rows] == [str(line) for line in range(1, 1_003)]
    assert junit(api, f"/batches/{batch['id']}/results").attrib["errors"] == "1001"


def test_only_who_asks_gets_rejected_lines_among_the_jobs_of_ndjson(api: RunningApi, path: str) -> None:
    def documents(answer: httpx.Response) -> list[dict[str, Any]]:
        return [json.loads(line) for line in answer.text.splitlines()]

    assert all("id" in each for each in documents(api.client.get(path)))
    first, _ = documents(api.client.get(path, params={"state": "rejected"}))
    assert (first["state"], first["line"], first["ref"], first["loc"]) == (
        "rejected",
        4,
        "a.md:3",
        "/lines/4/url",
    )
