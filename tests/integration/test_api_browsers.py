"""Pages of others: a browser that can reach the API neither reads nor changes anything for them."""

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest

from shared.settings import Settings
from tests.support.api import RawAnswer, RunningApi, running_api

ID = b"0199aa40-0000-7aaa-8bbb-0123456789ab"
URLS = b"https://example.com/\n"
# What changes something; a page can send most of it without asking first (a "simple" request).
UNSAFE = {
    "submit a job": (
        b"POST /jobs",
        b"application/json",
        b'{"kind":"check","args":{"url":"https://a.example/"}}',
    ),
    "submit a batch": (b"POST /batches?kind=check", b"text/plain", URLS),
    "submit a task": (b"POST /tasks", b"application/json", b'{"payload":{}}'),
    "pick tasks": (b"POST /tasks/pick", b"application/json", b'{"agent":"a"}'),
    "pause a kind": (b"POST /kinds/check/pause", b"", b""),
    "pause a lane": (b"POST /lanes/bulk/pause", b"", b""),
    "resume a kind": (b"POST /kinds/check/resume", b"", b""),
    "redrive": (b"POST /parked/redrive", b"text/plain", ID),
    "discard": (b"POST /parked/discard", b"text/plain", ID),
    "redrive one": (b"POST /jobs/" + ID + b"/redrive", b"", b""),
    "cancel a batch": (b"POST /batches/" + ID + b"/cancel", b"", b""),
    "run a schedule": (b"POST /schedules/" + ID + b"/run", b"", b""),
    "delete a schedule": (b"DELETE /schedules/" + ID, b"", b""),
    "nothing that there is": (b"PUT /nope", b"text/plain", b"x"),
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("browsers") / "retriever.db"
    settings = Settings(
        database_url=f"sqlite:///{database}",
        api_allowed_hosts=("api.example.com", "*.inside.example"),
        api_allowed_origins=("https://app.example.com", "http://localhost:3000"),
    )
    with running_api(settings) as running:
        yield running


def ask(
    api: RunningApi,
    request: bytes,
    *fields: bytes,
    host: bytes = b"localhost:8080",
    content_type: bytes = b"",
    body: bytes = b"",
) -> RawAnswer:
    lines = [request + b" HTTP/1.1", b"Host: " + host, b"Content-Length: %d" % len(body), *fields]
    if content_type:
        lines.append(b"Content-Type: " + content_type)
    (answer,) = api.send_raw(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    return answer


def jobs_stored(api: RunningApi) -> int:
    return len(api.client.get("/jobs", params={"limit": 1_000}).json()["items"])


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((b"Origin: https://evil.example",), id="foreign origin"),
        pytest.param((b"Origin: null",), id="no origin in particular"),
        pytest.param((b"Sec-Fetch-Site: cross-site",), id="another site"),
        pytest.param((b"Sec-Fetch-Site: same-site",), id="a sibling's site"),
        pytest.param((b"Origin: http://localhost:8081", b"Sec-Fetch-Site: same-site"), id="another port"),
    ],
)
def test_a_page_of_another_origin_changes_nothing(
    api: RunningApi, name: str, fields: tuple[bytes, ...]
) -> None:
    request, content_type, body = UNSAFE[name]
    before = jobs_stored(api)

    answer = ask(api, request, *fields, content_type=content_type, body=body)

    assert (answer.status, answer.headers["content-type"]) == (403, "application/problem+json")
    assert "RETRIEVER_API_ALLOWED_ORIGINS" in answer.document["detail"]
    assert jobs_stored(api) == before


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        pytest.param(b"localhost:8080", (), id="a program"),
        pytest.param(b"localhost:8080", (b"Origin: http://localhost:8080",), id="an old browser"),
        pytest.param(
            b"localhost:8080",
            (b"Origin: http://localhost:8080", b"Sec-Fetch-Site: same-origin"),
            id="our own page",
        ),
        pytest.param(b"localhost:8080", (b"Sec-Fetch-Site: none",), id="a person"),
        pytest.param(b"api.example.com", (b"Origin: https://api.example.com",), id="behind a proxy with TLS"),
        pytest.param(b"API.Example.com:443", (b"Origin: https://api.example.com",), id="its port named"),
        pytest.param(b"api.example.com:8443", (b"Origin: https://api.example.com:8443",), id="another port"),
        pytest.param(b"[::1]:8080", (b"Origin: http://[::1]:8080",), id="an IPv6 address"),
        pytest.param(
            b"api.example.com",
            (b"Origin: https://app.example.com", b"Sec-Fetch-Site: same-site"),
            id="allowed",
        ),
        pytest.param(
            b"localhost:8080",
            (b"Origin: http://localhost:3000", b"Sec-Fetch-Site: same-site"),
            id="allowed port",
        ),
    ],
)
def test_programs_own_pages_and_allowed_origins_are_served(
    api: RunningApi, host: bytes, fields: tuple[bytes, ...]
) -> None:
    answer = ask(api, b"POST /batches?kind=check", *fields, host=host, content_type=b"text/plain", body=URLS)

    assert answer.status == 202
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "origins",
    [
        (b"http://localhost:8080.evil.example",),
        (b"http://evil.example/localhost:8080",),
        (b"http://localhost:8080@evil.example",),
        (b"http://localhost",),
        (b"https://localhost",),
        (b"localhost:8080",),
        (b"",),
        (b"http://app.example.com",),
        (b"https://app.example.com:8443",),
        (b"https://app.example.com.",),
        (b"https://app.example.com", b"https://evil.example"),
        (b"http://localhost:8080", b"https://evil.example"),
        (b"http://localhost:8080 https://evil.example",),
        (b"http://localhost:8080" + b"a" * 1_000,),
    ],
)
def test_what_only_looks_like_our_origin_is_none(api: RunningApi, origins: tuple[bytes, ...]) -> None:
    fields = [b"Origin: " + origin for origin in origins]

    assert ask(api, b"POST /kinds/check/resume", *fields).status == 403


def test_a_page_that_lies_about_its_site_is_told_by_its_origin(api: RunningApi) -> None:
    fields = (b"Origin: https://evil.example", b"Sec-Fetch-Site: same-origin")

    assert ask(api, b"POST /kinds/check/resume", *fields).status == 403


@pytest.mark.parametrize(
    "target", [b"/jobs", b"/", b"/ui/", b"/metrics", b"/livez", b"/openapi.json", b"/nope"]
)
@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8080",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example",
        b"inside.example",
    ],
)
def test_a_page_whose_name_leads_here_reads_nothing(api: RunningApi, target: bytes, host: bytes) -> None:
    answer = ask(api, b"GET " + target, host=host)

    assert (answer.status, answer.headers["content-type"]) == (421, "application/problem+json")
    assert "RETRIEVER_API_ALLOWED_HOSTS" in answer.document["detail"]


def test_nor_does_it_change_anything(api: RunningApi) -> None:
    fields = (b"Origin: http://evil.example:8080", b"Sec-Fetch-Site: same-origin")

    answer = ask(
        api,
        b"POST /batches?kind=check",
        *fields,
        host=b"evil.example:8080",
        content_type=b"text/plain",
        body=URLS,
    )

    assert answer.status == 421


@pytest.mark.parametrize(
    "host",
    [
        *(b"localhost", b"LOCALHOST:1", b"localhost.", b"a.localhost:8080", b"127.0.0.1:8080", b"192.0.2.7"),
        *(
            b"[::1]",
            b"[2001:db8::7]:8080",
            b"api.example.com",
            b"API.EXAMPLE.COM.:443",
            b"a.b.inside.example",
        ),
    ],
)
def test_addresses_this_machine_and_allowed_names_are_answered(api: RunningApi, host: bytes) -> None:
    assert ask(api, b"GET /jobs", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a b",
        b"user@localhost",
        b"localhost:port",
        b"localhost:123456",
        b"[::1",
        b"http://localhost",
        b"a/b",
        b"%6c",
    ],
)
def test_a_host_that_is_none_is_refused(api: RunningApi, host: bytes) -> None:
    assert ask(api, b"GET /livez", host=host).status == 400


def test_a_request_has_one_host(api: RunningApi) -> None:
    (without,) = api.send_raw(b"GET /livez HTTP/1.1\r\n\r\n")

    assert without.status == 400
    assert ask(api, b"GET /livez", b"Host: localhost:8080").status == 400
    (old,) = api.send_raw(b"GET /livez HTTP/1.0\r\n\r\n")
    assert old.status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://evil.example/jobs", 421),
        (b"http://evil.example", 421),
        (b"http://localhost@evil.example/jobs", 400),
        (b"http://localhost:8080/jobs", 200),
        (b"HTTP://LOCALHOST/jobs?limit=1", 200),
    ],
)
def test_the_host_of_a_whole_target_goes_before_the_field(
    api: RunningApi, target: bytes, status: int
) -> None:
    assert ask(api, b"GET " + target).status == status


@pytest.mark.parametrize("field", [b"X-Forwarded-Host: api.example.com", b"Forwarded: host=api.example.com"])
def test_what_somebody_says_of_another_host_is_not_believed(api: RunningApi, field: bytes) -> None:
    assert ask(api, b"GET /jobs", field, host=b"evil.example").status == 421


def test_the_names_that_it_listens_on_are_answered(tmp_path_factory: pytest.TempPathFactory) -> None:
    database = tmp_path_factory.mktemp("names") / "retriever.db"
    settings = Settings(database_url=f"sqlite:///{database}", api_host="public-api", agent_host="agent-api")
    with running_api(settings) as api:
        statuses = [
            ask(api, b"GET /livez", host=host).status for host in (b"public-api", b"agent-api:8081", b"other")
        ]

    assert statuses == [200, 200, 421]


def test_every_host_is_answered_where_that_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    database = tmp_path_factory.mktemp("any") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}", api_allowed_hosts=("*",))) as api:
        assert ask(api, b"GET /livez", host=b"evil.example").status == 200


@pytest.mark.parametrize("path", ["/jobs", "/nope", "/ui/", "/openapi.json", "/metrics", "/livez", "/"])
def test_answers_are_neither_guessed_at_nor_loaded_by_pages_of_others(api: RunningApi, path: str) -> None:
    answer = api.client.get(path)

    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_so_are_those_that_no_operation_gave(api: RunningApi) -> None:
    (answer,) = api.send_raw(b"no request\r\n\r\n")

    assert (answer.status, answer.headers["x-content-type-options"]) == (400, "nosniff")


def test_swagger_ui_runs_its_own_scripts_alone_and_is_not_framed(api: RunningApi) -> None:
    page = api.client.get("/ui/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert policy["frame-ancestors"] == "'none'"
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        answer = api.client.get(f"/ui/{name}")
        assert (answer.status_code, answer.headers["content-security-policy"]) == (
            200,
            page.headers["content-security-policy"],
        )
