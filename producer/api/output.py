"""The operation on output: what a command or a task has written, while it runs and after."""

import hashlib
from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.bodies import names_etag
from producer.api.documents import Document
from producer.api.guard import JSON_TYPE, TEXT_TYPE
from producer.api.requests import Query, read_id
from producer.store import outputs
from producer.store.database import Store
from shared.errors import JobNotFound
from shared.kinds.command import OutputText


class Output(Document):
    """What an attempt has written to its two streams."""

    job_id: UUID
    run: int
    attempt: Annotated[
        int,
        Field(
            description="The attempt that wrote it: the one that runs, or else the last that wrote. "
            "0 before the first."
        ),
    ]
    is_running: Annotated[bool, Field(description="Whether more may come: an attempt is being made.")]
    updated_at: Annotated[
        datetime | None, Field(description="When this was last heard of; null when nothing was written.")
    ]
    stdout: OutputText
    stderr: OutputText


class OutputHandlers:
    """Serves output. Programs wrote it, so headers keep a browser from taking it for anything but text."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get_output(self, request: Request) -> Response:
        """Answer with the output of a job's attempt: both streams in a document, or one as plain text."""
        job_id = read_id(request, "job_id", JobNotFound)
        document = Output.of(await self._store.read(outputs.find_output, job_id), job_id=job_id)
        match Query(request).text("stream"):
            case None:
                body, media_type = document.model_dump_json().encode(), JSON_TYPE
            case name:
                body, media_type = _plain(getattr(document, name)).encode(), TEXT_TYPE
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {
            "Cache-Control": "private, no-cache",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "ETag": etag,
            "X-Content-Type-Options": "nosniff",
        }
        # Several fields are one list (RFC 9110 section 5.3).
        if names_etag(", ".join(request.headers.getlist("if-none-match")), etag):
            return Response(None, HTTPStatus.NOT_MODIFIED, headers)
        return Response(body, headers=headers, media_type=media_type)


def _plain(stream: OutputText) -> str:
    if not stream.omitted_bytes:
        return stream.text + stream.tail
    return f"{stream.text}\n[{stream.omitted_bytes:,} bytes are left out here]\n{stream.tail}"
