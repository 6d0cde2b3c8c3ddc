"""The AsyncAPI document of `jobs` and `outcomes`; its schemas come from the pydantic models.

`make asyncapi` keeps it in docs/asyncapi.yaml. https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import copy
import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared.broker.topology import JOBS, OUTCOMES
from shared.events import BatchCompleted, EventType, JobEnded
from shared.kinds.registry import BROKERED_KINDS, KINDS, Lane
from shared.messages import JOB_TYPE, JobMessage
from shared.states import JobState

BATCH_COMPLETED_KEY = "batch.completed"

Json = dict[str, Any]
_SCHEMAS = "#/components/schemas/"
_MESSAGES = "#/components/messages/"

_ABOUT: Final = """\
Retriever runs jobs from the exchange `jobs` and tells of their ends on the exchange `outcomes`. Both are
durable topic exchanges on RabbitMQ, declared by Retriever: publishers and subscribers only use them.
How all else travels is in docs/messages.md.
"""
_HOW_TO_PUBLISH: Final = """\
Publish to `jobs` with the routing key `<kind>.<lane>`, persistent and mandatory, and wait for the confirm: a
message that comes back found no queue. Use the AMQP properties `type` = `job`, `correlation_id` = the job's
id and `content_type` = `application/json`; no header is read. With the property `user_id`, your own
login, the job belongs to the project that its operator maps you to. The id is a UUID of your own making
(version 7, please) that no other job has. A message that cannot be read is parked with its reason. The HTTP
API validates first and answers; prefer it.
"""
_HOW_TO_HEAR_OF_JOBS: Final = """\
Bind a queue of your own to `outcomes`: `check.succeeded`, `check.*`, `*.parked`, `#`. Told once the end is
recorded, at least once: whoever dedupes on `message_id` gets each outcome once. It is the job's id, and after
a redrive the job's id, a full stop and the run. What is told while your queue is not there is lost to you.
"""
_HOW_TO_HEAR_OF_BATCHES: Final = """\
Bind a queue of your own to `outcomes` with `batch.completed`. Told once all jobs of a batch have ended for
the first time, failures and cancellations included. `message_id` is the batch's id.
"""

_JOB_ID = "01a203f7-2316-7400-922d-0a315fe2b95f"
_BATCH_ID = "01a203f7-2327-7509-9f78-e075602b9162"

_JOB_EXAMPLE: Final[dict[str, Any]] = {
    "version": 1,
    "id": _JOB_ID,
    "kind": "check",
    "lane": "interactive",
    "args": {"url": "https://example.com/", "timeout_seconds": 10.0},
    "retry": {"max_attempts": 3, "first_delay_seconds": 2.0},
}
_OUTCOME_EXAMPLE: Final[dict[str, Any]] = {
    "version": 1,
    "job_id": _JOB_ID,
    "kind": "check",
    "run": 1,
    "state": "parked",
    "attempt": 5,
    "reason": "http_503",
    "explanation": "The host answered 503 Service Unavailable: it is overloaded or down for maintenance.",
    "batch_id": _BATCH_ID,
    "finished_at": "2026-11-22T15:54:18.029566Z",
}
_BATCH_EXAMPLE: Final[dict[str, Any]] = {
    "version": 1,
    "id": _BATCH_ID,
    "kind": "check",
    "total": 3,
    "counts": {"succeeded": 2, "parked": 1},
    "labels": {"team": "docs"},
    "created_at": "2026-11-22T15:54:17.824466Z",
    "completed_at": "2026-11-22T15:54:18.029566Z",
}


def asyncapi_document() -> Json:
    """Return the whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Retriever", "version": "1", "description": _ABOUT},
        "defaultContentType": "application/json",
        "servers": {"broker": _broker()},
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def asyncapi_yaml() -> str:
    """Return the document as it is kept in docs/asyncapi.yaml."""
    head = "# Written by `make asyncapi` from shared/asyncapi.py and the models. A test compares them.\n"
    return head + yaml.dump(
        asyncapi_document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )


class _Dumper(yaml.SafeDumper):
    """Writes for people: texts of several lines as such, and nothing by reference to another place."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _broker() -> Json:
    host = {"default": "localhost:5672", "description": "Host and port of `RETRIEVER_AMQP_URL`."}
    return {
        "host": "{host}",
        "protocol": "amqp",
        "protocolVersion": "0-9-1",
        "description": "RabbitMQ, 3.10 or newer.",
        "variables": {"host": host},
    }


def _channels() -> Json:
    kind = {"description": "What the job does.", "enum": list(BROKERED_KINDS)}
    # The ends of tasks are told too, though no message asks for one.
    any_kind = {**kind, "enum": list(KINDS)}
    lane = {"description": "Which of its kind's two queues.", "enum": [lane.value for lane in Lane]}
    final = [state.value for state in JobState if state.is_final]
    return {
        "jobs": {
            "address": "{kind}.{lane}",
            "description": _HOW_TO_PUBLISH,
            "parameters": {"kind": kind, "lane": lane},
            "messages": {"job": _message_ref("job")},
            "bindings": _exchange(JOBS),
        },
        "outcomes": {
            "address": "{kind}.{state}",
            "description": _HOW_TO_HEAR_OF_JOBS,
            "parameters": {"kind": any_kind, "state": {"description": "How the job ended.", "enum": final}},
            "messages": {"jobEnded": _message_ref("jobEnded")},
            "bindings": _exchange(OUTCOMES),
        },
        "completions": {
            "address": BATCH_COMPLETED_KEY,
            "description": _HOW_TO_HEAR_OF_BATCHES,
            "messages": {"batchCompleted": _message_ref("batchCompleted")},
            "bindings": _exchange(OUTCOMES),
        },
    }


def _operations() -> Json:
    """Return what Retriever does: it receives jobs, and sends outcomes."""
    return {
        "runJob": _operation("receive", "jobs", "job", "Run a job.", is_mandatory=True),
        "tellOutcome": _operation(
            "send", "outcomes", "jobEnded", "Tell how a job ended.", is_mandatory=False
        ),
        "tellCompletion": _operation(
            "send", "completions", "batchCompleted", "Tell that a batch is complete.", is_mandatory=False
        ),
    }


def _messages() -> Json:
    return {
        "job": _message("A job to run", JOB_TYPE, JobMessage, _JOB_EXAMPLE),
        "jobEnded": _message("A job has ended", EventType.OUTCOME, JobEnded, _OUTCOME_EXAMPLE),
        "batchCompleted": _message("A batch is complete", EventType.BATCH, BatchCompleted, _BATCH_EXAMPLE),
    }


def _schemas() -> Json:
    models: list[type[BaseModel]] = [JobMessage, JobEnded, BatchCompleted]
    models += [KINDS[kind].args_model for kind in BROKERED_KINDS]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_SCHEMAS + "{model}"
    )
    schemas: Json = _without_discriminators(definitions["$defs"])
    schemas[JobMessage.__name__] = _published_job(schemas[JobMessage.__name__])
    # Without what only reports name.
    return {name: schemas[name] for name in sorted(_reached([model.__name__ for model in models], schemas))}


def _without_discriminators(schema: Any) -> Any:
    """Return a schema as AsyncAPI can say it: its discriminator is a name, and maps no values to schemas."""
    if isinstance(schema, list):
        return [_without_discriminators(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name != "discriminator" or "oneOf" not in schema}
    return {name: _without_discriminators(value) for name, value in kept.items()}


def _reached(names: Iterable[str], schemas: Json) -> set[str]:
    """Return the names of these schemas, and of all that they refer to."""
    reached: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += re.findall(f'"{_SCHEMAS}([^"]+)"', json.dumps(schemas[name]))
    return reached


def _published_job(schema: Mapping[str, Any]) -> Json:
    """Return the schema of a job as others publish it: less what is ours, its arguments as its kind says."""
    published = copy.deepcopy(dict(schema))
    published["description"] = "One job. Leave out what has its default."
    # They are ours.
    for name in ("report", "token", "project", "publisher"):
        del published["properties"][name]
    published["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"properties": {"args": {"$ref": _SCHEMAS + KINDS[kind].args_model.__name__}}},
        }
        for kind in BROKERED_KINDS
    ]
    return published


def _message(title: str, amqp_type: str, model: type[BaseModel], example: Json) -> Json:
    return {
        "title": title,
        "contentType": "application/json",
        "payload": {"$ref": _SCHEMAS + model.__name__},
        "bindings": {
            "amqp": {"contentEncoding": "utf-8", "messageType": str(amqp_type), "bindingVersion": "0.3.0"}
        },
        "examples": [{"name": title, "payload": example}],
    }


def _operation(action: str, channel: str, message: str, summary: str, *, is_mandatory: bool) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
        # Delivery mode 2: persistent.
        "bindings": {"amqp": {"deliveryMode": 2, "mandatory": is_mandatory, "bindingVersion": "0.3.0"}},
    }


def _exchange(name: str) -> Json:
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False, "vhost": "/"}
    return {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0"}}


def _message_ref(name: str) -> Json:
    return {"$ref": _MESSAGES + name}


if __name__ == "__main__":
    sys.stdout.write(asyncapi_yaml())
