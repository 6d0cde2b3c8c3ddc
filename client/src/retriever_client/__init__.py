"""The Python client of Retriever: `Retriever` for threads, `AsyncRetriever` for coroutines.

    with Retriever() as retriever:
        job = retriever.check("https://example.com/")
        print(job.verdict, job.explanation)

Knows nothing of the service but its contract, and imports nothing of it. What is named here is loaded when it
is first used, so that a program which may need it starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retriever_client import webhooks
    from retriever_client._async.client import AsyncRetriever
    from retriever_client._sync.client import Retriever
    from retriever_client.errors import (
        ApiError,
        Conflict,
        ConnectionFailed,
        Invalid,
        NotAllowed,
        NotFinished,
        NotFound,
        Problem,
        RetrieverError,
        TooManyRequests,
        Unavailable,
        WebhookInvalid,
    )
    from retriever_client.models import (
        Attempt,
        AuditEntry,
        Batch,
        Event,
        Extension,
        Host,
        HostLimit,
        Job,
        Key,
        Kind,
        Lease,
        LeasedTask,
        Limit,
        NewKey,
        NewSecret,
        Operation,
        Output,
        OutputText,
        PageCounts,
        PagedFetch,
        ParkedGroup,
        ParkedGroups,
        ProjectLimits,
        Queue,
        RejectedLine,
        Rejections,
        Retention,
        Schedule,
        ScheduleRun,
        Secret,
        Stats,
        Task,
    )

_CLIENTS = {
    "AsyncRetriever": "retriever_client._async.client",
    "Retriever": "retriever_client._sync.client",
}
_ERRORS = frozenset(
    {
        "ApiError",
        "Conflict",
        "ConnectionFailed",
        "Invalid",
        "NotAllowed",
        "NotFinished",
        "NotFound",
        "Problem",
        "RetrieverError",
        "TooManyRequests",
        "Unavailable",
        "WebhookInvalid",
    }
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "webhooks":
        return importlib.import_module("retriever_client.webhooks")
    home = _CLIENTS.get(name) or f"retriever_client.{'errors' if name in _ERRORS else 'models'}"
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


__all__ = [
    "ApiError",
    "AsyncRetriever",
    "Attempt",
    "AuditEntry",
    "Batch",
    "Conflict",
    "ConnectionFailed",
    "Event",
    "Extension",
    "Host",
    "HostLimit",
    "Invalid",
    "Job",
    "Key",
    "Kind",
    "Lease",
    "LeasedTask",
    "Limit",
    "NewKey",
    "NewSecret",
    "NotAllowed",
    "NotFinished",
    "NotFound",
    "Operation",
    "Output",
    "OutputText",
    "PageCounts",
    "PagedFetch",
    "ParkedGroup",
    "ParkedGroups",
    "Problem",
    "ProjectLimits",
    "Queue",
    "RejectedLine",
    "Rejections",
    "Retention",
    "Retriever",
    "RetrieverError",
    "Schedule",
    "ScheduleRun",
    "Secret",
    "Stats",
    "Task",
    "TooManyRequests",
    "Unavailable",
    "WebhookInvalid",
    "webhooks",
]
