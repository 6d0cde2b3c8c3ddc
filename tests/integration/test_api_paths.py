"""Paths and targets of requests: what is no path of ours is 404, whoever would have it otherwise."""

import json
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.api.contract import load_contract
from producer.store import submissions
from shared.settings import Settings
from tests.support.api import RawAnswer, RunningApi, running_api
from tests.support.factories import make_job

ID = "0199aa40-0000-7aaa-8bbb-0123456789ab"
CONTRACT = load_contract()
PATHS = sorted(
    path.format(
        job_id=ID,
        task_id=ID,
        batch_id=ID,
        schedule_id=ID,
        operation_id=ID,
        key_id=ID,
        secret_id=ID,
        project="default",
        host="example.com",
        kind="check",
        lane="bulk",
    )
    for path in CONTRACT["paths"]
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Yield one API on SQLite: what a path is does not depend on the store."""
    database = tmp_path_factory.mktemp("paths") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


def ask(api: RunningApi, method: str, target: str | bytes) -> RawAnswer:
    target = target.encode("latin-1") if isinstance(target, str) else target
    (answer,) = api.send_raw(b"%b %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method.encode(), target))
    return answer


def assert_problem(answer: RawAnswer, status: int) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.document["status"] == status


@pytest.mark.parametrize(
    "target",
    [
        *("//jobs", "///schedules", "//", "//evil.example/", "//evil.example/..", "/jobs//", "/schedules//"),
        *(f"/jobs/{ID}//", f"/jobs/{ID}/cancel//", f"//jobs/{ID}", f"/jobs//{ID}", f"/jobs/{ID}//cancel"),
        *("/jobs/../x", "/jobs/./x", "/../jobs", "/jobs/..%2Fx", f"/jobs%2F{ID}", f"/jobs/{ID}%2fcancel"),
        *("/%00", "/jobs%00", f"/jobs/{ID}%00", f"/jobs/{ID}%0A", f"/jobs/{ID}/cancel%0A", "/jobs%0A"),
        *(
            "/jobs%0d%0aX:y",
            "/%0a/",
            "/jobs/%0A/",
            "/ui/..%2fjobs",
            "/ui/../jobs",
            "/ui/%00",
            "/ui/%2e%2e/jobs",
        ),
        *("/jobs;x", "/jobs.json", "/JOBS", "/" + "a" * 30_000, "/jobs/" + "a/" * 10_000, "/jobs/%ff%fe/x"),
        *("http://localhost//jobs", "http://localhost/nope", "/http://other.example/jobs", "*"),
        *("/ui//", "/ui//index.html", "/swagger.json", "/ui/swagger.json", "/static/x", "/console/", "/."),
    ],
)
def test_what_is_no_path_of_ours_is_not_found(api: RunningApi, target: str) -> None:
    assert_problem(ask(api, "GET", target), 404)
    if not target.startswith("/ui/"):
        assert_problem(ask(api, "POST", target), 404)


@pytest.mark.parametrize(
    "spelled",
    [
        ID.replace("-", "") + "----",
        f"%7B{ID[:-2]}%7D",
        f"urn:uuid:{ID}",
        ID.replace("0", "%D9%A0"),
        ID.replace("-0000-", "-0_00-"),
        f"%20{ID[:-1]}",
        ID.replace("-", "%2D") + "%20",
    ],
)
def test_an_id_has_one_spelling(api: RunningApi, spelled: str) -> None:
    job = replace(make_job(), id=UUID(ID))
    api.store.write(submissions.insert_jobs, [job])

    assert ask(api, "GET", f"/jobs/{ID.upper()}").status == 200
    assert_problem(ask(api, "GET", f"/jobs/{spelled}"), 404)


@pytest.mark.parametrize("path", [path for path in PATHS if ID in path])
def test_an_id_with_a_line_feed_is_no_id(api: RunningApi, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        is_without_body = method == "POST" and path.endswith(("/extend", "/finish", "/fail"))
        assert_problem(ask(api, method, path.replace(ID, f"{ID}%0A")), 415 if is_without_body else 404)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (path, parameter["name"])
        for path, item in CONTRACT["paths"].items()
        for parameter in item.get("get", {}).get("parameters", [])
        if parameter.get("in") == "query"
        and ("IdText" in str(parameter["schema"]) or "pattern" in parameter["schema"])
    ],
)
def test_a_parameter_with_a_line_feed_at_its_end_is_refused(api: RunningApi, path: str, name: str) -> None:
    fits = {"target": "job/x", "reason": "http_503", "host": "a.example", "url": "a", "kind": "check"}
    value = "7" if path.endswith("/rejected") else fits.get(name, ID)
    path = path.format(job_id=ID, batch_id=ID)

    answer = ask(api, "GET", f"{path}?{name}={value}%0A")

    assert_problem(answer, 400)
    assert answer.document["errors"][0]["loc"] == f"/query/{name}"


@pytest.mark.parametrize("value", [f"{ID}%0A", "%0A", "team:docs%0A"])
def test_shared_parameters_with_a_line_feed_are_refused(api: RunningApi, value: str) -> None:
    name = "label" if ":" in value else "cursor"
    for path in ("/jobs", "/batches"):
        assert_problem(ask(api, "GET", f"{path}?{name}={value}"), 400)


@pytest.mark.parametrize(
    "path", ["/jobs/", "/schedules/", f"/jobs/{ID}/", f"/jobs/{ID}/cancel/", "/jobs/%5Cevil/"]
)
def test_a_trailing_slash_leads_to_the_same_host(api: RunningApi, path: str) -> None:
    answer = ask(api, "POST", path + "?a=//evil.example")

    assert answer.status == 308
    assert answer.headers["location"] == path[:-1] + "?a=//evil.example"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost", 302),
        ("http://localhost?x=1", 302),
        ("http://localhost/jobs?limit=1", 200),
        ("https://[::1]:8080/livez", 200),
        ("/livez?", 200),
        ("/%6Cive%7A", 200),
    ],
)
def test_a_target_may_be_a_whole_url(api: RunningApi, target: str, status: int) -> None:
    answer = ask(api, "GET", target)

    assert answer.status == status
    assert answer.headers.get("location", "/ui/") in {"/ui/", "/dashboard/"}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_answers_options_and_refuses_other_methods_with_those_it_has(
    api: RunningApi, path: str
) -> None:
    allow = ask(api, "OPTIONS", path).headers["allow"]

    assert ask(api, "OPTIONS", path).status == 204
    for method in ("PROPFIND", "TRACE", "PURGE", "CONNECT", "LOCK", "MKCOL"):
        refused = ask(api, method, path)
        assert_problem(refused, 405)
        assert refused.headers["allow"] == allow


def test_the_server_as_a_whole_tells_its_methods(api: RunningApi) -> None:
    answer = ask(api, "OPTIONS", "*")

    assert (answer.status, answer.body) == (204, b"")
    assert {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize(
    "request_line",
    [
        *(b"FOO /jobs HTTP/1.1", b"get /jobs HTTP/1.1", b"GET /jobs HTTP/9.9", b"GET jobs HTTP/1.1"),
        *(b"CONNECT a.example:443 HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET  HTTP/1.1", b"\x16\x03\x01\x02"),
        *(b"PRI * HTTP/2.0", b"GET http://u:p@a.example:99999/ HTTP/1.1"),
    ],
)
def test_what_is_no_request_is_refused_with_a_problem(api: RunningApi, request_line: bytes) -> None:
    (answer,) = api.send_raw(request_line + b"\r\nHost: localhost\r\n\r\n")

    assert_problem(answer, 400)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", [path for path in PATHS if "get" in CONTRACT["paths"].get(path, {})])
def test_head_is_get_without_the_body(api: RunningApi, path: str) -> None:
    head = api.client.head(path)
    # Not read: a stream of events does not end by itself.
    with api.client.stream("GET", path) as get:
        pass

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


MUTATIONS = st.sampled_from(
    [
        *("/", "//", "/../", "/.", "..", "\\", ";", "?", "#", "*", "{", "\x7f", "'", '"', "%", "%zz"),
        *("%2F", "%0A", "%0D%0A", "%00", "%2e%2e", "%5C", "%ff", "%C0%AF", "%25", "%E2%80%A8"),
        *("@evil.example", "http://evil.example/", "//evil.example"),
    ]
)


@given(
    path=st.sampled_from([*PATHS, "/", "/ui/", "/ui/index.html", "/openapi.json"]),
    cuts=st.lists(st.tuples(st.floats(0, 1), MUTATIONS), min_size=1, max_size=3),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
)
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_path_breaks_the_api_or_leads_elsewhere(
    api: RunningApi, path: str, cuts: list[tuple[float, str]], method: str
) -> None:
    for place, piece in cuts:
        at = round(place * len(path))
        path = path[:at] + piece + path[at:]

    answer = ask(api, method, path)

    assert answer.status < 500, path
    location = answer.headers.get("location", "/")
    assert location.startswith("/")
    assert not location.startswith("//")
    assert "\\" not in location
    if answer.status >= 400 and answer.body:
        assert json.loads(answer.body)["status"] == answer.status
