"""What the API reads from a request and what it refuses: the same rule by whatever way it comes."""

import json
from collections.abc import Iterator, Mapping

import httpx
import pytest

from shared.settings import Settings
from tests.support.api import RunningApi, running_api

URL = "https://example.com/"
CHECK = {"kind": "check", "args": {"url": URL}}
WEBHOOK_ARGS = {"url": URL, "type": "a.b", "data": {}}
NO_TIMES = ("20261201", "2026", "5", 5, 1796126400.5, "2026-12-01", "2026-W49-2", "2026-12-01T12:00:00", "")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("api") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


def refused_at(response: httpx.Response, status: int = 400) -> list[str]:
    """Return the places that a refusal names."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return [error["loc"] for error in response.json()["errors"]]


def post_lines(
    api: RunningApi, query: Mapping[str, str], lines: str = URL, content_type: str = "text/plain"
) -> httpx.Response:
    """Submit a streamed batch."""
    headers = {"Content-Type": content_type}
    return api.client.post("/batches", params=query, content=lines, headers=headers)


@pytest.mark.parametrize("time", NO_TIMES)
def test_what_is_no_time_of_rfc_3339_is_refused_in_every_document(api: RunningApi, time: object) -> None:
    def post(path: str, document: Mapping[str, object]) -> httpx.Response:
        return api.client.post(path, json=document)

    schedule = {"every_seconds": 60, "job": CHECK, "starts_at": time}
    webhook = {"kind": "webhook", "args": {**WEBHOOK_ARGS, "timestamp": time}}
    batch = {"kind": "check", "items": [{"url": URL}], "run_at": time}
    items = {"kind": "webhook", "items": [{**WEBHOOK_ARGS, "timestamp": time}]}

    assert refused_at(post("/jobs", {**CHECK, "run_at": time})) == ["/run_at"]
    assert refused_at(post("/jobs", {**CHECK, "deadline_at": time})) == ["/deadline_at"]
    assert refused_at(post("/jobs", webhook)) == ["/args/timestamp"]
    assert refused_at(post("/schedules", schedule)) == ["/starts_at"]
    assert refused_at(post("/schedules", {"every_seconds": 60, "job": webhook})) == ["/job/args/timestamp"]
    assert refused_at(post("/batches", batch)) == ["/run_at"]
    assert refused_at(post("/batches", items), 422) == ["/items/0/timestamp"]


@pytest.mark.parametrize("time", [time for time in NO_TIMES if isinstance(time, str)])
def test_what_is_no_time_of_rfc_3339_is_refused_in_queries_and_lines(api: RunningApi, time: str) -> None:
    line = json.dumps({**WEBHOOK_ARGS, "timestamp": time})
    webhooks = {"kind": "webhook"}

    for name in ("created_after", "created_before"):
        assert refused_at(api.client.get("/jobs", params={name: time})) == [f"/query/{name}"]
    for name in ("run_at", "deadline_at"):
        assert refused_at(post_lines(api, {name: time})) == [f"/query/{name}"]
    assert refused_at(post_lines(api, webhooks, line, "application/x-ndjson"), 422) == ["/lines/1/timestamp"]
    if time:
        records = f"url,type,data,timestamp\n{URL},a.b,{{}},{time}\n"
        assert refused_at(post_lines(api, webhooks, records, "text/csv"), 422) == ["/lines/2/timestamp"]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_does_not_have_is_answered_like_any_other(api: RunningApi, time: str) -> None:
    is_past = time.startswith("0001")
    webhook = {"kind": "webhook", "args": {**WEBHOOK_ARGS, "timestamp": time}}
    starts = {"every_seconds": 60, "job": CHECK, "starts_at": time}

    for name in ("created_after", "created_before"):
        assert api.client.get("/jobs", params={name: time}).status_code == 200
    assert api.client.post("/jobs", json=webhook).json()["args"]["timestamp"] == time
    assert refused_at(api.client.post("/schedules", json=starts)) == ["/starts_at"]
    assert refused_at(api.client.post("/jobs", json={**CHECK, "deadline_at": time})) == ["/deadline_at"]
    due = api.client.post("/jobs", json={**CHECK, "run_at": time})
    assert (due.json()["state"] == "accepted") if is_past else (refused_at(due) == ["/run_at"])


def test_the_first_and_the_last_time_of_the_calendar_bound_a_search(api: RunningApi) -> None:
    api.client.post("/jobs", json=CHECK)

    def found(query: str) -> int:
        return len(api.client.get(f"/jobs?{query}").json()["items"])

    assert found("created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999Z") > 0
    assert found("created_before=0001-01-01T00:00:00Z") == 0
    assert found("created_after=9999-12-31T23:59:59Z") == 0


@pytest.mark.parametrize("value", ["a,b", ",", "a,b,c:d,e", "a|b c", "[a,b]"])
def test_a_comma_is_a_part_of_a_label(api: RunningApi, value: str) -> None:
    job = api.client.post("/jobs", json={**CHECK, "labels": {"team": value, "tier": "1,2"}}).json()
    labels = json.dumps({"team": value})
    batch = post_lines(api, {"labels": labels}).json()

    both = {"label": [f"team:{value}", "tier:1,2"]}
    assert [found["id"] for found in api.client.get("/jobs", params=both).json()["items"]] == [job["id"]]
    found = api.client.get("/batches", params={"label": f"team:{value}"}).json()["items"]
    assert [each["id"] for each in found] == [batch["id"]]


WRONG_PARAMETERS = {
    "limit": [
        *("1_000", " 5", "5 ", "+5", "٣", "\uff15", "1e2", "5.0", "05", "0x5", "-0x5", ""),
        *(
            "5\n",
            "true",
            "null",
            "0",
            "-1",
            "1001",
            "9" * 30,
            "-" + "9" * 5_000,
            "5,6",
            "[5]",
            "1__0",
            "NaN",
            "inf",
        ),
    ],
    "cursor": [
        *("x", "", "019e5b9b-0000-7000-8000-00000000000", "019e5b9b000070008000000000000000"),
        *("{019e5b9b-0000-7000-8000-000000000000}", "urn:uuid:019e5b9b-0000-7000-8000-000000000000"),
        *("019e5b9b-0000-7000-8000-000000000000\n", "019e5b9b-0000-7000-8000-00000000000٣"),
    ],
    "state": ["Parked", "parked,succeeded", "parked ", "parked\n", ""],
    "created_after": ["2026-12-01T12:00:00+01:00 ", "2026-12-01T12:00:00Z\n", "2026-12-01t12:00"],
    "host": ["", "a b", "a\n", "a" * 256],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_PARAMETERS.items() for value in values]
)
def test_a_parameter_that_the_contract_does_not_allow_is_named(
    api: RunningApi, name: str, value: str
) -> None:
    assert refused_at(api.client.get("/jobs", params={name: value})) == [f"/query/{name}"]


@pytest.mark.parametrize("value", ["True", "TRUE", "FALSE", "1", "0", "on", "yes", "", "true ", "truefalse"])
def test_only_true_and_false_are_true_and_false(api: RunningApi, value: str) -> None:
    missing = "/jobs/019e5b9b-0000-7000-8000-000000000000/items"

    assert refused_at(api.client.get(missing, params={"distinct": value})) == ["/query/distinct"]
    assert refused_at(post_lines(api, {"strict": value})) == ["/query/strict"]


@pytest.mark.parametrize(
    "value",
    ["1_0", "+5", " 5", "٣", ".5", "5.", "05", "1e", "1e400", "NaN", "Infinity", "0x1", "-1", "true", ""],
)
def test_a_number_in_a_query_is_a_number_of_json(api: RunningApi, value: str) -> None:

    for name in ("delay_seconds", "expires_after_seconds"):
        assert refused_at(post_lines(api, {name: value})) == [f"/query/{name}"]
    accepted = post_lines(api, {"delay_seconds": "1.5e2"})
    assert accepted.json()["counts"]["scheduled"] == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/jobs", "limit=5"),
        ("/jobs", "state=parked"),
        ("/jobs", "kind=check"),
        ("/jobs", "host=a"),
        ("/jobs", "url=a"),
        ("/jobs", "ref=a"),
        ("/jobs", "created_after=2026-12-01T12:00:00Z"),
        ("/jobs", "cursor=019e5b9b-0000-7000-8000-000000000000"),
        ("/batches", "limit=5"),
        ("/schedules", "limit=5"),
        ("/operations", "limit=5"),
        ("/parked", "reason=timeout"),
        ("/audit", "target=job/a"),
        ("/batches/019e5b9b-0000-7000-8000-000000000000/rejected", "cursor=5"),
        ("/batches/019e5b9b-0000-7000-8000-000000000000/results", "format=csv"),
        ("/jobs/019e5b9b-0000-7000-8000-000000000000/items", "distinct=true"),
    ],
)
def test_a_single_parameter_that_is_sent_twice_is_refused(api: RunningApi, path: str, name: str) -> None:
    parameter, value = name.split("=")
    for second in (value, "other", ""):
        response = api.client.get(f"{path}?{name}&{parameter}={second}")

        assert refused_at(response) == [f"/query/{parameter}"]
        assert "2 times" in response.json()["detail"]


def test_each_field_of_a_streamed_batch_is_sent_once(api: RunningApi) -> None:
    query = "kind=check&kind=webhook&strict=true&strict=false&labels={}&labels={}&run_at=x"
    response = api.client.post(f"/batches?{query}", content=URL, headers={"Content-Type": "text/plain"})

    assert refused_at(response) == ["/query/kind", "/query/strict", "/query/labels", "/query/run_at"]


def test_a_header_that_is_sent_twice_is_refused(api: RunningApi) -> None:
    missing = "/jobs/019e5b9b-0000-7000-8000-000000000000"

    for method, path, name in [
        ("POST", "/jobs", "Idempotency-Key"),
        ("POST", f"{missing}/discard", "Retriever-Actor"),
        ("GET", f"{missing}/body", "Range"),
    ]:
        headers = [(name, "a"), (name.lower(), "b")]
        response = api.client.request(method, path, json=CHECK, headers=headers)

        assert refused_at(response) == [f"/header/{name}"]


def test_a_parameter_that_does_not_exist_lists_those_that_do(api: RunningApi) -> None:
    response = api.client.get("/operations?Limit=5&offset=7")

    assert refused_at(response) == ["/query/Limit", "/query/offset"]
    assert "there are: limit, cursor" in response.json()["detail"]
    assert "there are none" in api.client.get("/kinds?x=1").json()["detail"]


# What each way says of an argument, as JSON; no kind but fetch takes any.
FAULTY_VALUES = [
    ('{"a":1,"a":1}', "/a", "The name comes twice in one object"),
    ('[{"b":{"c":1,"c":2}}]', "/0/b/c", "The name comes twice in one object"),
    ("18446744073709551616", "", "A whole number must be from -9223372036854775808 to 18446744073709551615"),
    (
        "[-9223372036854775809]",
        "/0",
        "A whole number must be from -9223372036854775808 to 18446744073709551615",
    ),
    (
        '{"n":1' + "0" * 30 + "}",
        "/n",
        "A whole number must be from -9223372036854775808 to 18446744073709551615",
    ),
    ('{"a\\u0000b":1}', "/a\N{REPLACEMENT CHARACTER}b", "A NUL character cannot be stored"),
    ('[{"a":["b\\u0000"]}]', "/0/a/0", "A NUL character cannot be stored"),
]


@pytest.mark.parametrize(("value", "place", "msg"), FAULTY_VALUES)
def test_json_is_read_by_one_rule_whatever_way_it_comes(
    api: RunningApi, value: str, place: str, msg: str
) -> None:
    def fault(path: str, body: str, content_type: str = "application/json") -> tuple[str, str]:
        response = api.client.post(path, content=body, headers={"Content-Type": content_type})
        assert response.status_code in {400, 422}, response.text
        (error,) = response.json()["errors"]
        return error["loc"], error["msg"]

    args = f'{{"url":"{URL}","method":"POST","json":{value}}}'
    job = f'{{"kind":"fetch","args":{args}}}'
    cell = value.replace('"', '""')
    parked = api.client.post("/jobs", json=CHECK).json()["id"]

    assert fault("/jobs", job) == (f"/args/json{place}", msg)
    assert fault("/batches", f'{{"kind":"fetch","items":[{args}]}}') == (f"/items/0/json{place}", msg)
    assert fault("/batches?kind=fetch", args, "application/x-ndjson") == (f"/lines/1/json{place}", msg)
    records = f'url,method,json\n{URL},POST,"{cell}"\n'
    assert fault("/batches?kind=fetch", records, "text/csv") == (f"/lines/2/json{place}", msg)
    assert fault("/schedules", f'{{"every_seconds":60,"job":{job}}}') == (f"/job/args/json{place}", msg)
    if "NUL" not in msg:
        # The job is not parked, and is not asked about before the body is read.
        assert fault(f"/jobs/{parked}/redrive", f'{{"args":{args}}}') == (f"/args/json{place}", msg)


def test_an_item_or_a_line_that_has_two_meanings_does_not_affect_the_others(api: RunningApi) -> None:
    good, bad = f'{{"url":"{URL}"}}', f'{{"url":"{URL}","url":"{URL}"}}'
    bodies = [
        ("application/json", f'{{"kind":"check","items":[{good},{bad},{good}]}}', "/items/1/url"),
        ("application/x-ndjson", f"{good}\n{bad}\n{good}\n", "/lines/2/url"),
    ]

    for content_type, body, loc in bodies:
        response = api.client.post("/batches", content=body, headers={"Content-Type": content_type})

        batch = response.json()
        assert (response.status_code, batch["total"], batch["rejected"]["count"]) == (202, 2, 1)
        assert batch["rejected"]["errors"][0]["loc"] == loc


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ('{"kind":"check","kind":"webhook","args":{}}', "/kind"),
        ('{"kind":"check","args":{"url":"http://a/"},"args":{"url":"http://b/"}}', "/args"),
        ('{"kind":"check","args":{"url":"http://a/"},"labels":{"a":"1","a":"2"}}', "/labels/a"),
        (
            '{"kind":"check","args":{"url":"http://a/"},"retry":{"max_attempts":1' + "0" * 25 + "}}",
            "/retry/max_attempts",
        ),
    ],
)
def test_a_field_that_is_sent_twice_is_refused(api: RunningApi, body: str, loc: str) -> None:
    response = api.client.post("/jobs", content=body, headers={"Content-Type": "application/json"})

    assert refused_at(response) == [loc]


def test_a_field_of_a_streamed_batch_is_json_by_the_same_rule(api: RunningApi) -> None:
    assert refused_at(post_lines(api, {"labels": '{"a":"1","a":"2"}'})) == ["/query/labels/a"]
    assert refused_at(post_lines(api, {"defaults": '{"max_redirects":99999999999999999999}'})) == [
        "/query/defaults/max_redirects"
    ]


@pytest.mark.parametrize("levels", [201, 260, 1_100, 20_000])
def test_what_is_nested_too_deeply_is_refused_with_one_reason(api: RunningApi, levels: int) -> None:
    args = f'{{"url":"{URL}","method":"POST","json":{"[" * levels + "]" * levels}}}'
    job = api.client.post(
        "/jobs", content=f'{{"kind":"fetch","args":{args}}}', headers={"Content-Type": "application/json"}
    )
    line = post_lines(api, {"kind": "fetch"}, args, "application/x-ndjson")

    assert (refused_at(job), refused_at(line, 422)) == ([""], ["/lines/1"])
    for response in (job, line):
        reason = "depth limit exceeded" if levels > 1_000 else "Values are nested more than 200 deep"
        assert reason in response.json()["errors"][0]["msg"]


def test_an_export_goes_by_what_is_accepted(api: RunningApi) -> None:
    path = f"/batches/{post_lines(api, {}).json()['id']}/results"

    def content_type(accept: str, query: str = "") -> str:
        response = api.client.get(path + query, headers={"Accept": accept})
        assert response.headers["vary"] == "Accept"
        return response.headers["content-type"]

    assert content_type("text/html, application/xml;q=0.9, */*;q=0.8") == "application/x-ndjson"
    assert content_type("text/csv;q=0.9, application/xml;q=0.8") == "text/csv; charset=utf-8"
    assert content_type("image/png", "?format=junit") == "application/xml"
    refused = api.client.get(path, headers={"Accept": "image/png"})
    assert (refused.status_code, refused.headers["content-type"]) == (406, "application/problem+json")
    assert "text/csv" in refused.json()["detail"]
