"""TLS towards RabbitMQ and its management API: verified, unless their URL says that it need not be.

The parameters of a URL are aiormq's. It would notice a file that cannot be used when it connects, and not say
which one; read here, the file ends the process at its start.
"""

import logging
import ssl
from collections.abc import Collection, Iterable
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qsl

_ENCRYPTED = frozenset({"amqps", "https"})
_FILES = ("cafile", "certfile", "keyfile")
_NO_VERIFY = "no_verify_ssl"

# X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL.
_NOT_YET, _EXPIRED, _OTHER_NAMES = 9, 10, frozenset({62, 64})

logger = logging.getLogger(__name__)


class Exposure(StrEnum):
    """What somebody on the way to a server can do; the name of the log line that says so."""

    READ_IT = "connection_not_encrypted"
    TAKE_ITS_PLACE = "connection_not_verified"


def tls_context(url: str) -> ssl.SSLContext | None:
    """Return how to speak TLS with the server of a URL, or None if its scheme is without. It reads files.

    In the query, `cafile` names the authorities to trust instead of those of the system, `certfile` and
    `keyfile` a certificate of ours, and `no_verify_ssl=1` takes whoever answers.

    Raises:
        ValueError: a file cannot be used, or a parameter is wrong; names these, and nothing else of the URL.
    """
    given = _parameters(url)
    if _scheme(url) not in _ENCRYPTED:
        for name in given:
            raise ValueError(f"{name} is for amqps:// and https://")
        return None
    for name in _FILES:
        if name in given:
            _check_readable(name, given[name])
    context = _trusting(given.get("cafile"))
    if "certfile" in given or "keyfile" in given:
        _show_ours(context, given)
    if _is_unverified(given):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def exposure(url: str) -> Exposure | None:
    """Return what the way to the server of a URL is open to, if the server is another machine."""
    if _scheme(url) not in _ENCRYPTED:
        return Exposure.READ_IT
    return Exposure.TAKE_ITS_PLACE if _is_unverified(_parameters(url)) else None


def warn_of_exposure(
    found: Exposure | None, *, setting: str, hosts: Iterable[str], unwarned: Collection[str]
) -> None:
    """Log which servers of a setting are other machines, if the way there is open.

    Args:
        found: What it is open to; None: nothing is logged.
        setting: The variable that names the servers.
        unwarned: Those that the operator has said are safe to reach all the same.
    """
    elsewhere = [host for host in hosts if not is_this_machine(host) and host not in unwarned]
    if found is not None and elsewhere:
        logger.warning(found.value, extra={"setting": setting, "hosts": elsewhere})


def is_this_machine(host: str) -> bool:
    """Return whether a host is named as this machine: a loopback address, `localhost`, a socket's folder."""
    if not host or host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def distrust_of(error: ssl.SSLCertVerificationError, place: str) -> str:
    """Return in a sentence why the certificate of a place is not trusted, and what to look at."""
    if error.verify_code == _EXPIRED:
        return f"A certificate of {place} has expired: its own, or that of an authority above it."
    if error.verify_code == _NOT_YET:
        return f"A certificate of {place} is not valid yet: look at the clocks of both machines."
    if error.verify_code in _OTHER_NAMES:
        return f"The certificate of {place} is for other names: {error.verify_message}"
    return (
        f"The certificate of {place} is not trusted: {error.verify_message}. The query of the URL names the"
        " file of its authority, cafile=."
    )


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _parameters(url: str) -> dict[str, str]:
    """Return those of our parameters that a URL has; several hosts in it are no hindrance."""
    query = url.partition("?")[2].partition("#")[0]
    return {name: value for name, value in parse_qsl(query) if name in {*_FILES, _NO_VERIFY}}


def _is_unverified(given: dict[str, str]) -> bool:
    # aiormq would take `false` for a yes.
    value = given.get(_NO_VERIFY, "0")
    if value not in {"0", "1"}:
        raise ValueError(f"{_NO_VERIFY} must be 0 or 1")
    return value == "1"


def _check_readable(name: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: cannot read {path}: {error.strerror}") from error


def _trusting(cafile: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cafile)
    except ssl.SSLError as error:
        raise ValueError(f"cafile: {cafile} has no certificate in PEM") from error


def _show_ours(context: ssl.SSLContext, given: dict[str, str]) -> None:
    certificate, key = given.get("certfile"), given.get("keyfile")
    if certificate is None:
        raise ValueError("keyfile is of no use without certfile")
    try:
        # Without a password OpenSSL would ask at the terminal for that of a locked key.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ValueError(
            f"certfile: {certificate} and its key are no pair in PEM, or the key has a password"
        ) from error
