"""Everything malformed over a real connection: problem+json, the right status, never a 500."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from shared.settings import Settings
from tests.support.api import RunningApi, running_api

URL = "https://example.com/"
JOB = json.dumps({"kind": "check", "args": {"url": URL}}).encode()
JSON = "application/json"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("api") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


def post(api: RunningApi, body: bytes, content_type: str = JSON, **headers: str) -> httpx.Response:
    return api.client.post("/jobs", content=body, headers={"Content-Type": content_type, **headers})


def problem(response: httpx.Response, status: int) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == status
    assert document["title"]
    assert len(response.content) < 8_000
    return document


def job_with(**changes: object) -> bytes:
    return json.dumps({"kind": "check", "args": {"url": URL}, **changes}).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="broken"),
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"\xff\xfe{}", id="not UTF-8"),
        pytest.param(b'{"kind": "check", "args": {"url": "http://\xff/"}}', id="not UTF-8 inside"),
        pytest.param(b'{"kind": "check", "args": {"url": "\\ud800"}}', id="lone surrogate"),
        pytest.param(b"[" * 100_000, id="deep nesting"),
        pytest.param(b'{"kind": "check", "args": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, id="deep args"),
        pytest.param(
            b'{"kind": "check", "args": {"timeout_seconds": ' + b"9" * 5_000 + b"}}", id="5000 digits"
        ),
        pytest.param(
            b'{"kind": "check", "args": {"url": "http://a/", "x": 1' + b"0" * 30 + b"}}", id="30 digits"
        ),
        pytest.param(b'{"kind": "check", "args": {"timeout_seconds": NaN}}', id="NaN"),
        pytest.param(
            b'{"kind": "check", "args": {"url": "http://a/", "timeout_seconds": Infinity}}', id="inf"
        ),
    ],
)
def test_a_body_that_is_no_job_is_a_bad_request(api: RunningApi, body: bytes) -> None:
    response = post(api, body)

    assert problem(response, 400)["errors"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b"{}", "/kind"),
        (job_with(kind="nonsense"), "/kind"),
        (job_with(kind=5), "/kind"),
        (job_with(args={}), "/args/url"),
        (job_with(args={"url": "nonsense"}), "/args/url"),
        (job_with(args={"url": "ftp://example.com"}), "/args/url"),
        (job_with(args={"url": "http://" + "a" * 9_000}), "/args/url"),
        (job_with(args={"url": URL, "method": "DELETE"}), "/args/method"),
        (job_with(args={"url": URL, "max_redirects": "3"}), "/args/max_redirects"),
        (job_with(args={"url": URL, "unknown": 1}), "/args/unknown"),
        (job_with(kind="fetch", args={"url": URL, "extract": "'a\0b'"}), "/args/extract"),
        (job_with(kind="fetch", args={"url": URL, "extract": "["}), "/args/extract"),
        (job_with(lane="slow"), "/lane"),
        (job_with(retry={"max_attempts": 0}), "/retry/max_attempts"),
        (job_with(retry={"max_attempts": True}), "/retry/max_attempts"),
        (job_with(retry={"patience": 1}), "/retry/patience"),
        (job_with(labels={"a b": "c"}), "/labels/a b"),
        (job_with(labels={"a": "line\nline"}), "/labels/a"),
        (job_with(labels={"a": "c" * 201}), "/labels/a"),
        (job_with(labels={f"l{n}": "c" for n in range(21)}), "/labels"),
        (job_with(priority=1), "/priority"),
        (job_with(**{"a/b~c": 1}), "/a~1b~0c"),
    ],
)
def test_what_breaks_a_rule_is_named_by_its_pointer(api: RunningApi, body: bytes, loc: str) -> None:
    document = problem(post(api, body), 400)

    assert document["type"] == "urn:retriever:job-invalid"
    assert isinstance(errors := document["errors"], list)
    assert loc in [error["loc"] for error in errors]


def test_an_unknown_kind_lists_the_known_ones(api: RunningApi) -> None:
    detail = str(problem(post(api, job_with(kind="nonsense")), 400)["detail"])

    assert "check" in detail
    assert "fetch" in detail


def test_only_the_first_twenty_errors_are_listed_and_nothing_is_echoed(api: RunningApi) -> None:
    secret = "hunter2-" * 1_000
    body = job_with(**{f"{'x' * 5_000}{n}": secret for n in range(50)})

    document = problem(post(api, body), 400)

    assert isinstance(errors := document["errors"], list)
    assert len(errors) == 20
    assert "hunter2" not in json.dumps(document)


@pytest.mark.parametrize(
    "content_type", ["Application/JSON", "application/json ;x=y", "application/json; Charset=UTF-8"]
)
def test_a_content_type_is_understood_however_it_is_spelled(api: RunningApi, content_type: str) -> None:
    assert post(api, JOB, content_type).status_code == 202
    assert problem(post(api, b"{}", content_type), 400)


@pytest.mark.parametrize(
    "content_type", ["", "text/html", "application/json; charset=latin-1", "application/jsonp"]
)
def test_a_type_that_is_not_taken_is_refused(api: RunningApi, content_type: str) -> None:
    problem(post(api, JOB, content_type), 415)


def test_a_missing_content_type_is_refused(api: RunningApi) -> None:
    request = api.client.build_request("POST", "/jobs", content=JOB)
    request.headers.pop("content-type", None)

    problem(api.client.send(request), 415)


def test_a_compressed_body_is_refused(api: RunningApi) -> None:
    problem(post(api, JOB, **{"Content-Encoding": "gzip"}), 415)


def test_a_chunked_job_is_accepted(api: RunningApi) -> None:
    response = api.client.post("/jobs", content=iter([JOB[:10], JOB[10:]]), headers={"Content-Type": JSON})

    assert response.status_code == 202


@pytest.mark.parametrize("length", ["-5", "abc", "1e3", "9" * 400])
def test_a_content_length_that_is_none_is_refused(api: RunningApi, length: str) -> None:
    with api.connect() as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n"
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        status = int(connection.recv(100).split()[1])

    assert status in {400, 413}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/jobs", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/jobs/x", "GET, HEAD, OPTIONS"),
        ("GET", "/parked/redrive", "OPTIONS, POST"),
        ("PATCH", "/livez", "GET, HEAD, OPTIONS"),
        ("POST", "/ui/", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(api: RunningApi, method: str, path: str, allow: str) -> None:
    response = api.client.request(method, path)

    problem(response, 405)
    assert response.headers["allow"] == allow


def test_options_and_head_are_answered(api: RunningApi) -> None:
    options = api.client.options("/jobs")
    head = api.client.head("/jobs")

    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/nope", "/ui/nope", "/ui/%00", "/%00", "/jobs/a/b", "/batches/%0A", "/ui/" + "a" * 5_000, "/ui//x"],
)
def test_an_unknown_path_is_not_found(api: RunningApi, path: str) -> None:
    problem(api.client.get(path), 404)


def test_a_trailing_slash_leads_home_without_naming_a_host(api: RunningApi) -> None:
    response = api.client.get("/jobs/?limit=1")

    assert (response.status_code, response.headers["location"]) == (308, "/jobs?limit=1")
    assert (
        api.client.post(
            "/jobs/", content=JOB, headers={"Content-Type": JSON}, follow_redirects=True
        ).status_code
        == 202
    )


def test_the_root_leads_to_swagger_and_the_contract_is_complete(api: RunningApi) -> None:
    page = api.client.get("/", follow_redirects=True)
    contract = api.client.get("/openapi.json").json()

    assert "Retriever" in page.text
    assert api.client.get("/ui/swagger-ui-bundle.js").status_code == 200
    assert contract["openapi"] == "3.0.3"
    assert {"CheckArgs", "FetchResult", "Problem", "RetryOverride"} <= contract["components"][
        "schemas"
    ].keys()
    assert "requestBody" in contract["paths"]["/jobs"]["post"]


def test_kinds_tell_their_schemas_and_policies(api: RunningApi) -> None:
    kinds = {kind["name"]: kind for kind in api.client.get("/kinds").json()["items"]}

    assert kinds["check"]["args"]["properties"]["url"]["format"] == "uri"
    assert kinds["fetch"]["retry"]["max_attempts"] == 5


def test_metrics_count_requests_by_operation_and_jobs_by_state(api: RunningApi) -> None:
    post(api, JOB)
    api.client.get("/some/path/of/a/scanner")

    text = api.client.get("/metrics").text

    assert 'retriever_http_requests_total{method="POST",operation="submit_job",status="202"}' in text
    assert 'retriever_http_requests_total{method="GET",operation="none",status="404"}' in text
    assert 'retriever_jobs{state="accepted"}' in text
    assert "scanner" not in text


def test_without_its_store_the_api_says_so_and_lives() -> None:
    # Nothing listens on port 1.
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/none")
    with running_api(settings, migrated=False) as api:
        paths = ("/readyz", "/jobs", "/metrics")
        for response in (post(api, JOB), *(api.client.get(path) for path in paths)):
            assert problem(response, 503)["type"] == "urn:retriever:store-unavailable"
            assert response.headers["retry-after"]
        assert api.client.get("/livez").status_code == 200


def test_readiness_is_told_soon_when_the_store_takes_connections_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = Settings(database_url=f"postgresql://nobody@127.0.0.1:{mute.getsockname()[1]}/none")
        with running_api(settings, migrated=False) as api:
            response = api.client.get("/readyz", timeout=4)

            assert problem(response, 503)["type"] == "urn:retriever:store-unavailable"
            assert response.headers["retry-after"]
            assert api.client.get("/livez").status_code == 200
