"""What can go wrong with a request: one table of failures, and which failure an exception or a status is.

An explanation never repeats what the target sent.
"""

import errno
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import aiodns.error
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientOSError,
    ClientPayloadError,
    ClientResponseError,
    ConnectionTimeoutError,
    InvalidURL,
    NonHttpUrlClientError,
    ServerDisconnectedError,
    SocketTimeoutError,
)

from consumer.compute.answers import Flaw
from consumer.egress import EgressDenied
from consumer.http.answers import Fault, TooLarge, TooMuchFraming
from consumer.http.handshakes import HandshakeEnd, certificate_fault, end_of_handshake
from shared.compression import MAX_STORED_BYTES
from shared.kinds.check import ASSERTION_FAILED, MAX_BODY_BYTES, Verdict, unmet_words
from shared.messages import DEFAULT_PROJECT
from shared.outcomes import Failed

MAX_NAMED_CODINGS = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which a request fails.

    Attributes:
        reason: A short stable code; failures are grouped by it.
        transient: Whether the same request may succeed later.
        explanation: One sentence for a person.
        is_ours: Whether it is this worker's fault and says nothing about the target.
        before_sending: Whether no request reached the target, so that another method would fail alike.
        is_blocking: Whether the target is there but does not let us in; trying again changes nothing.
        retry_after_seconds: How long to stay away, when we decide that and not the target.
    """

    reason: str
    transient: bool
    explanation: str
    is_ours: bool = False
    before_sending: bool = False
    is_blocking: bool = False
    retry_after_seconds: float | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of a check; None when the failure says nothing about the URL."""
        if self.is_ours:
            return None
        if self.transient:
            return Verdict.DOWN
        return Verdict.BLOCKED if self.is_blocking else Verdict.BROKEN

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


EGRESS_DENIED: Final = "egress_denied"

# Before anything was sent.
INVALID_URL = _unreached("invalid_url", "The URL names no host that can be reached.", transient=False)
DNS_NO_SUCH_NAME = _unreached("dns_no_such_name", "The host name does not exist in the DNS.", transient=False)
DNS_NO_ADDRESS = _unreached("dns_no_address", "The host name has no IP address.", transient=False)
DNS_FAILED = _unreached("dns_failed", "The host name could not be looked up just now.", transient=True)
DNS_TIMEOUT = _unreached("dns_timeout", "The host name was not looked up in time.", transient=True)
CONNECT_TIMEOUT = _unreached(
    "connect_timeout", "The host did not accept the connection in time.", transient=True
)
CONNECTION_REFUSED = _unreached(
    "connection_refused", "The host refused the connection: nothing listens on this port.", transient=True
)
UNREACHABLE = _unreached(
    "unreachable", "The network reports that the host cannot be reached.", transient=True
)
CONNECT_FAILED = _unreached("connect_failed", "No connection to the host could be made.", transient=True)
BAD_CERTIFICATE = _unreached("bad_certificate", "The host's certificate cannot be trusted.", transient=False)
TLS_TIMEOUT = _unreached("tls_timeout", "The host did not finish the TLS handshake in time.", transient=True)
TLS_FAILED = _unreached("tls_failed", "The host and we cannot agree on TLS.", transient=False)
TLS_INTERRUPTED = _unreached(
    "tls_interrupted", "The host hung up in the middle of the TLS handshake.", transient=True
)
CLIENT_CERTIFICATE_REQUIRED = Failure(
    "client_certificate_required",
    transient=False,
    explanation="The host asked for a client certificate, and hung up when we had none.",
    before_sending=True,
    is_blocking=True,
)

# This worker's own.
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

PERMIT_TOO_LATE = _unreached(
    "host_busy",
    "The time of the attempt ran out while it waited until this worker may ask the host.",
    transient=True,
    is_ours=True,
)

# Webhooks.
NO_SIGNING_SECRET = _unreached(
    "no_signing_secret",
    "Nothing was sent, because this worker has no secret to sign with: set RETRIEVER_WEBHOOK_SECRETS, then "
    "redrive the job.",
    transient=False,
    is_ours=True,
)

# While the target was answering.
FIRST_BYTE_TIMEOUT = _transient("first_byte_timeout", "The host did not begin its answer in time.")
READ_TIMEOUT = _transient("read_timeout", "The host went silent in the middle of an answer.")
CONNECTION_RESET = _transient("connection_reset", "The host dropped the connection without an answer.")
PROTOCOL_ERROR = _transient("protocol_error", "The host answered with something that is not valid HTTP/1.1.")
HEADER_TOO_LARGE = _permanent("header_too_large", "The header of the answer is larger than we take.")
REQUEST_FAILED = _transient("request_failed", "The request failed for an unknown reason.")

# With the body.
BODY_TRUNCATED = _transient("body_truncated", "The body ended before it was complete.")
BODY_CORRUPT = _transient("body_corrupt", "The body is not compressed as its Content-Encoding says.")
FRAMING_TOO_LARGE = _permanent(
    "body_too_large",
    "Around the content of the body is more than we take: chunks of a few bytes, their extensions, or fields "
    "behind it.",
)
UNEXPECTED_TYPE = _permanent("unexpected_type", "The answer is of a media type that the job does not accept.")
BODY_NOT_STORABLE = _permanent(
    "body_too_large",
    f"Even compressed, the body is larger than the {MAX_STORED_BYTES:,} bytes that can be stored.",
)

# With what the job wants to know of an answer: its limits, and this worker's.
COMPUTE_BUSY = Failure(
    "compute_busy",
    transient=True,
    explanation="The host answered, and this worker was too busy to look at the answer.",
    is_ours=True,
)
COMPUTE_CRASHED = Failure(
    "compute_crashed",
    transient=True,
    explanation="The process of this worker that looked at the answer died, and so did the next one.",
    is_ours=True,
)
COMPUTE_MEMORY = Failure(
    "compute_limit",
    transient=False,
    explanation="Looking at the answer takes more memory than one job may have.",
    is_ours=True,
)

# With the redirects.
REDIRECT_LOOP = _permanent("redirect_loop", "The redirects lead back to a URL that was already asked.")
REDIRECT_REFUSED = _permanent("redirect_refused", "The host redirects, and the job refuses redirects.")
REDIRECT_DOWNGRADE = _permanent(
    "redirect_downgrade", "A redirect leads from https to http, which the job does not allow."
)
REDIRECT_WITH_BODY = _permanent(
    "redirect_with_body", "The redirect would take the body to another origin, where it was not meant to go."
)


ROBOTS_DENIED = Failure(
    "robots_denied",
    transient=False,
    explanation="The host's robots.txt denies us this URL, and the job respects it.",
    before_sending=True,
    is_blocking=True,
)
ROBOTS_UNREACHABLE = _unreached(
    "robots_unreachable",
    "The host's robots.txt could not be read, so none of its URLs may be requested.",
    transient=True,
)


def host_without_permit(reason: str, host: str, seconds: float | None) -> Failure:
    """Return the failure of a request of an attempt whose host, or its address, has no permit for it soon."""
    said = f"A request of this attempt had to go to {host}, which this worker may not ask just now."
    return Failure(
        reason,
        transient=True,
        explanation=said,
        is_ours=True,
        before_sending=True,
        retry_after_seconds=seconds,
    )


def secret_missing(name: str, origin: str, folder: str | None, *, project: str = DEFAULT_PROJECT) -> Failure:
    """Return the failure of a job that names a secret which neither its project nor this worker has.

    Args:
        name: Of the secret.
        origin: Whom it is for.
        folder: The folder in which it would be; None when no folder can have such an origin's name.
        project: Whose job it is.
    """
    where = f"it would be {folder}/{name} in" if folder else "no folder serves such a host in"
    said = (
        f"This worker has no readable secret '{name}' for {origin}: {where} RETRIEVER_SECRETS_DIR. "
        f"Nor had the project '{project}' one of this name when the job was sent; set it, then redrive it."
    )
    return _unreached("secret_missing", said, transient=False, is_ours=True)


def secret_elsewhere(name: str, origin: str, origins: Iterable[str]) -> Failure:
    """Return the failure of a job that names a secret of its project which is for other origins."""
    said = f"The secret '{name}' is for {', '.join(origins)} alone, and is not sent to {origin}."
    return _unreached("secret_elsewhere", said, transient=False, is_ours=True)


def secret_unreadable(name: str, project: str, why: str) -> Failure:
    """Return the failure of a job whose secret does not open; `why` ends the sentence."""
    said = f"This worker cannot open the secret '{name}' of the project '{project}': {why}."
    return _unreached("secret_unreadable", said, transient=False, is_ours=True)


def redirect_invalid(why: str) -> Failure:
    """Return the failure of a redirect to what cannot be requested; `why` ends the sentence."""
    return _permanent("redirect_invalid", f"A redirect leads to something that is not an HTTP URL: {why}.")


def redirect_unsafe(method: str) -> Failure:
    """Return the failure of a redirect to another origin of a request that changes something."""
    said = f"The redirect would take a {method} to another origin, where it was not meant to change anything."
    return _permanent("redirect_unsafe", said)


def too_many_redirects(limit: int) -> Failure:
    """Return the failure of a chain that goes on after `limit` redirects."""
    return _permanent("too_many_redirects", f"There were more than {limit} redirects.")


def timed_out(limit_seconds: float, *, while_doing: str = "") -> Failure:
    """Return the failure of an attempt that reached its time limit, in the phase that it was in."""
    phase = while_doing and f"; the time ran out while {while_doing}"
    return _transient("timeout", f"There was no complete answer within {limit_seconds:g} seconds{phase}.")


def assertion_failed(assertion: str, expected: str, *, others: int) -> Failure:
    """Return the failure of an answer that does not pass the job's assertions.

    Args:
        assertion: The name of the first that does not hold.
        expected: What the job demands, in its own words.
        others: How many more do not hold.
    """
    return _permanent(ASSERTION_FAILED, unmet_words(assertion, expected, others=others))


def bot_wall(status: int, wall: str) -> Failure:
    """Return the failure of a request that a bot wall answered instead of the host."""
    said = f"The bot wall of {wall} answered {status} instead of the page."
    return Failure("bot_wall", transient=False, explanation=said, is_blocking=True)


def failure_of_flaw(flaw: Flaw) -> Failure:
    """Return the failure of a body of which nothing could be made."""
    return _permanent(flaw.reason, flaw.explanation)


def compute_seconds(limit_seconds: int) -> Failure:
    """Return the failure of a job that takes too much of the processor to look at an answer."""
    said = f"Looking at the answer takes more than {limit_seconds} seconds of the processor."
    return Failure("compute_limit", transient=False, explanation=said, is_ours=True)


def not_found_out(limit: Flaw, assertion: str, expected: str) -> Failure:
    """Return the failure of a check whose assertion is not judged because of a limit of ours."""
    said = f"Whether {assertion} {expected} holds was not found out: "
    said += limit.explanation[:1].lower() + limit.explanation[1:]
    return Failure(limit.reason, transient=False, explanation=said, is_ours=True)


def body_too_large(limit_bytes: int) -> Failure:
    """Return the failure of a body beyond its limit."""
    return _permanent("body_too_large", f"The body is larger than {limit_bytes:,} bytes.")


def unsupported_encoding(codings: Sequence[str]) -> Failure:
    """Return the failure of a body in content codings that we know by name alone."""
    named = ", ".join(codings[:MAX_NAMED_CODINGS])
    said = f"The body's Content-Encoding is {named}, which we did not ask for and cannot expand."
    return _permanent("unsupported_encoding", said)


def body_undecided(assertion: str, expected: str, *, limit_bytes: int) -> Failure:
    """Return the failure of a check whose own limit hides what an assertion is about.

    That says nothing about the URL, so it has no verdict.
    """
    said = (
        f"The body is larger than the {limit_bytes:,} bytes that this check reads, and those do not decide "
        f"whether {assertion} {expected} holds"
    )
    said += ": raise max_body_bytes." if limit_bytes < MAX_BODY_BYTES else "; no check reads more."
    return Failure("body_too_large", transient=False, explanation=said, is_ours=True)


def egress_denied(denied: EgressDenied) -> Failure:
    """Return the failure of a request that our own guard refused."""
    return _unreached(
        EGRESS_DENIED,
        f"Connections to this class of address are not allowed: {denied.address_class}.",
        transient=False,
        is_ours=True,
    )


def failure_of_status(status: int, *, asks_to_wait: bool = False) -> Failure | None:
    """Return what is wrong with an answer of this status; nothing is with 2xx.

    408, 425, 429 and every 5xx may pass, and so may any that says when to come again. 401, 403, 451 and 999
    are shut doors: others may see a page there, so we cannot tell. A 3xx comes here only when it leads
    nowhere.
    """
    if 200 <= status < 300:
        return None
    phrase = f"{status} {HTTPStatus(status).phrase}" if status in _KNOWN_STATUSES else str(status)
    may_pass = _may_pass(status)
    meaning = (
        ": it asks us to come again later" if asks_to_wait and not may_pass else _MEANING.get(status, "")
    )
    explanation = f"The host answered {phrase}{meaning}."
    return Failure(
        f"http_{status}",
        transient=may_pass or asks_to_wait,
        explanation=explanation,
        is_blocking=status in _BLOCKING_STATUSES,
    )


def unaccepted_status(status: int) -> Failure:
    """Return the failure of an answer that is a success, but not one that the job accepts."""
    explanation = f"The host answered {status}, which is not among the statuses that the job accepts."
    return Failure(f"http_{status}", transient=False, explanation=explanation)


def _may_pass(status: int) -> bool:
    return status in {408, 425, 429} or 500 <= status < 600


_KNOWN_STATUSES = frozenset(HTTPStatus)
# LinkedIn answers robots with 999.
_BLOCKING_STATUSES = frozenset({401, 403, 451, 999})

_MEANING: Mapping[int, str] = MappingProxyType(
    {
        304: ", as if we had a copy",
        401: ": it wants credentials",
        403: ": it does not let us in",
        404: ": there is nothing at this URL",
        410: ": what was at this URL is gone for good",
        429: ": we are asking too often",
        451: ": the law does not let it show this",
        999: ": it takes us for a robot that it does not want",
        503: ": it is overloaded or down for maintenance",
    }
)


def failure_of_error(error: Exception) -> Failure:
    """Return the failure that an exception of a request means, whichever library it came from."""
    if isinstance(error, ClientConnectorDNSError):
        return _of_dns(error.os_error)
    if isinstance(error, ClientConnectorCertificateError):
        return _bad_certificate(error.certificate_error)
    if isinstance(error, ClientResponseError | ClientPayloadError | ServerDisconnectedError):
        return _of_answer(error)
    for kind, failure in _BY_TYPE:
        if isinstance(error, kind):
            return failure
    if isinstance(error, ClientConnectorError):
        return _of_os_error(error.os_error, otherwise=CONNECT_FAILED)
    return _of_os_error(error, otherwise=CONNECTION_RESET) if isinstance(error, OSError) else REQUEST_FAILED


_BY_TYPE: tuple[tuple[type[Exception], Failure], ...] = (
    (ConnectionTimeoutError, CONNECT_TIMEOUT),
    (SocketTimeoutError, READ_TIMEOUT),
    (InvalidURL, INVALID_URL),
    (NonHttpUrlClientError, INVALID_URL),
    # The codec of host names raises it for an empty or too long label.
    (UnicodeError, INVALID_URL),
)


_CUT_HEAD = replace(
    CONNECTION_RESET, explanation="The host dropped the connection in the middle of the header of its answer."
)


def _bad_certificate(error: BaseException) -> Failure:
    return replace(BAD_CERTIFICATE, explanation=certificate_fault(error))


_BY_HANDSHAKE_END: Mapping[HandshakeEnd, Failure] = MappingProxyType(
    {
        HandshakeEnd.REFUSED: TLS_FAILED,
        HandshakeEnd.INTERRUPTED: TLS_INTERRUPTED,
        HandshakeEnd.WANTS_CERTIFICATE: CLIENT_CERTIFICATE_REQUIRED,
    }
)


def _of_answer(error: ClientResponseError | ClientPayloadError | ServerDisconnectedError) -> Failure:
    if isinstance(error, ServerDisconnectedError):
        # aiohttp adds the head of an answer if one had begun.
        return CONNECTION_RESET if isinstance(error.message, str) else _CUT_HEAD
    # aiohttp follows no redirects here, so it raises the first only for what it cannot parse. It makes up the
    # status 400 then; the server never sent it.
    said = error.message if isinstance(error, ClientResponseError) else error.args[0] if error.args else ""
    if isinstance(said, TooLarge):
        return replace(HEADER_TOO_LARGE, explanation=f"The header of the answer has {said}.")
    if isinstance(said, TooMuchFraming):
        return FRAMING_TOO_LARGE
    if isinstance(said, Fault):
        return replace(PROTOCOL_ERROR, explanation=f"{PROTOCOL_ERROR.explanation} {said}.")
    return PROTOCOL_ERROR if isinstance(error, ClientResponseError) else BODY_TRUNCATED


_BY_ERRNO: Mapping[int | None, Failure] = MappingProxyType(
    {
        errno.ECONNREFUSED: CONNECTION_REFUSED,
        errno.ECONNRESET: CONNECTION_RESET,
        errno.EPIPE: CONNECTION_RESET,
        errno.ECONNABORTED: CONNECTION_RESET,
        errno.ETIMEDOUT: CONNECT_TIMEOUT,
        errno.EHOSTUNREACH: UNREACHABLE,
        errno.EHOSTDOWN: UNREACHABLE,
        errno.ENETUNREACH: NO_ROUTE,
        errno.EADDRNOTAVAIL: NO_ROUTE,
        errno.EAFNOSUPPORT: NO_ROUTE,
        errno.EMFILE: WORKER_OVERLOADED,
        errno.ENFILE: WORKER_OVERLOADED,
        errno.ENOBUFS: WORKER_OVERLOADED,
        errno.ENOMEM: WORKER_OVERLOADED,
    }
)


def _of_os_error(error: OSError, *, otherwise: Failure) -> Failure:
    if isinstance(error, EgressDenied):
        return egress_denied(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _bad_certificate(error)
    if isinstance(error, ssl.SSLError | ClientOSError) and (end := end_of_handshake(error)):
        # With TLS 1.3 a host refuses a client after the handshake, and aiohttp passes on the words alone.
        is_sent = isinstance(error, ClientOSError) and end[0] is not HandshakeEnd.WANTS_CERTIFICATE
        failure = CONNECTION_RESET if is_sent else _BY_HANDSHAKE_END[end[0]]
        return replace(failure, explanation=end[1])
    if isinstance(error, ssl.SSLError):
        return TLS_INTERRUPTED
    return _BY_ERRNO.get(error.errno, otherwise)


_BY_DNS_CODE: Mapping[int, Failure] = MappingProxyType(
    {
        aiodns.error.ARES_ENOTFOUND: DNS_NO_SUCH_NAME,
        aiodns.error.ARES_EBADNAME: DNS_NO_SUCH_NAME,
        aiodns.error.ARES_ENODATA: DNS_NO_ADDRESS,
        aiodns.error.ARES_ETIMEOUT: DNS_TIMEOUT,
        aiodns.error.ARES_ECONNREFUSED: DNS_UNAVAILABLE,  # also when c-ares has no socket left
        aiodns.error.ARES_ENOMEM: DNS_UNAVAILABLE,
    }
)

_BY_RESOLVER_ERROR: Mapping[int | None, Failure] = MappingProxyType(
    {
        # A GNU extension; where it is missing, the next row wins.
        getattr(socket, "EAI_NODATA", socket.EAI_NONAME): DNS_NO_ADDRESS,
        socket.EAI_NONAME: DNS_NO_SUCH_NAME,
        socket.EAI_MEMORY: DNS_UNAVAILABLE,
    }
)


def _of_dns(error: BaseException) -> Failure:
    if isinstance(error, EgressDenied):
        return egress_denied(error)
    # getaddrinfo says it by an error number, our resolver by the cause.
    if isinstance(error, socket.gaierror):
        return _BY_RESOLVER_ERROR.get(error.errno, DNS_FAILED)
    cause = error.__cause__
    if isinstance(cause, aiodns.error.DNSError):
        return _BY_DNS_CODE.get(cause.args[0], DNS_FAILED)
    return DNS_FAILED
