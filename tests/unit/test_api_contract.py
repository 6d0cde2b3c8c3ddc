"""The published contract: schemas in the older dialect, errors, and an example for every answer."""

from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet
from connexion.spec import Specification
from jsonschema import Draft4Validator

from producer.api.contract import for_connexion, load_contract, to_openapi
from producer.api.routes import METHODS
from producer.callers import Scope

CONTRACT = load_contract()


@pytest.mark.parametrize(
    ("schema", "converted"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "nullable": True}),
        (
            {"anyOf": [{"$ref": "#/x"}, {"type": "null"}], "default": None},
            {"anyOf": [{"$ref": "#/x"}, {"type": "string", "nullable": True, "enum": [None]}]},
        ),
        (
            {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
            {"type": "string", "enum": ["a", None], "nullable": True},
        ),
        ({"$ref": "#/x", "default": {"a": 1}}, {"allOf": [{"$ref": "#/x"}]}),
        ({"$ref": "#/x", "default": 1}, {"allOf": [{"$ref": "#/x"}], "default": 1}),
        ({"exclusiveMinimum": 0}, {"minimum": 0, "exclusiveMinimum": True}),
        ({"const": "ok", "title": "Status"}, {"enum": ["ok"]}),
        (
            {"properties": {"title": {"title": "Title", "type": "string"}}},
            {"properties": {"title": {"type": "string"}}},
        ),
        (
            {"patternProperties": {"^a$": {"type": "string"}}},
            {"additionalProperties": {"type": "string"}},
        ),
    ],
)
def test_schemas_are_told_in_the_dialect_of_openapi_3_0(
    schema: dict[str, object], converted: dict[str, object]
) -> None:
    assert to_openapi(schema) == converted


def test_the_contract_documents_the_errors_of_every_operation_that_takes_a_body() -> None:
    for item in load_contract()["paths"].values():
        for operation in (item[method] for method in ("post",) if "requestBody" in item.get(method, {})):
            assert {"400", "408", "413", "415", "503"} <= operation["responses"].keys()


def test_connexion_gets_no_bodies_to_check_but_the_published_contract_has_them() -> None:
    contract = load_contract()

    assert "requestBody" not in for_connexion(contract)["paths"]["/jobs"]["post"]
    assert "requestBody" in contract["paths"]["/jobs"]["post"]


def test_connexion_gets_no_answers_to_check_but_the_whole_contract_is_valid() -> None:
    contract = load_contract()
    bare = for_connexion(contract)

    assert Specification.from_dict(contract).version == (3, 0, 3)
    assert len(bare["components"]["schemas"]) < len(contract["components"]["schemas"]) // 4
    assert "200" in contract["paths"]["/jobs"]["get"]["responses"]
    assert bare["paths"]["/jobs"]["get"]["responses"].keys() == {"default"}


def test_every_operation_says_which_scope_it_takes_but_for_those_of_probes() -> None:
    open_to_all, scopes = set(), set()
    for path, item in CONTRACT["paths"].items():
        for method in (each for each in METHODS if each in item):
            operation = item[method]
            if operation.get("security") == []:
                open_to_all.add(path)
            else:
                # Nobody's default, which a new operation would have without anybody's thought.
                scopes.add(Scope(operation["x-scope"]))
                assert operation["security"] == [{"bearer": []}]
                assert {"401", "403"} <= operation["responses"].keys()

    assert open_to_all == {"/livez", "/readyz"}
    # It is asked for by what is handed in, not by where.
    assert set(Scope) - scopes == {Scope.COMMANDS_RUN}


def test_a_submission_shows_its_usual_answer_first() -> None:
    for path in ("/jobs", "/batches"):
        assert next(iter(CONTRACT["paths"][path]["post"]["responses"])) == "202"


def _bodies() -> Iterator[ParameterSet]:
    for path, item in CONTRACT["paths"].items():
        for method in METHODS:
            operation = item.get(method, {})
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield pytest.param(content, id=f"{method} {path} {media_type}")
            for status, response in operation.get("responses", {}).items():
                for media_type, content in _resolved(response).get("content", {}).items():
                    yield pytest.param(content, id=f"{method} {path} {status} {media_type}")


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: dict[str, Any] = CONTRACT
    for name in node["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def _as_draft_4(schema: Any) -> Any:
    """Return a schema of OpenAPI 3.0 in JSON Schema, which has no `nullable`."""
    if isinstance(schema, list):
        return [_as_draft_4(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: _as_draft_4(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [converted, {"type": "null"}]} if schema.get("nullable") is True else converted


SCHEMAS = {"components": {"schemas": _as_draft_4(CONTRACT["components"]["schemas"])}}


@pytest.mark.parametrize("content", list(_bodies()))
def test_every_body_has_an_example_that_is_as_its_schema_says(content: dict[str, Any]) -> None:
    examples = [each["value"] for each in content.get("examples", {}).values()]
    if "example" in content:
        examples.append(content["example"])
    validator = Draft4Validator(SCHEMAS | _as_draft_4(content["schema"]))

    assert examples
    for example in examples:
        assert [error.message for error in validator.iter_errors(example)] == []
