"""Every operation of the contract: 401 without a key, 403 with one that lacks its scope, else neither."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from producer.api.contract import load_contract
from producer.api.routes import METHODS
from producer.callers import Scope
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.keys import bearer, make_key

CONTRACT = load_contract()
OPERATIONS = [
    pytest.param(method, path, item[method], id=item[method]["operationId"])
    for path, item in CONTRACT["paths"].items()
    for method in METHODS
    if method in item
]
PLACES = {"kind": "check", "lane": "bulk"}
AN_ID = "0199aa3e-7c1b-7d4e-9f00-3b1f6c2a9d10"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    path = tmp_path_factory.mktemp("scopes") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{path}")) as running:
        yield running


@pytest.fixture(scope="module")
def keys(api: RunningApi) -> dict[str, str]:
    """Return a key for each set of scopes: of one alone, and of all but one."""
    only = {f"only {scope}": make_key(api.store, f"only-{scope.name}", [scope]) for scope in Scope}
    others = {
        f"all but {scope}": make_key(api.store, f"but-{scope.name}", [s for s in Scope if s != scope])
        for scope in Scope
    }
    # The API knows of them once one was shown; until then it is open.
    assert api.client.get("/jobs", headers=bearer(only[f"only {Scope.JOBS_READ}"])).status_code == 200
    return only | others


def ask(api: RunningApi, method: str, path: str, operation: dict[str, Any], key: str = "") -> httpx.Response:
    path = re.sub(r"\{(\w+)\}", lambda match: PLACES.get(match[1], AN_ID), path)
    headers = bearer(key) if key else {}
    # One that is read before anything else: the answer must not depend on it.
    body = b"{}" if "requestBody" in operation else None
    if path == "/events":
        # It would go on.
        path = f"{path}?follow=false"
    if body is not None:
        headers["Content-Type"] = next(iter(operation["requestBody"]["content"]))
    return api.client.request(method, path, content=body, headers=headers)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_takes_a_key_with_its_scope_and_no_more(
    api: RunningApi, keys: dict[str, str], method: str, path: str, operation: dict[str, Any]
) -> None:
    unknown = ask(api, method, path, operation)
    if operation.get("security") == []:
        assert unknown.status_code == 200
        return
    scope = operation["x-scope"]
    lacking = ask(api, method, path, operation, keys[f"all but {scope}"])
    enough = ask(api, method, path, operation, keys[f"only {scope}"])

    assert unknown.status_code == 401
    assert unknown.headers["www-authenticate"] == 'Bearer realm="retriever"'
    assert unknown.json()["title"] == "Unauthorized"
    assert lacking.status_code == 403
    assert f'scope="{scope}"' in lacking.headers["www-authenticate"]
    assert lacking.json()["detail"].startswith(f"This takes the scope {scope}, which key:but-")
    assert {unknown.headers["content-type"], lacking.headers["content-type"]} == {"application/problem+json"}
    assert enough.status_code not in {401, 403, 405, 500}


@pytest.mark.parametrize("path", ["/", "/ui/", "/openapi.json", "/asyncapi.json", "/livez", "/readyz"])
def test_the_documents_of_the_api_and_probes_take_no_key(
    api: RunningApi, keys: dict[str, str], path: str
) -> None:
    assert keys
    assert api.client.get(path).status_code in {200, 302}


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ([("Authorization", "Basic YTpi")], "Authorization must be Bearer and a key."),
        ([("Authorization", "Bearer")], "No live key has this text"),
        ([("Authorization", "rtv_12345678")], "Authorization must be Bearer and a key."),
        (
            [("Authorization", "Bearer rtv_12345678_é".encode().decode("latin-1"))],
            "No live key has this text",
        ),
        ([("Authorization", f"Bearer {'a' * 20_000}")], "No live key has this text"),
        ([("Authorization", "Bearer a"), ("Authorization", "Bearer b")], "Authorization must be sent once."),
    ],
)
def test_what_is_no_key_is_refused_and_named(
    api: RunningApi, keys: dict[str, str], fields: list[tuple[str, str]], detail: str
) -> None:
    assert keys
    sent = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    answer = api.client.get("/jobs", headers=httpx.Headers(sent))

    assert (answer.status_code, answer.json()["detail"][: len(detail)]) == (401, detail)


def test_the_scheme_is_read_in_any_case_and_several_blanks_are_one(
    api: RunningApi, keys: dict[str, str]
) -> None:
    text = keys["only jobs:read"]

    answers = [
        api.client.get("/jobs", headers={"Authorization": f"{scheme}{text}"})
        for scheme in ("bearer ", "BEARER ", "Bearer   ")
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200]


def test_what_a_proxy_on_this_machine_passes_on_is_not_from_this_machine(tmp_path: Any) -> None:
    with running_api(Settings(database_url=f"sqlite:///{tmp_path / 'retriever.db'}")) as api:
        from_here = api.client.get("/jobs")
        passed_on = api.client.get("/jobs", headers={"X-Forwarded-For": "203.0.113.5"})

    assert (from_here.status_code, passed_on.status_code) == (200, 401)


@pytest.mark.parametrize("setting", [{"auth": "required"}, {"api_host": "0.0.0.0"}])
def test_nobody_gets_in_without_a_key_where_one_is_required(tmp_path: Any, setting: dict[str, Any]) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'retriever.db'}", **setting)
    with running_api(settings) as api:
        refused = api.client.get("/jobs")
        key = make_key(api.store, "first")
        let_in = api.client.get("/jobs", headers=bearer(key))

    assert (refused.status_code, let_in.status_code) == (401, 200)
