"""What the exceptions of aiohttp, of the DNS and of sockets mean, as rows of the table of failures."""

import errno
import socket
import ssl
from collections.abc import Mapping
from types import MappingProxyType

import aiodns.error
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientPayloadError,
    ClientResponseError,
    ConnectionTimeoutError,
    InvalidURL,
    NonHttpUrlClientError,
    ServerDisconnectedError,
    SocketTimeoutError,
)

from consumer.egress import EgressDenied
from consumer.handlers.failures import (
    BODY_TRUNCATED,
    CONNECT_FAILED,
    CONNECT_TIMEOUT,
    CONNECTION_REFUSED,
    CONNECTION_RESET,
    DNS_FAILED,
    DNS_NO_ADDRESS,
    DNS_NO_SUCH_NAME,
    DNS_TIMEOUT,
    DNS_UNAVAILABLE,
    INVALID_URL,
    NO_ROUTE,
    PROTOCOL_ERROR,
    READ_TIMEOUT,
    REQUEST_FAILED,
    TLS_FAILED,
    UNREACHABLE,
    WORKER_OVERLOADED,
    Failure,
    bad_certificate,
    egress_denied,
)


def failure_of_error(error: Exception) -> Failure:
    """Return what an exception of a request means, whatever library it came from."""
    if isinstance(error, ClientConnectorDNSError):
        return _of_dns(error.os_error)
    if isinstance(error, ClientConnectorCertificateError):
        return bad_certificate(getattr(error.certificate_error, "verify_code", 0))
    for kind, failure in _BY_TYPE:
        if isinstance(error, kind):
            return failure
    if isinstance(error, ClientConnectorError):
        return _of_os_error(error.os_error, otherwise=CONNECT_FAILED)
    return _of_os_error(error, otherwise=CONNECTION_RESET) if isinstance(error, OSError) else REQUEST_FAILED


_BY_TYPE: tuple[tuple[type[Exception], Failure], ...] = (
    (ConnectionTimeoutError, CONNECT_TIMEOUT),
    (SocketTimeoutError, READ_TIMEOUT),
    (ServerDisconnectedError, CONNECTION_RESET),
    # Redirects are ours, so aiohttp raises this for what it cannot parse, and for nothing else. Its
    # `status` is 400 then, made up: the server never sent it.
    (ClientResponseError, PROTOCOL_ERROR),
    (ClientPayloadError, BODY_TRUNCATED),
    (InvalidURL, INVALID_URL),
    (NonHttpUrlClientError, INVALID_URL),
    # A host with an empty or too long label, from the codec that resolvers put names through.
    (UnicodeError, INVALID_URL),
)


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
        return bad_certificate(getattr(error, "verify_code", 0))
    if isinstance(error, ssl.SSLError):
        return TLS_FAILED
    return _BY_ERRNO.get(error.errno, otherwise)


_BY_DNS_CODE: Mapping[int, Failure] = MappingProxyType(
    {
        aiodns.error.ARES_ENOTFOUND: DNS_NO_SUCH_NAME,
        aiodns.error.ARES_EBADNAME: DNS_NO_SUCH_NAME,
        aiodns.error.ARES_ENODATA: DNS_NO_ADDRESS,
        aiodns.error.ARES_ETIMEOUT: DNS_TIMEOUT,
        aiodns.error.ARES_ECONNREFUSED: DNS_UNAVAILABLE,  # also what it says when it has no socket left
        aiodns.error.ARES_ENOMEM: DNS_UNAVAILABLE,
    }
)

_BY_RESOLVER_ERROR: Mapping[int | None, Failure] = MappingProxyType(
    {
        # A GNU extension that not every platform has; where it is missing, the next row wins.
        getattr(socket, "EAI_NODATA", socket.EAI_NONAME): DNS_NO_ADDRESS,
        socket.EAI_NONAME: DNS_NO_SUCH_NAME,
        socket.EAI_MEMORY: DNS_UNAVAILABLE,
    }
)


def _of_dns(error: BaseException) -> Failure:
    if isinstance(error, EgressDenied):
        return egress_denied(error)
    # Resolvers say it differently: getaddrinfo by its own number, ours by the cause.
    if isinstance(error, socket.gaierror):
        return _BY_RESOLVER_ERROR.get(error.errno, DNS_FAILED)
    cause = error.__cause__
    if isinstance(cause, aiodns.error.DNSError):
        return _BY_DNS_CODE.get(cause.args[0], DNS_FAILED)
    return DNS_FAILED
