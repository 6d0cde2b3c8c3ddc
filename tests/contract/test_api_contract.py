"""Generated requests: no 500, no status, type or document that the contract does not know."""

import os
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import schemathesis
from _pytest.mark.structures import ParameterSet
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from producer.api.contract import load_contract
from producer.api.leases import MAX_WAIT_SECONDS
from producer.api.routes import METHODS
from producer.callers import Scope
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.keys import bearer, make_key

# `make fuzz` tries 200 of each operation.
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "25"))
# All but these two. What the schema takes may be refused all the same, for a URL or a cron expression that is
# none; of what it does not take, `wrong_data_is_refused` says the same with one exception.
NOT_CHECKED: list[Any] = [positive_data_acceptance, negative_data_rejection]
PROJECT = "acme"
CONTRACT = load_contract()


def wrong_data_is_refused(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Check that a wrong request is refused; one that is too large to be looked at is, too."""
    if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return None
    return negative_data_rejection(context, response, case)


def nothing_is_done_beyond_the_scope(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Check that a key that may only look gets 403 from what needs more, or the fault of its request."""
    # Of the file, for what is served says it in words.
    operation = CONTRACT["paths"][case.operation.path][case.operation.method.lower()]
    scope = operation.get("x-scope", Scope.JOBS_READ)
    if scope != Scope.JOBS_READ and response.status_code < HTTPStatus.BAD_REQUEST:
        raise AssertionError(f"{response.status_code} with {Scope.JOBS_READ}, where {scope} is needed")
    return None


def _operations() -> Iterator[ParameterSet]:
    for path, item in CONTRACT["paths"].items():
        # In an order that is the same in every process.
        for method in sorted(set(METHODS) & item.keys()):
            yield pytest.param(path, method.upper(), GenerationMode.POSITIVE, id=f"{method} {path}")
            if {"parameters", "requestBody"} & (item.keys() | item[method].keys()):
                yield pytest.param(path, method.upper(), GenerationMode.NEGATIVE, id=f"wrong {method} {path}")


def _shorten_wait(case: schemathesis.Case[Any]) -> None:
    """Let what may wait for a minute wait for a moment, or end; that it is allowed to is what counts."""
    if case.path == "/events" and (case.query or {}).get("follow") in {None, True, "true"}:
        case.query = {**(case.query or {}), "follow": False}
    body: Any = case.body
    match body:
        case {"wait_seconds": bool()}:
            pass
        case {"wait_seconds": int() | float() as seconds} if 0 <= seconds <= MAX_WAIT_SECONDS:
            body["wait_seconds"] = 0.01


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("contract") / "retriever.db"
    with pytest.MonkeyPatch.context() as patch:
        # Limits that are set hold a moment later; a hundred times that is too long.
        patch.setattr("producer.store.quotas.SETTLED_SECONDS", 0.0)
        with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
            yield running


@pytest.fixture(scope="module")
def headers(api: RunningApi) -> dict[str, str]:
    """Return what lets a request do everything: some make keys, so the API asks for one."""
    return bearer(make_key(api.store, "generated"))


@pytest.fixture(scope="module")
def schema(api: RunningApi, headers: dict[str, str]) -> schemathesis.BaseSchema:
    return schema_with(api, headers)


@pytest.fixture(scope="module")
def readers_schema(api: RunningApi) -> schemathesis.BaseSchema:
    """Return the schema as seen by a key that may only look, at what one project has."""
    return schema_with(api, bearer(make_key(api.store, "reader", [Scope.JOBS_READ], project=PROJECT)))


def schema_with(api: RunningApi, headers: dict[str, str]) -> schemathesis.BaseSchema:
    """Return a schema whose requests show a key."""
    schema: schemathesis.BaseSchema = schemathesis.openapi.from_url(f"{api.client.base_url}/openapi.json")

    @schema.auth()
    class _Auth:
        def get(self, _case: schemathesis.Case[Any], _context: schemathesis.AuthContext) -> dict[str, str]:
            return headers

        def set(
            self,
            case: schemathesis.Case[Any],
            data: dict[str, str],
            _context: schemathesis.AuthContext,
        ) -> None:
            case.headers.update(data)

    return schema


@pytest.mark.parametrize(("path", "method", "mode"), list(_operations()))
def test_no_request_breaks_the_contract(
    schema: schemathesis.BaseSchema, path: str, method: str, mode: GenerationMode
) -> None:
    more: list[Any] = [wrong_data_is_refused] if mode is GenerationMode.NEGATIVE else []
    try_operation(schema[path][method], mode, more)


@pytest.mark.parametrize(("path", "method", "mode"), list(_operations()))
def test_a_key_that_may_only_look_breaks_the_contract_no_more_and_does_nothing(
    readers_schema: schemathesis.BaseSchema, path: str, method: str, mode: GenerationMode
) -> None:
    beyond: list[Any] = [nothing_is_done_beyond_the_scope]
    try_operation(readers_schema[path][method], mode, beyond, examples=max(EXAMPLES // 5, 1))


def try_operation(operation: Any, mode: GenerationMode, more: list[Any], *, examples: int = EXAMPLES) -> None:
    """Send generated requests, and hold each answer against all checks, and some more."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case: schemathesis.Case[Any]) -> None:
        _shorten_wait(case)
        case.call_and_validate(additional_checks=more, excluded_checks=NOT_CHECKED)

    holds()


def test_documents_of_real_jobs_and_batches_are_as_the_contract_says(
    schema: schemathesis.BaseSchema, headers: dict[str, str]
) -> None:
    def call(path: str, method: str, status: int, **request: Any) -> Any:
        case = schema[path][method].Case(headers=headers, **request)
        response = case.call_and_validate(excluded_checks=NOT_CHECKED)
        assert response.status_code == status
        return response.json()

    content = CONTRACT["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]
    jobs = [
        call("/jobs", "POST", 202, body=example["value"], media_type="application/json")
        for example in content["examples"].values()
    ]
    batch = call(
        "/batches",
        "POST",
        202,
        body={"kind": "check", "items": [{"url": "http://a.example/"}]},
        media_type="application/json",
    )

    job = call("/jobs/{job_id}", "GET", 200, path_parameters={"job_id": jobs[0]["id"]})
    # What it waits for is worked out anew each time.
    assert job | {"explanation": jobs[0]["explanation"]} == jobs[0]
    assert call("/batches/{batch_id}", "GET", 200, path_parameters={"batch_id": batch["id"]}) == batch
    assert len(call("/jobs", "GET", 200)["items"]) > len(jobs)
