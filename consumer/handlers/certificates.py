"""What a certificate says, for people. OpenSSL verifies; this only reads."""

import asyncio
import ssl
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import aiohappyeyeballs
from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from consumer.http.handshakes import load_certificate
from consumer.http.recording import SocketFactory
from consumer.http.text import bounded_text
from shared.kinds.check import Certificate

MAX_NAME_LENGTH = 300
MAX_NAMES = 20
_DAY_SECONDS = 86_400.0


def read_certificate(der: bytes, *, protocol: str | None, trusted: bool, now: datetime) -> Certificate | None:
    """Return what a certificate says, or None when it cannot be read.

    `ssl` says nothing of a certificate that was not verified, so `cryptography` reads it.

    Args:
        der: As the peer sent it; may be anybody's.
        now: Aware.
    """
    read = load_certificate(der)
    if read is None:
        return None
    try:
        # It warns of names that break the rules; those are the peer's fault.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return Certificate(
                subject=_name(read.subject),
                issuer=_name(read.issuer),
                not_before=_text(read.not_valid_before_utc),
                not_after=_text(read.not_valid_after_utc),
                days_left=round((read.not_valid_after_utc - now).total_seconds() / _DAY_SECONDS, 2),
                names=_names(read),
                protocol=protocol,
                trusted=trusted,
            )
    except (ValueError, TypeError, OverflowError):
        return None


async def asks_for_certificate(
    addresses: Sequence[tuple[Any, ...]], host: str, *, make_socket: SocketFactory
) -> bool:
    """Return whether a host asks clients for a certificate, as hosts do that hang up on those without one.

    It takes one more handshake, with the same addresses and through the same guard. That handshake verifies
    nothing, so nothing is sent over it: it ends with the handshake.

    Raises:
        OSError: there was no connection, or the guard denied it.
    """
    seen: set[tuple[int, int]] = set()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Not public: where it is missing, a test fails, and the host's wish is just not noticed.
    context._msg_callback = lambda *message: seen.add(message[3:5])  # type: ignore[attr-defined]  # noqa: SLF001
    connected = await aiohappyeyeballs.start_connection(
        addr_infos=cast("Any", list(addresses)), socket_factory=make_socket
    )
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, sock=connected, ssl=context, server_hostname=host
        )
        transport.abort()
    except OSError:
        connected.close()  # The host may hang up during this one, too.
    except BaseException:
        connected.close()
        raise
    return _CERTIFICATE_REQUEST in seen


_CERTIFICATE_REQUEST = (22, 13)
"""The sort of a record, and of a message in it (RFC 8446 section 4)."""


def _name(name: x509.Name) -> str:
    return bounded_text(name.rfc4514_string(), MAX_NAME_LENGTH)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return []
    names = extension.value
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return [bounded_text(name, MAX_NAME_LENGTH) for name in (*hosts, *addresses)][:MAX_NAMES]
