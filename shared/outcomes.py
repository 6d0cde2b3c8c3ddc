"""What one attempt came to, as a value. A job that fails is not an error of ours."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from shared.bodies import StoredBody
from shared.kinds.pages import PageReport

# The reason of a job whose deadline passed before an attempt started.
EXPIRED: Final = "expired"
# The reason of a job that a worker gave up because workers died with it.
WORKER_CRASHED: Final = "worker_crashed"
# The reason of a job of which the broker does not take what follows an attempt.
TOO_LARGE: Final = "message_too_large"
# The reasons of jobs whose message the broker took out of its queue: nobody reports on those.
DELIVERY_LIMIT: Final = "delivery_limit"
MESSAGE_REJECTED: Final = "message_rejected"
QUEUE_FULL: Final = "queue_full"
DEAD_LETTERED: Final = "dead_lettered"
NO_QUEUE: Final = "no_queue"
# Ends without an attempt, as far as anybody knows.
UNTRIED: Final = frozenset({EXPIRED, DELIVERY_LIMIT, MESSAGE_REJECTED, QUEUE_FULL, DEAD_LETTERED, NO_QUEUE})


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The work was done.

    Attributes:
        result: JSON as the kind's result model says.
        body: A fetched body that is too large for the result.
        page: What the recorder is told of a page of a paged fetch, beside the result.
    """

    result: dict[str, Any]
    body: StoredBody | None = None
    page: PageReport | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The work was not done.

    Attributes:
        reason: A short stable code, such as `http_503` or `timeout`; failures are grouped by it.
        explanation: One sentence for a person; never secrets or bodies.
        transient: Whether the same attempt may succeed later.
        retry_after_seconds: What the target asked for, if it did.
        result: What the attempt found out all the same, as the kind's result model says.
    """

    reason: str
    explanation: str
    transient: bool
    retry_after_seconds: float | None = None
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A person cancelled the job; nobody knows how much was done by then, unless a `result` tells."""

    result: dict[str, Any] | None = None


class DeferralReason(StrEnum):
    """Why a job was deferred: wire names."""

    BUSY = "host_busy"
    PAUSED = "host_paused"
    OPEN = "host_open"
    RETURNED = "worker_lost"
    WORKER_BUSY = "worker_busy"
    QUEUE_PAUSED = "queue_paused"


@dataclass(frozen=True, slots=True)
class Deferred:
    """Nothing was tried, because host or worker had no room for the job, or workers die with it.

    It comes back. No attempt is counted.

    Attributes:
        seconds: When its permit is foreseen, or a new try is due, from now.
        reason: Why there was no attempt.
        explanation: One sentence for a person.
    """

    seconds: float
    reason: DeferralReason
    explanation: str
    result: None = None


Outcome = Succeeded | Failed | Cancelled | Deferred


class OutcomeName(StrEnum):
    """The outcome of an attempt as recorded: wire and database names."""

    SUCCEEDED = "succeeded"
    FAILED_TRANSIENT = "failed_transient"
    FAILED_PERMANENT = "failed_permanent"
    CANCELLED = "cancelled"


def outcome_name(outcome: Outcome) -> OutcomeName | None:
    """Return the recorded name of an outcome; None for a deferral, which is no attempt."""
    match outcome:
        case Succeeded():
            return OutcomeName.SUCCEEDED
        case Failed(transient=True):
            return OutcomeName.FAILED_TRANSIENT
        case Failed():
            return OutcomeName.FAILED_PERMANENT
        case Cancelled():
            return OutcomeName.CANCELLED
        case Deferred():
            return None
