"""The operation on output: what a command or a task has written, while it runs and after."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from producer.api.bodies import names_etag
from producer.api.documents import Document
from producer.api.guard import TEXT_TYPE
from producer.api.requests import Query, read_caller, read_id
from producer.api.responses import json_response
from producer.records import JobOutput
from producer.store import outputs
from producer.store.database import Connection, Store
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
        job_id, project = read_id(request, "job_id", JobNotFound), read_caller(request).project
        stream = Query(request).text("stream")
        # Several fields are one list (RFC 9110 section 5.3).
        had = ", ".join(request.headers.getlist("if-none-match"))
        etag, output = await self._store.read(_look_up, job_id, stream, had, project=project)
        headers = {
            "Cache-Control": "private, no-cache",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "ETag": etag,
        }
        if output is None:
            return Response(None, HTTPStatus.NOT_MODIFIED, headers)
        if stream is None:
            return json_response(Output.of(output, job_id=job_id), headers=headers)
        return Response(_plain(getattr(output, stream)), headers=headers, media_type=TEXT_TYPE)


def _look_up(
    connection: Connection, job_id: UUID, stream: str | None, had: str, *, project: str | None
) -> tuple[str, JobOutput | None]:
    """Return the ETag of an output, and the output unless the client has it."""
    # The version first: of an output that changes in between, the client then asks again.
    version = outputs.output_version(connection, job_id, project=project)
    etag = f'"{version}.{stream or "both"}"'
    if names_etag(had, etag):
        return etag, None
    return etag, outputs.find_output(connection, job_id, project=project)


def _plain(stream: OutputText) -> str:
    if not stream.omitted_bytes:
        return stream.text + stream.tail
    return f"{stream.text}\n[{stream.omitted_bytes:,} bytes are left out here]\n{stream.tail}"
