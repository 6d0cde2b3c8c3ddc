"""The export of a batch: what became of its jobs, streamed page by page, in flat memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import assert_never
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from producer.api.exports import Encode, Export, ExportFormat, csv_export, ndjson_export
from producer.api.ids import read_id
from producer.api.junit import JUNIT_TAIL, junit_cases, junit_head
from producer.api.pools import Pools
from producer.records import BatchRecord, JobRecord
from producer.store import queries
from producer.store.database import Database
from shared.errors import BatchNotFound

PAGE_JOBS = 500
SEND_TIMEOUT_SECONDS = 60.0


class ResultOperations:
    """Streams what became of the jobs of a batch."""

    def __init__(self, store: Database, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def export_results(self, request: Request) -> Response:
        """Answer with all jobs of a batch, oldest first; a job that changes meanwhile appears once."""
        batch_id = read_id(request.path_params["batch_id"], BatchNotFound)
        batch = await self._pools.short(self._store.read, queries.get_batch, batch_id)
        export = await self._pools.long(self._open_export, _chosen_format(request), batch)
        headers = {
            "Content-Disposition": f'attachment; filename="{batch_id}.{export.extension}"',
            "X-Content-Type-Options": "nosniff",
        }
        return StreamedPages(self._pages(batch_id, export), headers, export.media_type)

    def _open_export(self, chosen: ExportFormat, batch: BatchRecord) -> Export:
        match chosen:
            case ExportFormat.NDJSON:
                return ndjson_export()
            case ExportFormat.CSV:
                return csv_export()
            case ExportFormat.JUNIT:
                # Its counts come first, so they are those of now; jobs that end meanwhile are not in them.
                head = junit_head(batch, self._store.read(queries.count_verdicts, batch.id))
                return Export("application/xml", "xml", self._encode_cases, head, JUNIT_TAIL)
            case _:
                assert_never(chosen)

    def _encode_cases(self, records: Sequence[JobRecord]) -> bytes:
        return junit_cases(records, self._store.read(queries.first_starts, (record.id for record in records)))

    async def _pages(self, batch_id: UUID, export: Export) -> AsyncIterator[bytes]:
        if export.head:
            yield export.head
        after: UUID | None = None
        while True:
            page, after = await self._pools.short(self._read_page, batch_id, after, export.encode)
            if page:
                yield page
            if after is None:
                break
        if export.tail:
            yield export.tail

    def _read_page(self, batch_id: UUID, after: UUID | None, encode: Encode) -> tuple[bytes, UUID | None]:
        records = self._store.read(queries.batch_jobs, batch_id, after=after, limit=PAGE_JOBS)
        return encode(records), records[-1].id if len(records) == PAGE_JOBS else None


class StreamedPages(Response):
    """An answer a page at a time; it stops when the client leaves or stops reading.

    Without a `content_length` it is sent in chunks.
    """

    def __init__(
        self,
        pages: AsyncIterator[bytes],
        headers: dict[str, str],
        media_type: str | None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        content_length: int | None = None,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        del self.headers["content-length"]
        if content_length is not None:
            self.headers["content-length"] = str(content_length)
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pages; HEAD gets the headers alone."""
        request = Request(scope, receive)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            async for page in self._pages:
                if await request.is_disconnected():
                    return
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    await send({"type": "http.response.body", "body": page, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


# In the order of what a client that takes several gets; NDJSON when it names none.
_ACCEPTED = {
    "ndjson": ExportFormat.NDJSON,
    "text/csv": ExportFormat.CSV,
    "application/xml": ExportFormat.JUNIT,
    "text/xml": ExportFormat.JUNIT,
}


def _chosen_format(request: Request) -> ExportFormat:
    if asked := request.query_params.get("format"):
        return ExportFormat(asked)
    accepted = request.headers.get("accept", "").lower()
    return next((chosen for name, chosen in _ACCEPTED.items() if name in accepted), ExportFormat.NDJSON)
