"""TLS handshakes that fail: what the host showed until then, and why they failed, in words for people.

The words are ours and OpenSSL's, never the host's. This knows no reasons and no verdicts.
"""

import re
import ssl
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import cast

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning


class WitnessedHandshake(ssl.SSLObject):
    """A handshake whose error carries the certificates that the host sent; see `shown_certificates`."""

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.__dict__["shown_certificates"] = self._chain()
            raise

    def _chain(self) -> tuple[bytes, ...]:
        if hasattr(self, "get_unverified_chain"):  # Public since Python 3.13.
            return tuple(self.get_unverified_chain())
        chain = self._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
        return tuple(ssl.PEM_cert_to_DER_cert(shown.public_bytes()) for shown in chain)


def shown_certificates(error: BaseException) -> tuple[bytes, ...]:
    """Return the certificates that a host sent in a handshake that failed, DER, its own first."""
    return cast("tuple[bytes, ...]", error.__dict__.get("shown_certificates", ()))


class HandshakeEnd(Enum):
    """What a handshake that failed means."""

    REFUSED = auto()
    """The host and we will not agree, until somebody changes one of us."""
    INTERRUPTED = auto()
    WANTS_CERTIFICATE = auto()
    """Of ours; we have none."""


_VERSIONS = "we speak TLS 1.2 and 1.3"
_ENDED = "The host ended the TLS connection"
_NO_CERTIFICATE = f"{_ENDED}: it demands a client certificate, and we have none"
_NO_TLS = "What the host sends on this port is not TLS"
_WE_ENDED = "We ended the TLS connection"
_TOO_WEAK = f"{_WE_ENDED}: the host's key or signature is too weak"
_TOO_OLD = f"{_WE_ENDED}: the host's version of TLS is too old; {_VERSIONS}"

# By how OpenSSL names an error, without the prefix of its history; an alert is what the host says (RFC 8446
# section 6).
_REFUSALS: Mapping[str, str] = MappingProxyType(
    {
        "ALERT_PROTOCOL_VERSION": f"{_ENDED}: it accepts no version of TLS that we offer; {_VERSIONS}",
        "ALERT_HANDSHAKE_FAILURE": f"{_ENDED}: it accepts none of the ciphers and parameters that we offer",
        "ALERT_INSUFFICIENT_SECURITY": f"{_ENDED}: it demands stronger ciphers than we offer",
        "ALERT_UNRECOGNIZED_NAME": f"{_ENDED}: it serves no site of this name over TLS",
        "UNRECOGNIZED_NAME": f"{_ENDED}: it serves no site of this name over TLS",
        "ALERT_NO_APPLICATION_PROTOCOL": f"{_ENDED}: it accepts no application protocol that we offer",
        "WRONG_VERSION_NUMBER": _NO_TLS,
        "HTTP_REQUEST": _NO_TLS,
        "PACKET_LENGTH_TOO_LONG": _NO_TLS,
        "RECORD_LAYER_FAILURE": _NO_TLS,
        "UNSUPPORTED_PROTOCOL": _TOO_OLD,
        "VERSION_TOO_LOW": _TOO_OLD,
        "WRONG_SSL_VERSION": _TOO_OLD,
        "DH_KEY_TOO_SMALL": _TOO_WEAK,
        "EE_KEY_TOO_SMALL": _TOO_WEAK,
        "WRONG_SIGNATURE_TYPE": _TOO_WEAK,
        "WRONG_CIPHER_RETURNED": f"{_WE_ENDED}: the host chose a cipher that we did not offer",
        # OpenSSL's limit, 100 KiB for all that a host sends.
        "EXCESSIVE_MESSAGE_SIZE": f"{_WE_ENDED}: the host's certificates are larger than we take",
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": f"{_WE_ENDED}: the host lacks RFC 5746",
    }
)
_OF_OUR_CERTIFICATE = frozenset(
    {
        "ALERT_CERTIFICATE_REQUIRED",
        "ALERT_BAD_CERTIFICATE",
        "ALERT_UNSUPPORTED_CERTIFICATE",
        "ALERT_CERTIFICATE_UNKNOWN",
        "ALERT_ACCESS_DENIED",
        "ALERT_UNKNOWN_CA",
    }
)
_REASON = re.compile(r"\[SSL(?:: (\w+))?\]")
_PREFIX = re.compile(r"^(?:TLSV1|TLSV13|SSLV3|SSL|TLS)_")


def end_of_handshake(error: BaseException) -> tuple[HandshakeEnd, str] | None:
    """Return what an error of TLS means, and which side says so; None if it is no error of TLS."""
    match = _REASON.search(str(error))
    if match is None:
        return None
    name = _PREFIX.sub("", match[1] or "")
    # Ciphers were agreed on before the host showed its certificate; what it misses then is one of ours.
    is_late = name == "ALERT_HANDSHAKE_FAILURE" and bool(shown_certificates(error))
    if is_late or name in _OF_OUR_CERTIFICATE:
        return HandshakeEnd.WANTS_CERTIFICATE, f"{_NO_CERTIFICATE}."
    if known := _REFUSALS.get(name):
        return HandshakeEnd.REFUSED, f"{known}."
    if name == "UNEXPECTED_EOF_WHILE_READING":
        return HandshakeEnd.INTERRUPTED, "The host hung up in the middle of TLS."
    words = name.replace("_", " ").lower()
    if words.startswith("alert "):
        return HandshakeEnd.INTERRUPTED, f"{_ENDED} with the {words}."
    return HandshakeEnd.INTERRUPTED, f"{_WE_ENDED}: OpenSSL says {words or 'nothing more'}."


_BY_CODE: Mapping[int, str] = MappingProxyType(
    {
        7: "The signature of the host's certificate, or of one above it, is wrong.",
        18: "The host's certificate is self-signed: no authority we trust vouches for it.",
        19: "The host's certificate was issued by an authority that we do not trust.",
        24: "A certificate above the host's is not one of an authority.",
        26: "The host's certificate is not meant for servers.",
        62: "The host's certificate is for another name.",
        64: "The host's certificate is for another address.",
        66: "The key of the host's certificate is too weak.",
        67: "The key of an authority above the host's certificate is too weak.",
        68: "The signature of a certificate above the host's is too weak.",
    }
)


def certificate_fault(error: BaseException) -> str:
    """Return what is wrong with the certificates of a host: OpenSSL says what, and a look at them which."""
    code, shown = getattr(error, "verify_code", 0), shown_certificates(error)
    if code in {9, 10}:
        return _fault_in_time(shown, is_early=code == 9)
    if code in {2, 20, 21}:
        return _unknown_issuer(shown)
    message = getattr(error, "verify_message", None)
    return _BY_CODE.get(code, f"The host's certificate cannot be verified: {message or 'no more is known'}.")


def _fault_in_time(shown: Sequence[bytes], *, is_early: bool) -> str:
    said = "is not valid yet" if is_early else "has expired"
    now = datetime.now(UTC)
    own, *others = [load_certificate(der) for der in shown] or [None]
    if own is None:
        return f"The host's certificate, or one above it, {said}."
    if _is_out_of_time(own, now):
        return f"The host's certificate {said}."
    if any(other is not None and _is_out_of_time(other, now) for other in others):
        return f"An intermediate certificate that the host sends {said}; the host's own is valid."
    return f"The certificate of an authority above the host's {said}; the host's own is valid."


def _is_out_of_time(certificate: x509.Certificate, now: datetime) -> bool:
    return not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _unknown_issuer(shown: Sequence[bytes]) -> str:
    certificates = [one for one in map(load_certificate, shown) if one is not None]
    if not certificates:
        return "The host's certificate was issued by an authority that we do not know."
    if all(one.subject != certificates[0].issuer for one in certificates):
        return (
            "The host does not send the certificate of who issued its own: an intermediate one is missing, "
            "or the issuer is an authority that we do not trust."
        )
    return "The certificates that the host sends lead to no authority that we trust."


def load_certificate(der: bytes) -> x509.Certificate | None:
    """Return a certificate as `cryptography` reads it; None when it cannot. It may be anybody's."""
    try:
        # It warns of serial numbers and versions that break the rules; those are the host's fault.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_der_x509_certificate(der)
    except (ValueError, TypeError, OverflowError, x509.InvalidVersion):
        return None
