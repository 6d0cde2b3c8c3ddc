"""The plain way to send a request: aiohttp's session and public names only.

It is the twin of `consumer.http.fast` and passes the same tests. With `RETRIEVER_HTTP_PLAIN` a worker sends
everything this way, so that a new release of aiohttp can be taken on the day it comes out.
"""

from collections.abc import Mapping

import aiohttp
from yarl import URL

from consumer.http.answers import HEADER_BYTES, HEADER_FIELDS, READ_BUFFER_BYTES
from consumer.http.recording import RecordedRequest, Recording

CONNECT_SECONDS = 10.0
"""For each address, TLS included: the fourth SYN goes out after 7 s, so waiting longer is in vain."""

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
"""Without a limit of the whole, because each handler bounds its attempt."""


async def send_request(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    recording: Recording,
) -> aiohttp.ClientResponse:
    """Return the answer to one request, its body unread. See `consumer.http.session.SendRequest`."""

    async def record(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        assert isinstance(request, RecordedRequest)
        request.recording = recording
        try:
            return await handler(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise _Dropped(error) from error

    try:
        return await session.request(
            method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            auto_decompress=False,
            timeout=TIMEOUT,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADER_FIELDS,
            middlewares=(record,),
        )
    except _Dropped as dropped:
        raise dropped.error from None


class _Dropped(Exception):
    """Carries an error past the session, which would repeat the request in silence (aiohttp issue 10790)."""

    def __init__(self, error: aiohttp.ClientError) -> None:
        super().__init__()
        self.error = error
