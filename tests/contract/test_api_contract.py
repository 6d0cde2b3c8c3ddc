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
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from producer.api.contract import load_contract
from producer.api.leases import MAX_WAIT_SECONDS
from producer.api.routes import METHODS
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.keys import bearer, make_key

# `make fuzz` tries 200 of each operation.
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "25"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CONTRACT = load_contract()


def wrong_data_is_refused(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Check that a wrong request is refused; one that is too large to be looked at is, too."""
    if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return None
    return negative_data_rejection(context, response, case)


def _operations() -> Iterator[ParameterSet]:
    for path, item in CONTRACT["paths"].items():
        # In an order that is the same in every process.
        for method in sorted(set(METHODS) & item.keys()):
            yield pytest.param(path, method.upper(), GenerationMode.POSITIVE, id=f"{method} {path}")
            if {"parameters", "requestBody"} & (item.keys() | item[method].keys()):
                yield pytest.param(path, method.upper(), GenerationMode.NEGATIVE, id=f"wrong {method} {path}")


def _shorten_wait(case: schemathesis.Case[Any]) -> None:
    """Let a pick that may wait for a minute wait for a moment; that it is allowed to is what counts."""
    body: Any = case.body
    match body:
        case {"wait_seconds": bool()}:
            pass
        case {"wait_seconds": int() | float() as seconds} if 0 <= seconds <= MAX_WAIT_SECONDS:
            body["wait_seconds"] = 0.01


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    database = tmp_path_factory.mktemp("contract") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        yield running


@pytest.fixture(scope="module")
def headers(api: RunningApi) -> dict[str, str]:
    """Return what lets a request do everything: some make keys, so the API asks for one."""
    return bearer(make_key(api.store, "generated"))


@pytest.fixture(scope="module")
def schema(api: RunningApi, headers: dict[str, str]) -> schemathesis.BaseSchema:
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
    operation = schema[path][method]
    checks = [*CHECKS, wrong_data_is_refused] if mode is GenerationMode.NEGATIVE else CHECKS

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case: schemathesis.Case[Any]) -> None:
        _shorten_wait(case)
        case.call_and_validate(checks=checks)

    holds()


def test_documents_of_real_jobs_and_batches_are_as_the_contract_says(
    schema: schemathesis.BaseSchema, headers: dict[str, str]
) -> None:
    def call(path: str, method: str, status: int, **request: Any) -> Any:
        case = schema[path][method].Case(headers=headers, **request)
        response = case.call_and_validate(checks=CHECKS)
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
