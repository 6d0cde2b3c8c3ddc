"""Every error as `application/problem+json` (RFC 9457): one table from our errors to HTTP."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from producer.api.documents import Problem, ProblemField, ProblemLimit
from producer.batch_validation import MAX_ERRORS, BatchInvalid
from producer.quotas import LimitName
from shared.errors import (
    BatchNotFound,
    BodyNotFound,
    EncryptionKeysMissing,
    FieldError,
    IdempotencyConflict,
    JobEndedAlready,
    JobInvalid,
    JobNotFound,
    JobNotPaged,
    JobNotParked,
    KeyEnded,
    KeyNameTaken,
    KeyNotFound,
    LeaseLost,
    NotATask,
    OperationFinished,
    OperationNotFound,
    OutputNotFound,
    ProjectLimitReached,
    QuotaReached,
    RetrieverError,
    RunsExhausted,
    ScheduleNotFound,
    SecretNameTaken,
    SecretNotFound,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
MAX_DETAIL_LENGTH = 500
RETRY_AFTER_SECONDS = 5
# Batches take a while.
BATCH_RETRY_SECONDS = 30
NO_PAGE = "There is nothing at this path."


class HttpProblem(RetrieverError):
    """A request that HTTP has a status for: too large, too slow, of an unsupported type."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class _Entry:
    """How one of our errors looks to a client; without `detail` it shows the error's own message."""

    status: HTTPStatus
    name: str
    title: str
    detail: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


_TABLE: Mapping[type[RetrieverError], _Entry] = {
    # Before JobInvalid, its base class: the request could be read, but it yields no job.
    BatchInvalid: _Entry(HTTPStatus.UNPROCESSABLE_ENTITY, "batch-invalid", "No job of the batch was stored"),
    JobInvalid: _Entry(HTTPStatus.BAD_REQUEST, "job-invalid", "What was sent is not valid"),
    JobNotFound: _Entry(HTTPStatus.NOT_FOUND, "job-not-found", "No such job", "No job has this id."),
    BodyNotFound: _Entry(
        HTTPStatus.NOT_FOUND,
        "body-not-found",
        "No body",
        "The job fetched none or extracted data instead, or the job that had the body is deleted or asked "
        "another question.",
    ),
    OutputNotFound: _Entry(HTTPStatus.NOT_FOUND, "output-not-found", "No output"),
    BatchNotFound: _Entry(HTTPStatus.NOT_FOUND, "batch-not-found", "No such batch", "No batch has this id."),
    ScheduleNotFound: _Entry(
        HTTPStatus.NOT_FOUND, "schedule-not-found", "No such schedule", "No schedule has this id."
    ),
    JobNotParked: _Entry(
        HTTPStatus.CONFLICT,
        "job-not-parked",
        "The job is not parked",
        "Only a parked job can be redriven or discarded.",
    ),
    RunsExhausted: _Entry(HTTPStatus.CONFLICT, "runs-exhausted", "The job has had its last run"),
    JobNotPaged: _Entry(HTTPStatus.CONFLICT, "job-not-paged", "The job is not the first of many pages"),
    KeyNotFound: _Entry(HTTPStatus.NOT_FOUND, "key-not-found", "No such key", "No key has this id."),
    KeyNameTaken: _Entry(HTTPStatus.CONFLICT, "key-name-taken", "The name is taken"),
    KeyEnded: _Entry(HTTPStatus.CONFLICT, "key-ended", "The key opens nothing any more"),
    SecretNotFound: _Entry(
        HTTPStatus.NOT_FOUND, "secret-not-found", "No such secret", "No secret has this id."
    ),
    SecretNameTaken: _Entry(HTTPStatus.CONFLICT, "secret-name-taken", "The name is taken"),
    EncryptionKeysMissing: _Entry(
        HTTPStatus.CONFLICT, "encryption-keys-missing", "Nothing can be kept in secret"
    ),
    OperationNotFound: _Entry(
        HTTPStatus.NOT_FOUND, "operation-not-found", "No such operation", "No operation has this id."
    ),
    OperationFinished: _Entry(
        HTTPStatus.CONFLICT,
        "operation-finished",
        "The operation is done",
        "The operation has done all its jobs; only a running operation can be cancelled.",
    ),
    NotATask: _Entry(HTTPStatus.NOT_FOUND, "not-a-task", "The job is no task"),
    LeaseLost: _Entry(HTTPStatus.CONFLICT, "lease-lost", "The lease is not held"),
    QuotaReached: _Entry(HTTPStatus.CONFLICT, "quota-reached", "There is no room for more"),
    IdempotencyConflict: _Entry(
        HTTPStatus.CONFLICT,
        "idempotency-conflict",
        "The Idempotency-Key is taken",
        "This Idempotency-Key was sent before, with a different request.",
    ),
    JobEndedAlready: _Entry(
        HTTPStatus.CONFLICT,
        "job-ended-already",
        "The job has ended already",
        "A job that has succeeded or is parked cannot be cancelled.",
    ),
    StoreUnavailable: _Entry(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "store-unavailable",
        "The store cannot do this now",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    ),
}


# Where another status says more: a batch in parts is another request, and batches end by themselves.
_LIMITS: Mapping[str, _Entry] = {
    LimitName.BATCH_JOBS: _Entry(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "batch-too-large", "The batch is too large"
    ),
    LimitName.UNFINISHED_BATCHES: _Entry(
        HTTPStatus.TOO_MANY_REQUESTS,
        "quota-reached",
        "There is no room for more",
        headers={"Retry-After": str(BATCH_RETRY_SECONDS)},
    ),
}


def problem_response(error: Exception) -> Response:
    """Return the answer to any error; an unforeseen one is logged with its traceback."""
    match error:
        case HttpProblem():
            return _respond(error.status, error.detail, errors=error.errors, headers=error.headers)
        case RetrieverError() if (entry := _entry(error)) is not None:
            return _our_error(error, entry)
        case HTTPException(status_code=status):
            # connexion's and Flask's own, such as 404.
            detail = NO_PAGE if status == HTTPStatus.NOT_FOUND else str(error.detail or "")
            return _respond(HTTPStatus(status), detail, headers=dict(error.headers or {}))
        case ClientDisconnect():
            # Nobody is there to read it.
            return _respond(HTTPStatus.BAD_REQUEST, "The request ended before its body did.")
        case _:
            # StoreRefused too, so it is not in the table: the store must take whatever has passed our checks.
            logger.error("api_unhandled_error", exc_info=error)
            return _respond(
                HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed on this request; it is logged."
            )


def _entry(error: RetrieverError) -> _Entry | None:
    return next((entry for kind, entry in _TABLE.items() if isinstance(error, kind)), None)


def _our_error(error: RetrieverError, entry: _Entry) -> Response:
    if entry.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning(
            "api_request_failed", extra={"problem": entry.name, "error": str(error)[:MAX_DETAIL_LENGTH]}
        )
    errors = error.errors if isinstance(error, JobInvalid) else ()
    limit = None
    if isinstance(error, ProjectLimitReached):
        entry = _LIMITS.get(error.name, entry)
        limit = ProblemLimit.of(error)
    return _respond(
        entry.status,
        entry.detail or _summary(error),
        name=f"urn:retriever:{entry.name}",
        title=entry.title,
        errors=errors,
        headers=entry.headers,
        limit=limit,
    )


def _summary(error: RetrieverError) -> str:
    # Tools show only the detail, so it names the first fault.
    match error:
        case BatchInvalid(errors=(first, *_)):
            return _sentence(f"{error.summary}. {first.loc}: {first.msg}")
        case JobInvalid(errors=(first, *others)):
            more = f", and {len(others)} more" if others else ""
            return _sentence(f"{first.loc}: {first.msg}{more}" if first.loc else f"{first.msg}{more}")
        case StoreUnavailable(reason=reason):
            return reason
        case _:
            return str(error)


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _respond(
    status: HTTPStatus,
    detail: str,
    *,
    name: str = "about:blank",
    title: str | None = None,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    limit: ProblemLimit | None = None,
) -> Response:
    problem = Problem(
        type=name,
        title=title or status.phrase,
        status=status,
        detail=detail[:MAX_DETAIL_LENGTH],
        errors=[ProblemField(loc=e.loc[:200], msg=e.msg[:MAX_DETAIL_LENGTH]) for e in errors[:MAX_ERRORS]]
        or None,
        limit=limit,
    )
    body = problem.model_dump_json(exclude_none=True)
    return Response(body, status, headers=dict(headers or {}), media_type=PROBLEM_TYPE)
