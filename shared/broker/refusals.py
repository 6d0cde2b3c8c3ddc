"""Why a connection to RabbitMQ did not come up, in a sentence: place, user, virtual host, or TLS."""

import re
import ssl
import traceback
from socket import gaierror
from urllib.parse import unquote

from aio_pika.exceptions import (
    IncompatibleProtocolError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from pamqp.commands import Connection
from yarl import URL

from shared.tls import distrust_of

_TLS = "amqps"
_HUNG_UP = "unexpectedly closed"
_OTHER_PROTOCOL = (ProtocolSyntaxError, IncompatibleProtocolError)
# Alerts of TLS (RFC 8446 section 6.2), as OpenSSL names them.
_OF_OUR_CERTIFICATE = re.compile(
    r"ALERT_(CERTIFICATE_|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)"
)


class NotConnected(ConnectionError):
    """No connection came up; the message says why, and what to look at."""


def reason_of(error: BaseException, url: URL, *, timeout_seconds: float) -> str:
    """Return why an attempt to connect failed.

    Args:
        error: What the library raised.
        url: Where to; its password is not shown.
        timeout_seconds: How long the attempt could take.
    """
    place = f"{url.host}:{url.port or (5671 if url.scheme == _TLS else 5672)}"
    if isinstance(error, ProbableAuthenticationError):
        return f"RabbitMQ at {place} refused the user '{url.user or 'guest'}' or the password: {_text(error)}"
    if closed := _refusal(error):
        return f"RabbitMQ at {place} refused the virtual host '{_vhost(url)}': {closed.reply_text}"
    match error.__cause__ or error:
        case ConnectionRefusedError():
            said = f"Nothing listens at {place}."
        case gaierror(strerror=words):
            said = f"The host {url.host} has no address: {words}."
        case ssl.SSLCertVerificationError() as distrust:
            said = distrust_of(distrust, place)
        case ssl.SSLError(reason=words):
            said = _no_tls(place, str(words))
        case TimeoutError():
            said = f"{place} did not answer within {timeout_seconds:g} s."
        case ConnectionResetError() | ConnectionAbortedError():
            said = _hung_up(place, url)
        case _ if _HUNG_UP in str(error) or isinstance(error, _OTHER_PROTOCOL):
            said = _hung_up(place, url)
        case _:
            said = f"{place}: {type(error).__name__}: {_text(error)}"
    return said


def _no_tls(place: str, words: str) -> str:
    if _OF_OUR_CERTIFICATE.search(words):
        return (
            f"RabbitMQ at {place} demands a client certificate, or does not trust ours: {words}. The query"
            " of the URL names it and its key, certfile= and keyfile=."
        )
    if "ALERT" in words:
        return (
            f"{place} ended TLS: {words}. It may accept none of our versions (1.2 and 1.3) and ciphers, or"
            " demand a client certificate."
        )
    return f"{place} does not speak TLS as amqps:// needs it (RabbitMQ does on 5671): {words}."


def _hung_up(place: str, url: URL) -> str:
    demand = " demands a client certificate," if url.scheme == _TLS else ""
    return (
        f"What answers at {place} hung up before it said that it is RabbitMQ: it is starting or stopping,"
        f"{demand} or {place} is not its port for {url.scheme}://."
    )


def _refusal(error: BaseException) -> Connection.Close | None:
    """Return what RabbitMQ said when it was asked for the virtual host.

    aiormq expects another frame, and its error shows this one as an object with an address in memory.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(said := frame.f_locals.get("frame"), Connection.Close):
            return said
    return None


def _vhost(url: URL) -> str:
    return unquote(url.raw_path[1:]) or "/"


def _text(error: BaseException) -> str:
    return str(error.args[0] if error.args else error)
