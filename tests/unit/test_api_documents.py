"""Documents: honest sentences, safe cells, and schemas in the older dialect."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from producer.api.contract import load_contract, to_openapi, without_bodies
from producer.api.documents import explain
from producer.api.results import COLUMNS, csv_header, encode_csv
from producer.records import JobRecord
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.retry import RetryPolicy
from shared.states import JobState

NOW = datetime(2025, 1, 1, tzinfo=UTC)
FAR_OFF = datetime(2999, 1, 1, tzinfo=UTC)
RECORD = JobRecord(
    id=new_id(),
    kind="check",
    lane=Lane.BULK,
    args={"url": "http://example.com/"},
    retry=RetryPolicy(),
    host="example.com",
    labels={},
    batch_id=None,
    schedule_id=None,
    state=JobState.ACCEPTED,
    run=1,
    attempt=0,
    reason=None,
    explanation=None,
    result=None,
    due_at=None,
    deadline_at=None,
    created_at=NOW,
    finished_at=None,
)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (RECORD, "Stored; waiting to be published to the broker."),
        (replace(RECORD, state=JobState.QUEUED), "In its queue; waiting for a worker."),
        (replace(RECORD, state=JobState.RUNNING, attempt=2), "Attempt 2 is running."),
        (
            replace(RECORD, state=JobState.DELAYED, attempt=1, due_at=FAR_OFF, reason="http_503"),
            "Waiting until 2999-01-01T00:00:00+00:00 for attempt 2 after http_503.",
        ),
        (
            replace(RECORD, state=JobState.DELAYED, attempt=1, due_at=NOW, reason="http_503"),
            "Attempt 2 after http_503 has been due since 2025-01-01T00:00:00+00:00; waiting for a worker.",
        ),
        (
            replace(
                RECORD,
                state=JobState.DELAYED,
                due_at=FAR_OFF,
                reason="host_busy",
                explanation="Deferred, because example.com is at its limit for this worker.",
            ),
            (
                "Deferred, because example.com is at its limit for this worker. "
                "Back in its queue from 2999-01-01T00:00:00+00:00 on."
            ),
        ),
        (replace(RECORD, state=JobState.PARKED, reason="http_404", explanation="Gone."), "Gone."),
        (replace(RECORD, state=JobState.PARKED, reason="http_404"), "http_404"),
        (replace(RECORD, state=JobState.SUCCEEDED), None),
    ],
)
def test_a_job_says_what_it_waits_for(record: JobRecord, sentence: str | None) -> None:
    assert explain(record) == sentence


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
