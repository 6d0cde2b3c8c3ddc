"""What can go wrong, as one tree.

RetrieverError
    ApiError            the service refused; `problem` is its document (RFC 9457)
        Invalid         400, 406, 413, 415, 421, 422: what was sent; `problem.errors` names each field
        NotAllowed      401, 403: the key
        NotFound        404, 410
        Conflict        409: such as a job that is not parked
        TooManyRequests 429: still, after all tries
        Unavailable     408, and 5xx: still, after all tries
    ConnectionFailed    no answer, after all tries
    NotFinished         a wait is over; `last` is what there is so far, and the service goes on
    WebhookInvalid      a webhook that was not signed with your secret, or is too old
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class RetrieverError(Exception):
    """Whatever this library raises of its own accord."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document.

    Attributes:
        errors: The fields at fault, as pairs of a JSON pointer and words.
        raw: The document as it came.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[tuple[str, str], ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, status: int, document: object) -> "Problem":
        """Return the problem of an answer; one of a proxy, which is no such document, has a status alone."""
        said = document if isinstance(document, Mapping) else {}
        errors = said.get("errors")
        pairs = [each for each in errors if isinstance(each, Mapping)] if isinstance(errors, list) else []
        return cls(
            type=str(said.get("type", "about:blank")),
            title=str(said.get("title", f"HTTP {status}")),
            status=status,
            detail=str(said.get("detail", "")),
            errors=tuple((str(each.get("loc", "")), str(each.get("msg", ""))) for each in pairs),
            raw=said,
        )


class ApiError(RetrieverError):
    """The service answered with an error.

    Attributes:
        tries: How often the request was sent.
    """

    def __init__(self, problem: Problem, *, tries: int = 1) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}".rstrip(": "))
        self.problem = problem
        self.tries = tries

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


class Invalid(ApiError):
    """What was sent is not valid."""


class NotAllowed(ApiError):
    """The key is missing, or does not have the scope."""


class NotFound(ApiError):
    """There is no such thing, for a caller of this project."""


class Conflict(ApiError):
    """It cannot be done in the state that things are in."""


class TooManyRequests(ApiError):
    """The service lets in no more for now."""


class Unavailable(ApiError):
    """The service cannot answer now."""


class ConnectionFailed(RetrieverError):
    """No answer came."""


class NotFinished(RetrieverError):
    """A wait is over before what was waited for has ended. `last` is how it is; the service goes on."""

    def __init__(self, message: str, last: Any) -> None:
        super().__init__(message)
        self.last = last


class WebhookInvalid(RetrieverError):
    """A webhook cannot be trusted."""


_ERRORS: Mapping[int, type[ApiError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    410: NotFound,
    429: TooManyRequests,
}


def error_of(status: int, document: object, *, tries: int = 1) -> ApiError:
    """Return the error that an answer means."""
    kind = _ERRORS.get(status, Unavailable if status >= 500 else Invalid)
    return kind(Problem.of(status, document), tries=tries)
