"""The export of a batch: its jobs as NDJSON or CSV, streamed page by page, in flat memory."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from enum import StrEnum
from http import HTTPStatus
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from producer.api.documents import job_summary
from producer.api.ids import read_id
from producer.api.pools import Pools
from producer.records import JobRecord
from producer.store.store import JobStore
from shared.errors import BatchNotFound

PAGE_JOBS = 500
SEND_TIMEOUT_SECONDS = 60.0

COLUMNS = (
    "id",
    "kind",
    "url",
    "state",
    "verdict",
    "status",
    "reason",
    "attempts",
    "created_at",
    "finished_at",
)
# A cell that begins with one of these is a formula to a spreadsheet (OWASP, CSV injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

Encode = Callable[[Sequence[JobRecord]], bytes]


class ExportFormat(StrEnum):
    """How the jobs of a batch are written."""

    NDJSON = "ndjson"
    CSV = "csv"


_MEDIA_TYPES = {ExportFormat.NDJSON: "application/x-ndjson", ExportFormat.CSV: "text/csv; charset=utf-8"}


class ResultOperations:
    """Streams what became of the jobs of a batch."""

    def __init__(self, store: JobStore, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def export_results(self, request: Request) -> Response:
        """Answer with all jobs of a batch, oldest first; a job that changes meanwhile appears once."""
        batch_id = read_id(request.path_params["batch_id"], BatchNotFound)
        await self._pools.short(self._store.get_batch, batch_id)
        chosen = _chosen_format(request)
        encode = encode_csv if chosen is ExportFormat.CSV else encode_ndjson
        head = csv_header() if chosen is ExportFormat.CSV else b""
        headers = {
            "Content-Disposition": f'attachment; filename="{batch_id}.{chosen}"',
            "X-Content-Type-Options": "nosniff",
        }
        return StreamedPages(self._pages(batch_id, head, encode), headers, _MEDIA_TYPES[chosen])

    async def _pages(self, batch_id: UUID, head: bytes, encode: Encode) -> AsyncIterator[bytes]:
        if head:
            yield head
        after: UUID | None = None
        while True:
            page, after = await self._pools.short(self._read_page, batch_id, after, encode)
            if page:
                yield page
            if after is None:
                return

    def _read_page(self, batch_id: UUID, after: UUID | None, encode: Encode) -> tuple[bytes, UUID | None]:
        records = self._store.batch_jobs(batch_id, after=after, limit=PAGE_JOBS)
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


def encode_ndjson(records: Sequence[JobRecord]) -> bytes:
    """Return one JSON document a line: jobs without their attempts."""
    return b"".join(job_summary(record).model_dump_json().encode() + b"\n" for record in records)


def encode_csv(records: Sequence[JobRecord]) -> bytes:
    """Return one row a job (RFC 4180), safe to open in a spreadsheet."""
    return _rows(_cells(record) for record in records)


def csv_header() -> bytes:
    """Return the row of column names."""
    return _rows([COLUMNS])


def _cells(record: JobRecord) -> Sequence[object]:
    result = record.result or {}
    return (
        record.id,
        record.kind,
        record.args.get("url"),
        record.state,
        result.get("verdict"),
        result.get("status"),
        record.reason or result.get("reason"),
        record.attempt,
        record.created_at.isoformat(),
        record.finished_at.isoformat() if record.finished_at else None,
    )


def _rows(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _safe(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def _chosen_format(request: Request) -> ExportFormat:
    if asked := request.query_params.get("format"):
        return ExportFormat(asked)
    accepted = request.headers.get("accept", "").lower()
    if "text/csv" in accepted and "ndjson" not in accepted:
        return ExportFormat.CSV
    return ExportFormat.NDJSON
