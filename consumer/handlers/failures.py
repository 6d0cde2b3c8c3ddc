"""What can go wrong with a request, in one table: its reason, whether it may pass, and words for a person.

An explanation never repeats what the target sent. `consumer.handlers.client_errors` finds the row of
an exception.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from consumer.egress import EgressDenied
from shared.outcomes import Failed


@dataclass(frozen=True, slots=True)
class Failure:
    """One way a request ends without what was asked for.

    Attributes:
        reason: A short stable code; failures are grouped by it.
        transient: Whether the same request may succeed later.
        explanation: One sentence for a person.
        is_ours: Whether it says something of this worker and nothing of the target.
        before_sending: Whether it came before any request reached the target, so that another method
            would meet the same.
        retry_after_seconds: How long to stay away, when we know it and not the target.
    """

    reason: str
    transient: bool
    explanation: str
    is_ours: bool = False
    before_sending: bool = False
    retry_after_seconds: float | None = None

    def as_outcome(
        self, *, retry_after_seconds: float | None = None, result: dict[str, Any] | None = None
    ) -> Failed:
        """Return this failure as the outcome of an attempt."""
        return Failed(
            reason=self.reason,
            explanation=self.explanation,
            transient=self.transient,
            retry_after_seconds=(retry_after_seconds or self.retry_after_seconds) if self.transient else None,
            result=result,
        )


def _transient(reason: str, explanation: str) -> Failure:
    return Failure(reason, transient=True, explanation=explanation)


def _permanent(reason: str, explanation: str) -> Failure:
    return Failure(reason, transient=False, explanation=explanation)


def _unreached(reason: str, explanation: str, *, transient: bool, is_ours: bool = False) -> Failure:
    return Failure(reason, transient, explanation, is_ours=is_ours, before_sending=True)


# Before anything was sent.
INVALID_URL = _unreached("invalid_url", "The URL names no host that can be reached.", transient=False)
DNS_NO_SUCH_NAME = _unreached(
    "dns_no_such_name", "The name of the host does not exist in the DNS.", transient=False
)
DNS_NO_ADDRESS = _unreached("dns_no_address", "The name of the host has no IP address.", transient=False)
DNS_FAILED = _unreached("dns_failed", "The name of the host could not be looked up just now.", transient=True)
CONNECT_TIMEOUT = _unreached(
    "connect_timeout", "The host did not take the connection in time.", transient=True
)
CONNECTION_REFUSED = _unreached(
    "connection_refused", "The host refused the connection: nothing listens on this port.", transient=True
)
UNREACHABLE = _unreached("unreachable", "The network says that the host cannot be reached.", transient=True)
CONNECT_FAILED = _unreached("connect_failed", "No connection to the host could be made.", transient=True)
BAD_CERTIFICATE = _unreached(
    "bad_certificate",
    "The certificate of the host is expired, is for another name, or was issued by nobody we trust.",
    transient=False,
)
TLS_FAILED = _unreached("tls_failed", "The host and we could not agree on a TLS connection.", transient=True)

# Ours.
DNS_UNAVAILABLE = _unreached(
    "dns_unavailable", "This worker cannot contact its DNS servers.", transient=True, is_ours=True
)
NO_ROUTE = _unreached(
    "no_route",
    "This worker has no route, or no free local port, to the address.",
    transient=True,
    is_ours=True,
)
WORKER_OVERLOADED = _unreached(
    "worker_overloaded",
    "This worker ran out of sockets or memory; the target was not asked.",
    transient=True,
    is_ours=True,
)

# While the target was answering.
READ_TIMEOUT = _transient("read_timeout", "The host went silent in the middle of an answer.")
CONNECTION_RESET = _transient("connection_reset", "The host dropped the connection without an answer.")
PROTOCOL_ERROR = _transient("protocol_error", "The host answered with something that is not valid HTTP/1.1.")
REQUEST_FAILED = _transient("request_failed", "The request failed for a reason that we have no name for.")

# With the body.
BODY_TRUNCATED = _transient("body_truncated", "The body ended before it was complete.")
BODY_CORRUPT = _transient("body_corrupt", "The body is not compressed in the way it claims.")
UNSUPPORTED_ENCODING = _permanent(
    "unsupported_encoding", "The body is compressed in a way that we did not ask for and cannot expand."
)
NOT_JSON = _permanent("not_json", "The body is not JSON, so nothing can be picked out of it.")
EXTRACT_FAILED = _permanent("extract_failed", "The JMESPath expression does not fit the body.")
EXTRACT_LIMIT = _permanent("extract_limit", "The JMESPath expression takes too long, or makes too much.")

# With the redirects.
REDIRECT_LOOP = _permanent("redirect_loop", "The redirects lead back to a URL that was already asked.")
REDIRECT_INVALID = _permanent("redirect_invalid", "A redirect leads to something that is not an HTTP URL.")
REDIRECT_REFUSED = _permanent("redirect_refused", "The host redirects, and the job refuses redirects.")
REDIRECT_WITH_BODY = _permanent(
    "redirect_with_body", "The redirect would take the body to another origin, where it was not meant to go."
)


ROBOTS_DENIED = _unreached(
    "robots_denied",
    "The robots.txt of the host denies this URL to us, and the job respects it.",
    transient=False,
)
ROBOTS_UNREACHABLE = _unreached(
    "robots_unreachable",
    "The robots.txt of the host could not be read, so nothing may be asked.",
    transient=True,
)


def host_without_turn(reason: str, host: str, seconds: float) -> Failure:
    """Return the failure of a request in the middle of an attempt whose host has no turn for it soon."""
    said = f"A further request of this attempt had to go to {host}, which this worker may not ask just now."
    return Failure(
        reason,
        transient=True,
        explanation=said,
        is_ours=True,
        before_sending=True,
        retry_after_seconds=seconds,
    )


def secret_missing(name: str, host: str) -> Failure:
    """Return the failure of a job that names a secret which this worker does not have."""
    said = f"This worker has no readable secret '{name}' for {host}; see RETRIEVER_SECRETS_DIR."
    return _unreached("secret_missing", said, transient=False, is_ours=True)


def too_many_redirects(limit: int) -> Failure:
    """Return the failure of a chain that goes on after `limit` redirects."""
    return _permanent("too_many_redirects", f"There were more than {limit} redirects.")


def timed_out(limit_seconds: float) -> Failure:
    """Return the failure of an attempt that reached its time limit."""
    return _transient("timeout", f"There was no complete answer within {limit_seconds:g} seconds.")


def body_too_large(limit_bytes: int) -> Failure:
    """Return the failure of a body beyond its limit."""
    return _permanent("body_too_large", f"The body is larger than {limit_bytes:,} bytes.")


def egress_denied(denied: EgressDenied) -> Failure:
    """Return the failure of a request that our own guard refused."""
    return _unreached(
        "egress_denied",
        f"Connections to this class of address are not allowed: {denied.address_class}.",
        transient=False,
        is_ours=True,
    )


def failure_of_status(status: int) -> Failure | None:
    """Return what is wrong with an answer of this status: nothing with 2xx.

    408, 425, 429 and every 5xx may pass. A 3xx comes here only when it leads nowhere.
    """
    if 200 <= status < 300:
        return None
    phrase = f"{status} {HTTPStatus(status).phrase}" if status in _KNOWN_STATUSES else str(status)
    explanation = f"The host answered {phrase}{_MEANING.get(status, '')}."
    return Failure(f"http_{status}", transient=_may_pass(status), explanation=explanation)


def _may_pass(status: int) -> bool:
    return status in {408, 425, 429} or 500 <= status < 600


_KNOWN_STATUSES = frozenset(HTTPStatus)

_MEANING: Mapping[int, str] = MappingProxyType(
    {
        304: ", as if we had a copy",
        401: ": it wants credentials",
        403: ": it does not let us in",
        404: ": there is nothing at this URL",
        410: ": what was at this URL is gone for good",
        429: ": we are asking too often",
        503: ": it is overloaded or down for maintenance",
    }
)
