"""How an operation answers: a JSON document at once, or a stream that stops when the client leaves."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from producer.api.guard import JSON_TYPE

Record = TypeVar("Record")


def json_response(
    document: BaseModel | bytes,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an answer with a document as its body; a large one comes as JSON that a thread has made."""
    body = document if isinstance(document, bytes) else document.model_dump_json()
    return Response(body, status, headers, JSON_TYPE)


def page_link(place: str, id_: UUID) -> dict[str, str]:
    """Return the header that says where the dashboard shows something (RFC 8288)."""
    return {"Link": f'</dashboard/{place}/{id_}>; rel="alternate"; type="text/html"'}


def first_page(
    found: Sequence[Record], *, limit: int, key: Callable[[Record], object]
) -> tuple[Sequence[Record], str | None]:
    """Return the first `limit` records and the cursor of the next page, of a query for one record more."""
    page = found[:limit]
    return page, str(key(page[-1])) if len(found) > limit else None


class StreamedResponse(Response):
    """A body sent piece by piece; it ends when the client leaves or stops reading.

    Without a `content_length` it is sent in chunks.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        headers: Mapping[str, str],
        media_type: str | None = None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        content_length: int | None = None,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        del self.headers["content-length"]
        if content_length is not None:
            self.headers["content-length"] = str(content_length)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces; HEAD gets the headers alone."""
        request = Request(scope, receive)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            async for piece in self._pieces:
                if await request.is_disconnected():
                    return
                # Waits for a client that reads slowly; its connection ends when it is too slow.
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def attachment(filename: str) -> dict[str, str]:
    """Return the header that lets a browser save an answer, and not show it."""
    return {"Content-Disposition": f'attachment; filename="{filename}"'}
