"""The AsyncAPI document: kept as the code writes it, complete, and true to its own examples."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, FormatChecker

from shared.asyncapi import asyncapi_document, asyncapi_yaml
from shared.broker.topology import JOBS, OUTCOMES, work_key
from shared.events import BatchCompleted, JobEnded
from shared.identity import new_id
from shared.kinds.registry import BROKERED_KINDS, Lane
from shared.kinds.task import TASK
from shared.messages import JobMessage, WireMessage

FILE = Path(__file__).resolve().parents[2] / "docs" / "asyncapi.yaml"
DOCUMENT = asyncapi_document()
MODELS: dict[str, type[WireMessage]] = {
    "job": JobMessage,
    "jobEnded": JobEnded,
    "batchCompleted": BatchCompleted,
}


def validator(message: str) -> Draft7Validator:
    payload = DOCUMENT["components"]["messages"][message]["payload"]
    schema = {**payload, "components": DOCUMENT["components"]}
    return Draft7Validator(schema, format_checker=FormatChecker())


def examples(message: str) -> list[dict[str, Any]]:
    return [example["payload"] for example in DOCUMENT["components"]["messages"][message]["examples"]]


def resolve(reference: str) -> Any:
    place: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        place = place[part]
    return place


def test_the_kept_file_is_what_the_code_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == asyncapi_yaml(), "run `make asyncapi`"
    assert yaml.safe_load(asyncapi_yaml()) == DOCUMENT


def test_it_has_what_the_specification_asks_for() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    exchanges = [channel["bindings"]["amqp"]["exchange"]["name"] for channel in DOCUMENT["channels"].values()]
    assert exchanges == [JOBS, OUTCOMES, OUTCOMES]
    for channel in DOCUMENT["channels"].values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel.get("parameters", {}))
    actions = {name: operation["action"] for name, operation in DOCUMENT["operations"].items()}
    assert actions == {"runJob": "receive", "tellOutcome": "send", "tellCompletion": "send"}


def test_every_reference_leads_somewhere() -> None:
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT))

    assert references
    for reference in references:
        assert resolve(reference)


def test_the_keys_of_jobs_are_those_of_the_topology() -> None:
    parameters = DOCUMENT["channels"]["jobs"]["parameters"]
    keys = {f"{kind}.{lane}" for kind in parameters["kind"]["enum"] for lane in parameters["lane"]["enum"]}

    assert keys == {work_key(kind, lane) for kind in BROKERED_KINDS for lane in Lane}


def test_a_task_is_told_of_when_it_has_ended_but_cannot_be_published() -> None:
    channels = DOCUMENT["channels"]

    assert TASK in channels["outcomes"]["parameters"]["kind"]["enum"]
    assert TASK not in channels["jobs"]["parameters"]["kind"]["enum"]
    assert "TaskArgs" not in DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize("message", MODELS)
def test_an_example_is_valid_by_its_schema_and_by_its_model(message: str) -> None:
    Draft7Validator.check_schema({"definitions": DOCUMENT["components"]["schemas"]})
    for example in examples(message):
        validator(message).validate(example)
        MODELS[message].decode(json.dumps(example).encode())


def test_what_the_relay_publishes_is_valid_by_the_schema() -> None:
    job = JobMessage(id=new_id(), kind="fetch", args={"url": "https://example.com/", "extract": "a"})

    validator("job").validate(json.loads(job.encode()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 7},
        {"kind": "Check"},
        {"lane": "fast"},
        {"args": {}},
        {"args": {"url": "https://example.com/", "colour": "red"}},
        {"kind": "webhook"},
        {"attempt": 0},
    ],
)
def test_a_wrong_job_is_not_valid_by_the_schema(wrong: dict[str, Any]) -> None:
    [example] = examples("job")

    assert not validator("job").is_valid(example | wrong)
