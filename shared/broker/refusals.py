"""Why a connection to RabbitMQ did not come up, in a sentence: place, user, virtual host, or TLS."""

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

_TLS = "amqps"
_HUNG_UP = "unexpectedly closed"


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
        case ssl.SSLCertVerificationError(verify_message=words):
            said = f"The certificate of {place} is not trusted: {words}."
        case ssl.SSLError(reason=words):
            said = f"{place} does not speak TLS as amqps:// needs it (RabbitMQ does on 5671): {words}."
        case TimeoutError():
            said = f"{place} did not answer within {timeout_seconds:g} s."
        case _ if _HUNG_UP in str(error) or isinstance(
            error, ProtocolSyntaxError | IncompatibleProtocolError
        ):
            said = (
                f"What answers at {place} hung up before it said that it is RabbitMQ: it is starting or"
                f" stopping, or {place} is not its port for {url.scheme}://."
            )
        case _:
            said = f"{place}: {type(error).__name__}: {_text(error)}"
    return said


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
