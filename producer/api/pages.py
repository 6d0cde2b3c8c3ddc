"""The operations on paged fetches: their measure, and their items as NDJSON, streamed in flat memory."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from producer.api.guard import JSON_TYPE
from producer.api.ids import read_id
from producer.api.page_models import paged_fetch
from producer.api.pools import Pools
from producer.api.results import StreamedPages
from producer.page_measure import split_keys
from producer.store import pages
from producer.store.database import Database
from shared.errors import JobNotFound

NDJSON_TYPE = "application/x-ndjson"
MAX_COMPARED_KEYS = 1_000_000
"""What `distinct` remembers, some 100 bytes each."""


class PageOperations:
    """Tells of paged fetches, by the id of the job that was submitted."""

    def __init__(self, store: Database, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def get_pages(self, request: Request) -> Response:
        """Answer with what the pages come to, held against their totals."""
        job_id = read_id(request.path_params["job_id"], JobNotFound)
        record = await self._pools.long(self._store.read, pages.get_pages, job_id)
        return Response(paged_fetch(record).model_dump_json(), media_type=JSON_TYPE)

    async def stream_items(self, request: Request) -> Response:
        """Answer with the items of all pages that are done, in their order."""
        job_id = read_id(request.path_params["job_id"], JobNotFound)
        await self._pools.short(self._store.read, pages.get_root, job_id)
        is_distinct = request.query_params.get("distinct", "").lower() in {"true", "1"}
        headers = {
            "Content-Disposition": f'attachment; filename="{job_id}.ndjson"',
            "X-Content-Type-Options": "nosniff",
        }
        seen: set[bytes] | None = set() if is_distinct else None
        return StreamedPages(self._lines(job_id, seen), headers, NDJSON_TYPE)

    async def _lines(self, job_id: UUID, seen: set[bytes] | None) -> AsyncIterator[bytes]:
        after: int | None = -1
        while after is not None:
            lines, after = await self._pools.short(self._read_page, job_id, after, seen)
            if lines:
                yield lines

    def _read_page(self, job_id: UUID, after: int, seen: set[bytes] | None) -> tuple[bytes, int | None]:
        page = self._store.read(pages.next_page_items, job_id, after=after)
        if page is None:
            return b"", None
        number, items, digests = page
        lines = [_line(item) for item in items]
        if seen is not None:
            keys = split_keys(digests) if digests else [sha256(line).digest()[:8] for line in lines]
            lines = [line for key, line in zip(keys, lines, strict=False) if _is_new(key, seen)]
        return b"".join(lines), number


def _line(item: Any) -> bytes:
    # ASCII, because a lone surrogate has no UTF-8; as an escape it comes back as it was.
    return json.dumps(item, separators=(",", ":")).encode() + b"\n"


def _is_new(key: bytes, seen: set[bytes]) -> bool:
    if key in seen:
        return False
    if len(seen) < MAX_COMPARED_KEYS:
        seen.add(key)
    return True
