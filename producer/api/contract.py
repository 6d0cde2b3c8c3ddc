"""The OpenAPI contract: paths from `openapi.yaml`, schemas from the pydantic models, so each is written once.

pydantic speaks JSON Schema 2020-12 and connexion OpenAPI 3.0.3, whose schemas are an older dialect.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from producer.api.bulk_actions import (
    AuditPage,
    BulkRequest,
    DryRun,
    OperationDocument,
    OperationPageDocument,
    OperationRequest,
)
from producer.api.documents import Batch, BatchPage, Job, JobPage, Problem, RejectedPage
from producer.api.hosts import HostDocument, HostLimitRequest, HostList
from producer.api.keys import KeyDocument, KeyPage, KeyRequest, NewKeyDocument, RotationRequest
from producer.api.kinds import KindList, KindPauseRequest, LanePauseRequest, QueueList
from producer.api.leases import ExtendLease, Extension, FailTask, FinishTask, LeasedTasks, PickTasks
from producer.api.limits import LimitsRequest, ProjectLimits
from producer.api.output import Output
from producer.api.paged_fetches import PagedFetch
from producer.api.parked_jobs import ParkedGroupList, RedriveRequest
from producer.api.routes import METHODS
from producer.api.schedules import Schedule, SchedulePage
from producer.api.secrets import (
    NewSecretDocument,
    SecretDocument,
    SecretPage,
    SecretReplacement,
    SecretRequest,
)
from producer.api.service import Health, Retention
from producer.api.stats import Stats
from producer.api.tasks import Task, TaskPage
from producer.submission_models import (
    BatchSubmission,
    JobSubmission,
    RetryOverride,
    ScheduleSubmission,
    TaskSubmission,
)
from shared.kinds.registry import KINDS, Kind
from shared.kinds.task import TaskCommand
from shared.kinds.webhook import WEBHOOK
from shared.messages import Ref
from shared.times import MAX_TIME_LENGTH, TIME_PATTERN

PATH = Path(__file__).parent.parent / "openapi.yaml"

_ANSWERS: tuple[type[BaseModel], ...] = (
    *(Job, JobPage, PagedFetch, Batch, BatchPage, RejectedPage, Schedule, SchedulePage, KindList, QueueList),
    *(Task, TaskPage, LeasedTasks, Extension),
    *(Output, ParkedGroupList, DryRun, OperationDocument, OperationPageDocument, AuditPage),
    *(KeyDocument, NewKeyDocument, KeyPage, SecretDocument, NewSecretDocument, SecretPage),
    *(HostDocument, HostList, ProjectLimits, Retention, Stats, Health, Problem),
)
_REQUESTS: tuple[type[BaseModel], ...] = (
    *(JobSubmission, BatchSubmission, ScheduleSubmission, TaskSubmission),
    *(PickTasks, ExtendLease, FinishTask, FailTask),
    *(
        RedriveRequest,
        OperationRequest,
        BulkRequest,
        KindPauseRequest,
        LanePauseRequest,
        KeyRequest,
        RotationRequest,
    ),
    *(SecretRequest, SecretReplacement),
    LimitsRequest,
    HostLimitRequest,
)

Schema = dict[str, Any]
SCHEME = "bearer"
"""The name of the security scheme."""
_REF = "#/components/schemas/"
_NAMED = re.compile(rf'"{_REF}([^"]+)"')
_REFUSALS = {
    "401": {"$ref": "#/components/responses/Unauthorized"},
    "403": {"$ref": "#/components/responses/Forbidden"},
    "429": {"$ref": "#/components/responses/TooMany"},
}


def load_contract() -> dict[str, Any]:
    """Return the whole contract, as it is published."""
    # Read by libyaml: in Python it takes a quarter of the time in which the API starts.
    contract: dict[str, Any] = yaml.load(PATH.read_text(), Loader=yaml.CSafeLoader)
    # Each example is written once there; its readers see it where it is used.
    del contract["x-examples"]
    schemas = contract["components"].setdefault("schemas", {})
    schemas.update(_answer_schemas() | _argument_schemas() | _submission_schemas())
    contract["components"]["schemas"] = dict(sorted(schemas.items()))
    for operation in _operations(contract):
        if scope := operation.get("x-scope"):
            operation["security"] = [{SCHEME: []}]
            said = operation.get("description", "").rstrip()
            operation["description"] = f"{said}\n\nTakes the scope `{scope}`.".lstrip()
            operation["responses"].update(_REFUSALS)
    return contract


def for_connexion(contract: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contract for connexion: it routes, asks who calls, and leaves all other checks to us.

    Its own check would validate a batch of 10,000 URLs with jsonschema on the event loop, for 176 ms. It
    hands the scopes of an operation to the gate; OpenAPI 3.0 has no place for them in what is published.
    At each start it checks all schemas that it is given, so it gets those of parameters alone.
    """
    bare = copy.deepcopy(dict(contract))
    for operation in _operations(bare):
        operation.pop("requestBody", None)
        operation["responses"] = {"default": {"description": "As the contract says."}}
        if scope := operation.get("x-scope"):
            operation["security"] = [{SCHEME: [scope]}]
    components = bare["components"]
    del components["responses"]
    components["schemas"] = _named_in([bare["paths"], components["parameters"]], components["schemas"])
    return bare


def _named_in(document: Any, schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """Return the schemas that a part of a document refers to, by themselves or through others."""
    found: dict[str, Schema] = {}
    names = _NAMED.findall(json.dumps(document))
    while names:
        if (name := names.pop()) not in found:
            found[name] = schemas[name]
            names += _NAMED.findall(json.dumps(schemas[name]))
    return found


def _operations(contract: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item in contract["paths"].values():
        yield from (operation for method, operation in item.items() if method in METHODS)


def to_openapi(schema: Any) -> Any:
    """Return a schema of JSON Schema 2020-12 in the dialect of OpenAPI 3.0.3, which has no null type."""
    if isinstance(schema, list):
        return [to_openapi(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name not in _DROPPED}
    if "properties" in kept:
        # The names of properties are no keywords: one may well be called `title`.
        kept["properties"] = {name: to_openapi(value) for name, value in kept["properties"].items()}
    converted = {name: value if name in _LITERAL else to_openapi(value) for name, value in kept.items()}
    return _nullable(_const(_exclusive(_patterns(converted))))


# The null of OpenAPI 3.0, as a schema of its own.
_NULL: Schema = {"type": "string", "nullable": True, "enum": [None]}
_LITERAL = frozenset({"properties", "default", "enum", "const", "example", "required"})
# pydantic makes a title of each name; `propertyNames` and `$defs` are unknown to OpenAPI 3.0.
_DROPPED = frozenset({"title", "propertyNames", "$defs"})


def _patterns(schema: Schema) -> Schema:
    patterns = schema.pop("patternProperties", None)
    if patterns:
        schema["additionalProperties"] = next(iter(patterns.values()))
    return schema


def _exclusive(schema: Schema) -> Schema:
    for bound, keyword in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if keyword in schema and not isinstance(schema[keyword], bool):
            schema[bound] = schema[keyword]
            schema[keyword] = True
    return schema


def _const(schema: Schema) -> Schema:
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    return schema


def _nullable(schema: Schema) -> Schema:
    choices = schema.get("anyOf", [])
    others = [choice for choice in choices if choice.get("type") != "null"]
    if len(others) != len(choices):
        schema = {**_or_null(others), **{name: value for name, value in schema.items() if name != "anyOf"}}
        if schema.get("default", "") is None and "anyOf" in schema:
            # It says nothing, and connexion would hold it against the schema that is referred to.
            del schema["default"]
    elif "$ref" in schema and len(schema) > 1:
        # OpenAPI 3.0 ignores whatever stands beside a reference.
        schema["allOf"] = [{"$ref": schema.pop("$ref")}]
        if isinstance(schema.get("default"), dict):
            # What is referred to says it field by field, and generators of clients take no object here.
            del schema["default"]
    return schema


def _or_null(choices: list[Schema]) -> Schema:
    """Return the choice between some schemas and null. `nullable` has a meaning beside `type` alone."""
    only = choices[0] if len(choices) == 1 else {}
    if "type" in only:
        values = {"enum": [*only["enum"], None]} if "enum" in only else {}
        return {**only, **values, "nullable": True}
    return {"anyOf": [*choices, copy.deepcopy(_NULL)]}


def _schemas_of(models: Iterable[type[BaseModel]], mode: JsonSchemaMode) -> dict[str, Schema]:
    _, definitions = models_json_schema([(model, mode) for model in models], ref_template=_REF + "{model}")
    return {name: to_openapi(schema) for name, schema in definitions["$defs"].items()}


def _answer_schemas() -> dict[str, Schema]:
    results = [kind.result_model for kind in KINDS.values()]
    schemas = _schemas_of([*_ANSWERS, *results], "serialization")
    for name in ("Job", "JobSummary"):
        names = " or ".join(f"`{model.__name__}`" for model in results)
        schemas[name]["properties"]["result"]["description"] = f"As the kind's result says: {names}."
    return schemas


def _argument_schemas() -> dict[str, Schema]:
    schemas = _schemas_of([kind.args_model for kind in KINDS.values()], "validation")
    ref = to_openapi(TypeAdapter(Ref | None).json_schema())
    for kind in KINDS.values():
        # An item leaves out what the batch's defaults say, and may have a name of its own.
        partial = copy.deepcopy(schemas[kind.args_model.__name__])
        partial.pop("required", None)
        partial["properties"]["ref"] = copy.deepcopy(ref)
        schemas[_partial_name(kind)] = partial
    return schemas


def _submission_schemas() -> dict[str, Schema]:
    schemas = _schemas_of(_REQUESTS, "validation")
    for field in schemas[RetryOverride.__name__]["properties"].values():
        field.pop("default", None)
    command = schemas[TaskSubmission.__name__]["properties"]["command"]
    command["anyOf"] = [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        _ref(TaskCommand.__name__),
        _NULL,
    ]
    schemas["Time"] = {
        "type": "string",
        "format": "date-time",
        "maxLength": MAX_TIME_LENGTH,
        "pattern": TIME_PATTERN,
    }
    schemas["KindName"] = {"type": "string", "enum": list(KINDS), "description": "See `GET /kinds`."}
    return schemas | _by_kind(schemas, "JobSubmission") | _by_kind(schemas, "BatchSubmission")


def _by_kind(schemas: Mapping[str, Schema], name: str) -> dict[str, Schema]:
    """Return a schema for each kind and the choice between them: a reader sees which arguments are whose."""
    by_kind = {kind.name: f"{kind.name.title()}{name}" for kind in KINDS.values()}
    choice = {
        "oneOf": [_ref(variant) for variant in by_kind.values()],
        "discriminator": {"propertyName": "kind", "mapping": {k: _REF + v for k, v in by_kind.items()}},
    }
    return {name: choice, **{by_kind[kind.name]: _variant(schemas[name], kind) for kind in KINDS.values()}}


def _variant(submission: Schema, kind: Kind) -> Schema:
    variant = copy.deepcopy(submission)
    properties = variant["properties"]
    properties["kind"] = {"type": "string", "enum": [kind.name]}
    properties["retry"] = _ref(RetryOverride.__name__)
    if kind.name == WEBHOOK:
        del properties["callback_url"], properties["callback_events"]
    if "args" in properties:
        properties["args"] = _ref(kind.args_model.__name__)
    if "items" in properties:
        # Anything else is an item too: it is rejected by itself, and not the batch for its sake.
        properties["items"]["items"] = {"anyOf": [_ref(_partial_name(kind)), {}]}
        properties["defaults"] = {
            "allOf": [_ref(_partial_name(kind))],
            "description": properties["defaults"]["description"],
        }
    return variant


def _partial_name(kind: Kind) -> str:
    return f"{kind.args_model.__name__}Partial"


def _ref(name: str) -> Schema:
    return {"$ref": _REF + name}
