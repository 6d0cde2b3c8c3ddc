"""One request on the connections of a worker: of what aiohttp's session does, only what is wanted.

`ClientSession.request` looks for cookies, proxies, credentials, traces, middlewares and redirects, which
are all ours or nobody's here, and that is a fifth of what a request costs; and it repeats what was dropped,
in silence (aiohttp issue 10790). Here its parts are put together without that. aiohttp's documentation does
not promise all of their names, so it is pinned; the tests of all handlers come this way.
"""

from collections.abc import Mapping

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from consumer.handlers.recording import current_recording

CONNECT_SECONDS = 10.0
"""For each address, TLS included: the fourth SYN goes out after 7 s, so more is hoping."""

HEADER_BYTES = 32_768
"""One field; Content-Security-Policy and Set-Cookie go beyond aiohttp's 8,190 on the open web."""

HEADER_FIELDS = 256
READ_BUFFER_BYTES = 65_536

# RFC 9110 section 9.2.2.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# There is no limit of the whole, because each handler bounds its attempt.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)


async def ask(
    session: aiohttp.ClientSession, method: str, url: URL, *, headers: Mapping[str, str], body: bytes | None
) -> aiohttp.ClientResponse:
    """Return the answer to one request, its body unread.

    What was dropped on a kept connection is asked again, once: the host may have closed it just then
    (RFC 9112 section 9.3.1). On a new one that would double the load of every host that answers by hanging
    up (blackbox_exporter issue 1453).

    Raises:
        aiohttp.ClientError: there was none.
        OSError: there was none, either.
    """
    try:
        return await _ask_once(session, method, url, headers, body)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        if method not in _IDEMPOTENT or not current_recording().is_reused:
            raise
    return await _ask_once(session, method, url, headers, body)


async def _ask_once(
    session: aiohttp.ClientSession, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
) -> aiohttp.ClientResponse:
    said = session.headers
    if headers:
        said = CIMultiDict(said)
        said.update(headers)
    request = aiohttp.ClientRequest(method, url, headers=said, data=body, session=session)
    connection = await _connect(session, request)
    try:
        assert connection.protocol is not None
        connection.protocol.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADER_FIELDS,
        )
        answer = await request.send(connection)
        try:
            return await answer.start(connection)
        except BaseException:
            answer.close()
            raise
    except BaseException:
        connection.close()
        raise


async def _connect(
    session: aiohttp.ClientSession, request: aiohttp.ClientRequest
) -> aiohttp.connector.Connection:
    assert session.connector is not None
    try:
        return await session.connector.connect(request, traces=[], timeout=_TIMEOUT)
    except TimeoutError as error:
        raise aiohttp.ConnectionTimeoutError("no connection in time") from error
