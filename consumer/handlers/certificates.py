"""What a certificate says, for people. Verifying is OpenSSL's; this only reads."""

import warnings
from datetime import UTC, datetime

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from consumer.handlers.texts import bounded_text
from shared.kinds.check import Certificate

MAX_NAME_LENGTH = 300
MAX_NAMES = 20
_DAY_SECONDS = 86_400.0


def read_certificate(der: bytes, *, protocol: str | None, trusted: bool, now: datetime) -> Certificate | None:
    """Return what a certificate says, or None when it cannot be read.

    `ssl` itself tells nothing of one that was not verified, so it is read with `cryptography`.

    Args:
        der: As the peer sent it; may be anybody's.
        now: Aware.
    """
    try:
        # It warns of serial numbers and versions that are against the rules; those are the peer's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            read = x509.load_der_x509_certificate(der)
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
    except (ValueError, TypeError, OverflowError, x509.InvalidVersion):
        return None


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
