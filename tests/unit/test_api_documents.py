"""Documents: honest sentences, safe cells, and schemas in the older dialect."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from producer.api.contract import load_contract, to_openapi, without_bodies
from producer.api.exports import COLUMNS, csv_header, encode_csv
from tests.support.factories import make_record

NOW = datetime(2025, 1, 1, tzinfo=UTC)
RECORD = make_record(created_at=NOW)


def test_cells_are_no_formulas() -> None:
    result = {"verdict": "=HYPERLINK(1)", "status": 200}
    record = replace(
        RECORD, args={"url": "@SUM(1)"}, reason="-1+1", result=result, attempt=3, finished_at=NOW
    )

    [row] = csv.DictReader(io.StringIO((csv_header() + encode_csv([record])).decode()))

    assert tuple(row) == COLUMNS
    assert (row["url"], row["verdict"], row["reason"]) == ("'@SUM(1)", "'=HYPERLINK(1)", "'-1+1")
    assert (row["status"], row["attempts"], row["finished_at"]) == ("200", "3", "2025-01-01T00:00:00+00:00")


@pytest.mark.parametrize(
    ("schema", "converted"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "nullable": True}),
        (
            {"anyOf": [{"$ref": "#/x"}, {"type": "null"}], "default": None},
            {"allOf": [{"$ref": "#/x"}], "nullable": True},
        ),
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

    assert "requestBody" not in without_bodies(contract)["paths"]["/jobs"]["post"]
    assert "requestBody" in contract["paths"]["/jobs"]["post"]
