"""What the edge of the API refuses, before any operation sees it: counted and logged, by reason."""

import logging
from enum import StrEnum

from prometheus_client import Counter
from starlette.types import Scope

from shared.repeated_warning import RepeatedWarning

logger = logging.getLogger(__name__)


class Refusal(StrEnum):
    """Why a connection or a request was refused."""

    NO_HTTP = "no_http"
    HEAD_TOO_LARGE = "head_too_large"
    HEAD_TOO_SLOW = "head_too_slow"
    HEADS_FULL = "heads_full"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TOO_SLOW = "body_too_slow"
    BODIES_FULL = "bodies_full"
    PIPELINE_FULL = "pipeline_full"
    CONNECTIONS_FULL = "connections_full"
    CLOSED_FOR_ANOTHER = "closed_for_another"
    ANSWER_UNREAD = "answer_unread"
    HOST = "host"
    ORIGIN = "origin"
    UNKNOWN_CALLER = "unknown_caller"
    SCOPE = "scope"
    RATE = "rate"


def client_of(scope: Scope) -> str:
    """Return the address that a request comes from, or nothing where it has none."""
    client = scope.get("client")
    return client[0] if client else ""


class Refusals:
    """The refusals of one API process. A warning for each reason is logged at once and then every minute."""

    def __init__(self) -> None:
        """Start at zero."""
        self.counter = Counter(
            "retriever_api_refused",
            "Connections and requests that were refused before any operation saw them.",
            ("reason",),
            registry=None,
        )
        self._counts = {reason: self.counter.labels(reason.value) for reason in Refusal}
        self._warnings = {reason: RepeatedWarning(logger) for reason in Refusal}

    def count(self, reason: Refusal, *, client: str, what: str = "") -> None:
        """Count one.

        Args:
            reason: Why.
            client: The address of the latest one.
            what: What the latest one asked for, such as a host that is not ours.
        """
        self._counts[reason].inc()
        latest = {"client": client, "what": what} if what else {"client": client}
        self._warnings[reason].tell("api_refused", {"reason": reason.value}, latest=latest)
