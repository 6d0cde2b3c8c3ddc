"""The Python client of Retriever: `Retriever` for threads, `AsyncRetriever` for coroutines.

    with Retriever() as retriever:
        job = retriever.check("https://example.com/")
        print(job.verdict, job.explanation)

Knows nothing of the service but its contract, and imports nothing of it.
"""

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
    Job,
    Key,
    Kind,
    Lease,
    LeasedTask,
    NewKey,
    Operation,
    Output,
    OutputText,
    ParkedGroup,
    ParkedGroups,
    Queue,
    RejectedLine,
    Rejections,
    Retention,
    Schedule,
    ScheduleRun,
    Stats,
    Task,
)

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
    "Invalid",
    "Job",
    "Key",
    "Kind",
    "Lease",
    "LeasedTask",
    "NewKey",
    "NotAllowed",
    "NotFinished",
    "NotFound",
    "Operation",
    "Output",
    "OutputText",
    "ParkedGroup",
    "ParkedGroups",
    "Problem",
    "Queue",
    "RejectedLine",
    "Rejections",
    "Retention",
    "Retriever",
    "RetrieverError",
    "Schedule",
    "ScheduleRun",
    "Stats",
    "Task",
    "TooManyRequests",
    "Unavailable",
    "WebhookInvalid",
    "webhooks",
]
