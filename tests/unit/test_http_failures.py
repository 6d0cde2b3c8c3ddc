"""The table from errors and statuses to reasons."""

import errno
import socket
import ssl
from dataclasses import replace

import aiodns.error
import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from consumer.egress import AddressClass, EgressDenied
from consumer.http import failures
from consumer.http.failures import Failure, failure_of_error, failure_of_status

KEY = ConnectionKey("example.org", 443, True, True, None, None, None)


def _connector_error(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, error)


def _dns_error(error: OSError, cause: Exception | None = None) -> aiohttp.ClientConnectorDNSError:
    error.__cause__ = cause
    return aiohttp.ClientConnectorDNSError(KEY, error)


def _unparsable() -> aiohttp.ClientResponseError:
    url = URL("http://example.org/")
    info = aiohttp.RequestInfo(url, "GET", CIMultiDictProxy(CIMultiDict()), url)
    return aiohttp.ClientResponseError(info, (), status=400, message="Expected HTTP/")


@pytest.mark.parametrize("status", [200, 201, 204, 206, 299])
def test_success_is_no_failure(status: int) -> None:
    assert failure_of_status(status) is None


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
def test_statuses_that_may_pass_are_transient(status: int) -> None:
    failure = failure_of_status(status)

    assert failure is not None
    assert (failure.reason, failure.transient) == (f"http_{status}", True)


def test_a_status_that_stays_may_pass_when_the_host_says_when_to_come_again() -> None:
    failure = failure_of_status(403, asks_to_wait=True)

    assert failure is not None
    assert (failure.reason, failure.transient, failure.verdict) == ("http_403", True, "down")
    assert "come again later" in failure.explanation


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 405, 410, 418, 451, 499, 600, 999])
def test_statuses_that_stay_are_permanent(status: int) -> None:
    failure = failure_of_status(status)

    assert failure is not None
    assert (failure.reason, failure.transient) == (f"http_{status}", False)
    assert str(status) in failure.explanation


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (aiohttp.ConnectionTimeoutError(), failures.CONNECT_TIMEOUT),
        (aiohttp.SocketTimeoutError(), failures.READ_TIMEOUT),
        (
            _connector_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
            failures.CONNECTION_REFUSED,
        ),
        (_connector_error(OSError(errno.EHOSTUNREACH, "no route")), failures.UNREACHABLE),
        (_connector_error(OSError(errno.ETIMEDOUT, "timed out")), failures.CONNECT_TIMEOUT),
        (_connector_error(OSError("Multiple exceptions: …")), failures.CONNECT_FAILED),
        (aiohttp.ServerDisconnectedError(), failures.CONNECTION_RESET),
        (aiohttp.ClientConnectionResetError("closing"), failures.CONNECTION_RESET),
        (aiohttp.ClientPayloadError(), failures.BODY_TRUNCATED),
        (_unparsable(), failures.PROTOCOL_ERROR),
        (aiohttp.InvalidURL("http://"), failures.INVALID_URL),
        (UnicodeError("label too long"), failures.INVALID_URL),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("bad")),
            replace(
                failures.BAD_CERTIFICATE,
                explanation="The host's certificate cannot be verified: no more is known.",
            ),
        ),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "bad")), failures.TLS_INTERRUPTED),
        (_dns_error(socket.gaierror(socket.EAI_NONAME, "unknown")), failures.DNS_NO_SUCH_NAME),
        (_dns_error(socket.gaierror(socket.EAI_AGAIN, "later")), failures.DNS_FAILED),
        (_dns_error(OSError(None, "x"), aiodns.error.DNSError(4, "not found")), failures.DNS_NO_SUCH_NAME),
        (_dns_error(OSError(None, "x"), aiodns.error.DNSError(1, "no data")), failures.DNS_NO_ADDRESS),
        (_dns_error(OSError(None, "x"), aiodns.error.DNSError(12, "timeout")), failures.DNS_TIMEOUT),
        (_dns_error(OSError(None, "x"), aiodns.error.DNSError(3, "SERVFAIL")), failures.DNS_FAILED),
        (_dns_error(OSError(None, "x"), aiodns.error.DNSError(11, "no server")), failures.DNS_UNAVAILABLE),
        (
            _dns_error(EgressDenied(AddressClass.PRIVATE)),
            failures.egress_denied(EgressDenied(AddressClass.PRIVATE)),
        ),
        (_dns_error(OSError(None, "DNS lookup failed")), failures.DNS_FAILED),
        (aiohttp.ClientError("what?"), failures.REQUEST_FAILED),
    ],
)
def test_each_error_has_its_own_reason(error: Exception, failure: Failure) -> None:
    assert failure_of_error(error) == failure


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_our_own_exhaustion_is_never_blamed_on_the_target(number: int) -> None:
    failure = failure_of_error(_connector_error(OSError(number, "too many")))

    assert failure is failures.WORKER_OVERLOADED
    assert failure.is_ours
    assert failure.transient


def test_a_denied_address_is_permanent_and_named_by_its_class() -> None:
    failure = failure_of_error(_connector_error(EgressDenied(AddressClass.METADATA)))

    assert (failure.reason, failure.transient, failure.is_ours) == ("egress_denied", False, True)
    assert "cloud metadata service" in failure.explanation


def test_a_made_up_status_400_is_not_reported_as_the_status_of_the_server() -> None:
    failure = failure_of_error(_unparsable())

    assert failure.reason == "protocol_error"
    assert "400" not in failure.explanation


def test_a_permanent_failure_carries_no_wait() -> None:
    assert failures.REDIRECT_LOOP.as_outcome(retry_after_seconds=30).retry_after_seconds is None
    assert failures.CONNECTION_RESET.as_outcome(retry_after_seconds=30).retry_after_seconds == 30


@pytest.mark.parametrize(
    ("words", "reason", "explanation"),
    [
        (
            "TLSV1_ALERT_PROTOCOL_VERSION",
            "tls_failed",
            (
                "The host ended the TLS connection: it accepts no version of TLS that we offer; "
                "we speak TLS 1.2 and 1.3."
            ),
        ),
        (
            "UNSUPPORTED_PROTOCOL",
            "tls_failed",
            "We ended the TLS connection: the host's version of TLS is too old; we speak TLS 1.2 and 1.3.",
        ),
        ("WRONG_VERSION_NUMBER", "tls_failed", "What the host sends on this port is not TLS."),
        (
            "TLSV1_ALERT_USER_CANCELLED",
            "tls_interrupted",
            "The host ended the TLS connection with the alert user cancelled.",
        ),
        (
            "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
            "tls_interrupted",
            "We ended the TLS connection: OpenSSL says decryption failed or bad record mac.",
        ),
        ("UNEXPECTED_EOF_WHILE_READING", "tls_interrupted", "The host hung up in the middle of TLS."),
    ],
)
def test_an_error_of_tls_says_which_side_ended_it(words: str, reason: str, explanation: str) -> None:
    error = ssl.SSLError(1, f"[SSL: {words}] whatever (_ssl.c:1006)")

    failure = failure_of_error(aiohttp.ClientConnectorSSLError(KEY, error))

    assert (failure.reason, failure.explanation) == (reason, explanation)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "client_certificate_required"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "client_certificate_required"),
        ("TLSV1_ALERT_INTERNAL_ERROR", "connection_reset"),
    ],
)
def test_an_alert_after_the_handshake_is_read_from_the_words_of_aiohttp(words: str, reason: str) -> None:
    failure = failure_of_error(aiohttp.ClientOSError(1, f"[SSL: {words}] whatever (_ssl.c:2580)"))

    assert failure.reason == reason
