"""The operation on bodies: what a fetch brought back, streamed from the store, a range of it if asked for."""

import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from producer.api.ids import read_id
from producer.api.inline_bodies import inline_body
from producer.api.pools import Pools
from producer.api.problems import HttpProblem, problem_response
from producer.api.ranges import RangeUnsatisfiable, names_etag, wanted_range
from producer.api.results import StreamedPages
from producer.records import BodyRecord, JobRecord
from producer.store import bodies, queries
from producer.store.database import Database
from shared.errors import BodyNotFound, JobNotFound

PIECE_BYTES = 262_144
OCTETS = "application/octet-stream"

# Type, subtype and parameters as they are safe in a header; anything else is octets to us.
_SAFE_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;\s*[\w.-]+=(?:[\w.:+-]+|\"[\w .:+-]*\"))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Body:
    """A body to serve; `content` is None when it is read from the store."""

    job_id: UUID
    content_type: str | None
    size: int
    sha256: str
    content: bytes | None = None

    @property
    def etag(self) -> str:
        return f'"{self.sha256}"'


class BodyOperations:
    """Serves bodies. They are strangers' words, so no browser is to run them."""

    def __init__(self, store: Database, pools: Pools) -> None:
        self._store = store
        self._pools = pools

    async def get_body(self, request: Request) -> Response:
        """Answer with the body of a fetch, or a part of it."""
        job_id = read_id(request.path_params["job_id"], JobNotFound)
        body = await self._pools.short(self._find, job_id)
        headers = _headers(body)
        if names_etag(request.headers.get("if-none-match"), body.etag):
            return Response(None, HTTPStatus.NOT_MODIFIED, headers)
        try:
            part = wanted_range(_range_header(request, body), body.size)
        except RangeUnsatisfiable:
            return _unsatisfiable(body)
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        if part is None:
            part = range(body.size)
        else:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{body.size}"
        pieces = self._pieces(body, part)
        return StreamedPages(pieces, headers, None, status=status, content_length=len(part))

    def _find(self, job_id: UUID) -> _Body:
        record = self._store.read(queries.get_job, job_id)
        if (since := _unchanged_since(record)) is not None:
            try:
                record = self._store.read(queries.get_job, since)
            except JobNotFound:
                raise BodyNotFound(f"job {since}, which had the body, is deleted") from None
        if (stored := self._store.read(bodies.find_body, record.id)) is not None:
            return _stored(stored)
        if (inline := inline_body(record.result)) is not None:
            return _Body(record.id, inline.content_type, len(inline.content), inline.sha256, inline.content)
        raise BodyNotFound(f"job {record.id} has no body")

    async def _pieces(self, body: _Body, part: range) -> AsyncIterator[bytes]:
        if body.content is not None:
            yield body.content[part.start : part.stop]
            return
        skipped, start, stream = 0, 0, zlib.decompressobj(zlib.MAX_WBITS | 16)
        while skipped < part.stop:
            compressed = await self._pools.short(
                self._store.read, bodies.read_piece, body.job_id, start=start, length=PIECE_BYTES
            )
            if not compressed:
                # The job was deleted meanwhile. The connection closes before what was promised has come.
                raise BodyNotFound(f"the body of job {body.job_id} is deleted")
            start += len(compressed)
            while compressed:
                piece = await self._pools.short(stream.decompress, compressed, PIECE_BYTES)
                compressed = stream.unconsumed_tail
                wanted = piece[max(part.start - skipped, 0) : max(part.stop - skipped, 0)]
                skipped += len(piece)
                if wanted:
                    yield wanted
                if skipped >= part.stop:
                    return


def _stored(record: BodyRecord) -> _Body:
    return _Body(record.job_id, record.content_type, record.size, record.sha256)


def _unchanged_since(record: JobRecord) -> UUID | None:
    since = (record.result or {}).get("unchanged_since")
    try:
        return UUID(since) if isinstance(since, str) else None
    except ValueError:
        return None


def _range_header(request: Request, body: _Body) -> str | None:
    # Range is for GET alone, and If-Range takes it back when the client has another version.
    if request.method != "GET" or request.headers.get("if-range", body.etag) != body.etag:
        return None
    return request.headers.get("range")


def _unsatisfiable(body: _Body) -> Response:
    # Not raised: connexion's way from an error to an answer drops headers that begin with `Content-`.
    return problem_response(
        HttpProblem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"The body has {body.size:,} bytes.",
            headers={"Content-Range": f"bytes */{body.size}"},
        )
    )


def _headers(body: _Body) -> dict[str, str]:
    declared = (body.content_type or OCTETS).strip()
    return {
        "Content-Type": declared if _SAFE_TYPE.fullmatch(declared) else OCTETS,
        "Content-Disposition": f'attachment; filename="{body.job_id}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
        "ETag": body.etag,
    }
