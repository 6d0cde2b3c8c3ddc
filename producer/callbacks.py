"""Callbacks: the webhook jobs that report a job's end or a batch's completion. Pure."""

import json
from datetime import datetime
from typing import Any

from producer.callers import DEFAULT_PROJECT
from producer.records import CallbackEvent, NewJob
from shared.events import BatchCompleted, JobEnded
from shared.identity import new_id
from shared.kinds.registry import KINDS, Lane
from shared.kinds.webhook import WEBHOOK, fits
from shared.messages import WireMessage
from shared.urls import url_host

# The label of a webhook job that names what it reports, as `job/<id>` or `batch/<id>`.
CALLBACK_LABEL = "callback_of"
# The field that lists what was left out of the data, because the whole would be too large.
OMITTED = "omitted"

# What may be large, the largest first: a third party's report may hold anything.
_DISPENSABLE = ("result", "explanation", "reason")


def job_callback(ended: JobEnded, url: str, *, now: datetime) -> NewJob:
    """Return the webhook job that reports a job's end, with the document that `outcomes` gets."""
    data = callback_data(ended)
    of, project = f"job/{ended.job_id}", ended.project
    return _webhook(url, f"job.{ended.state}", data["finished_at"], data, of=of, project=project, now=now)


def batch_callback(completed: BatchCompleted, url: str, *, now: datetime) -> NewJob:
    """Return the webhook job that reports a batch's completion, with the document that `outcomes` gets."""
    data = callback_data(completed)
    of, project = f"batch/{completed.id}", completed.project
    at = data["completed_at"]
    return _webhook(url, CallbackEvent.BATCH_COMPLETED, at, data, of=of, project=project, now=now)


def callback_data(event: WireMessage) -> dict[str, Any]:
    """Return an event as the data of a webhook, without the fields that would make it too large."""
    # Through its JSON text, in which a number that JSON cannot express has become null.
    data: dict[str, Any] = json.loads(event.encode())
    for name in _DISPENSABLE:
        if fits(data):
            break
        if data.pop(name, None) is not None:
            data[OMITTED] = [*data.get(OMITTED, []), name]
    return data


def _webhook(
    url: str,
    event_type: str,
    timestamp: str,
    data: dict[str, Any],
    *,
    of: str,
    project: str | None,
    now: datetime,
) -> NewJob:
    return NewJob(
        id=new_id(),
        kind=WEBHOOK,
        lane=Lane.INTERACTIVE,
        args={"url": url, "type": event_type, "timestamp": timestamp, "data": data},
        retry=KINDS[WEBHOOK].retry,
        host=url_host(url),
        created_at=now,
        labels={CALLBACK_LABEL: of},
        project=project or DEFAULT_PROJECT,
    )
