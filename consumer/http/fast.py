"""The fast way to send a request: below aiohttp's session, whose parts it puts together itself.

`ClientSession.request` also looks for cookies, proxies, credentials, traces, middlewares and redirects, which
are ours or nobody's here; that is a fifth of what a request costs. aiohttp does not document all names that
this uses, so its version is pinned. `consumer.http.plain` does the same with public names only, and
`RETRIEVER_HTTP_PLAIN` puts it in the place of this.
"""

from collections.abc import Mapping

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from consumer.http.answers import HEADER_BYTES, HEADER_FIELDS, READ_BUFFER_BYTES
from consumer.http.plain import TIMEOUT
from consumer.http.recording import RecordedRequest, Recording


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
    sent = _merged(session.headers, headers) if headers else session.headers
    request = RecordedRequest(method, url, headers=sent, data=body, session=session)
    request.recording = recording
    assert session.connector is not None
    try:
        connection = await session.connector.connect(request, traces=[], timeout=TIMEOUT)
    except TimeoutError as error:
        raise aiohttp.ConnectionTimeoutError("no connection in time") from error
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


def _merged(ours: Mapping[str, str], job: Mapping[str, str]) -> CIMultiDict[str]:
    merged = CIMultiDict(ours)
    merged.update(job)
    return merged
