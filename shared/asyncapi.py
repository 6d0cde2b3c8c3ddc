"""The AsyncAPI document of `jobs` and `outcomes`; its schemas come from the pydantic models.

`make asyncapi` keeps it in docs/asyncapi.yaml. https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import copy
import sys
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared import asyncapi_texts as texts
from shared.broker.topology import JOBS, OUTCOMES
from shared.events import BatchCompleted, EventType, JobEnded
from shared.kinds.registry import KINDS, Lane
from shared.messages import JOB_TYPE, JobMessage
from shared.states import JobState

BATCH_COMPLETED_KEY = "batch.completed"

Json = dict[str, Any]
_SCHEMAS = "#/components/schemas/"
_MESSAGES = "#/components/messages/"


def asyncapi_document() -> Json:
    """Return the whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Retriever", "version": "1", "description": texts.ABOUT},
        "defaultContentType": "application/json",
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


def _channels() -> Json:
    kind = {"description": "What the job does.", "enum": list(KINDS)}
    lane = {"description": "Which of its kind's two queues.", "enum": [lane.value for lane in Lane]}
    final = [state.value for state in JobState if state.is_final]
    return {
        "jobs": {
            "address": "{kind}.{lane}",
            "description": texts.HOW_TO_PUBLISH,
            "parameters": {"kind": kind, "lane": lane},
            "messages": {"job": _message_ref("job")},
            "bindings": _exchange(JOBS),
        },
        "outcomes": {
            "address": "{kind}.{state}",
            "description": texts.HOW_TO_HEAR_OF_JOBS,
            "parameters": {"kind": kind, "state": {"description": "How the job ended.", "enum": final}},
            "messages": {"jobEnded": _message_ref("jobEnded")},
            "bindings": _exchange(OUTCOMES),
        },
        "completions": {
            "address": BATCH_COMPLETED_KEY,
            "description": texts.HOW_TO_HEAR_OF_BATCHES,
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
        "job": _message("A job to run", JOB_TYPE, JobMessage, texts.JOB),
        "jobEnded": _message("A job has ended", EventType.OUTCOME, JobEnded, texts.OUTCOME),
        "batchCompleted": _message("A batch is complete", EventType.BATCH, BatchCompleted, texts.BATCH),
    }


def _schemas() -> Json:
    models: list[type[BaseModel]] = [JobMessage, JobEnded, BatchCompleted]
    models += [kind.args_model for kind in KINDS.values()]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_SCHEMAS + "{model}"
    )
    schemas: Json = definitions["$defs"]
    schemas[JobMessage.__name__] = _published_job(schemas[JobMessage.__name__])
    # What only reports name.
    for name in ("Report", "OutcomeName"):
        del schemas[name]
    return dict(sorted(schemas.items()))


def _published_job(schema: Mapping[str, Any]) -> Json:
    """Return the schema of a job as others publish it: without our report, its arguments as its kind says."""
    published = copy.deepcopy(dict(schema))
    published["description"] = "One job. Leave out what has its default."
    del published["properties"]["report"]
    published["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind.name}}},
            "then": {"properties": {"args": {"$ref": _SCHEMAS + kind.args_model.__name__}}},
        }
        for kind in KINDS.values()
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
