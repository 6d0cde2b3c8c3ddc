"""The operation on bodies: what a fetch brought back, streamed from the store, whole or a range of it."""

import asyncio
import base64
import hashlib
import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from producer.api.guard import TEXT_TYPE
from producer.api.problems import HttpProblem, problem_response
from producer.api.requests import read_caller, read_header, read_id
from producer.api.responses import StreamedResponse, attachment
from producer.records import BodyRecord, JobRecord
from producer.store import bodies, queries
from producer.store.database import Connection, Store
from producer.stored_json import NULL, pick, scalar
from shared.errors import BodyNotFound, JobNotFound

_PIECE_BYTES = 262_144
_OCTETS = "application/octet-stream"

# Type, subtype and parameters as they are safe in a header; anything else is served as octets.
_SAFE_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;\s*[\w.-]+=(?:[\w.:+-]+|\"[\w .:+-]*\"))*", re.ASCII)
# A longer number is behind the end of anything.
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


class RangeUnsatisfiable(ValueError):
    """The range begins behind the end."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body to serve; `content` is None when it is read from the store."""

    job_id: UUID
    content_type: str | None
    size: int
    sha256: str
    content: bytes | None = None

    @property
    def etag(self) -> str:
        """The version of the body, as HTTP names it."""
        return f'"{self.sha256}"'


class _FetchedFields(msgspec.Struct):
    content_type: msgspec.Raw = NULL
    body: msgspec.Raw = NULL
    body_base64: msgspec.Raw = NULL
    unchanged_since: msgspec.Raw = NULL


_FETCHED = msgspec.json.Decoder(_FetchedFields)


class BodyHandlers:
    """Serves bodies. A stranger wrote them, so their headers keep a browser from running anything in them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get_body(self, request: Request) -> Response:
        """Answer with the body of a fetch, or a part of it."""
        job_id, project = read_id(request, "job_id", JobNotFound), read_caller(request).project
        body = await self._store.read(_find, job_id, project=project)
        headers = _headers(body)
        # Several fields are one list (RFC 9110 section 5.3).
        if names_etag(", ".join(request.headers.getlist("if-none-match")), body.etag):
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
        return StreamedResponse(self._pieces(body, part), headers, status=status, content_length=len(part))

    async def _pieces(self, body: Body, part: range) -> AsyncIterator[bytes]:
        if body.content is not None:
            yield body.content[part.start : part.stop]
            return
        skipped, start, stream = 0, 0, zlib.decompressobj(zlib.MAX_WBITS | 16)
        while skipped < part.stop:
            compressed = await self._store.read(
                bodies.read_piece, body.job_id, start=start, length=_PIECE_BYTES
            )
            if not compressed:
                # The job was deleted meanwhile. The connection closes before what was promised has come.
                raise BodyNotFound(f"the body of job {body.job_id} is deleted")
            start += len(compressed)
            while compressed:
                piece = await asyncio.to_thread(stream.decompress, compressed, _PIECE_BYTES)
                compressed = stream.unconsumed_tail
                wanted = piece[max(part.start - skipped, 0) : max(part.stop - skipped, 0)]
                skipped += len(piece)
                if wanted:
                    yield wanted
                if skipped >= part.stop:
                    return


def wanted_range(header: str | None, size: int) -> range | None:
    """Return the bytes that a `Range` header asks for; None means all.

    Several ranges, and what is no range of bytes, may be answered with everything (RFC 9110 section 14.2).

    Raises:
        RangeUnsatisfiable: there is none of these bytes.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        wanted = range(max(size - int(last), 0), size)
    elif last and int(last) < int(first):
        return None
    else:
        wanted = range(int(first), min(int(last) + 1, size) if last else size)
    if not wanted:
        raise RangeUnsatisfiable
    return wanted


def names_etag(header: str | None, etag: str) -> bool:
    """Return whether an `If-None-Match` header names this version, compared weakly (section 13.1.2)."""
    if header is None:
        return False
    named = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in named or etag in named


def inline_body(record: JobRecord) -> Body | None:
    """Return the body that a small fetch left in its result, or None; a text is now UTF-8."""
    result = pick(record.result, _FETCHED)
    declared = scalar(result.content_type)
    if isinstance(text := scalar(result.body), str):
        essence = str(declared or TEXT_TYPE).partition(";")[0].strip()
        return _inline(record.id, text.encode("utf-8", "replace"), f"{essence}; charset=utf-8")
    if isinstance(encoded := scalar(result.body_base64), str):
        try:
            content = base64.b64decode(encoded, validate=True)
        except ValueError:
            return None
        return _inline(record.id, content, None if declared is None else str(declared))
    return None


def _inline(job_id: UUID, content: bytes, content_type: str | None) -> Body:
    return Body(job_id, content_type, len(content), hashlib.sha256(content).hexdigest(), content)


def _find(connection: Connection, job_id: UUID, *, project: str | None) -> Body:
    record = queries.get_job(connection, job_id, project=project)
    if (since := _unchanged_since(record)) is not None:
        try:
            # An operator, too, is shown no body of another project in the place of one of this.
            holder = queries.get_job(connection, since, project=record.project)
        except JobNotFound:
            raise BodyNotFound(f"job {since}, which had the body, is deleted") from None
        # A stranger may report it of a job of his own, and would get the body of any other.
        if not _ask_the_same(record, holder):
            raise BodyNotFound(f"job {since}, which is said to have the body, did not ask the same")
        record = holder
    if (stored := bodies.find_body(connection, record.id)) is not None:
        return _stored(stored)
    if (inline := inline_body(record)) is not None:
        return inline
    raise BodyNotFound(f"job {record.id} has no body")


def _ask_the_same(record: JobRecord, holder: JobRecord) -> bool:
    key, others = (bodies.copy_key(each.args, project=each.project) for each in (record, holder))
    return record.kind == holder.kind == bodies.FETCH and key is not None and key == others


def _stored(record: BodyRecord) -> Body:
    return Body(record.job_id, record.content_type, record.size, record.sha256)


def _unchanged_since(record: JobRecord) -> UUID | None:
    since = scalar(pick(record.result, _FETCHED).unchanged_since)
    try:
        return UUID(since) if isinstance(since, str) else None
    except ValueError:
        return None


def _range_header(request: Request, body: Body) -> str | None:
    # Range is for GET alone, and If-Range takes it back when the client has another version.
    if request.method != "GET" or (read_header(request, "If-Range") or body.etag) != body.etag:
        return None
    return read_header(request, "Range")


def _unsatisfiable(body: Body) -> Response:
    # Not raised: connexion's way from an error to an answer drops headers that begin with `Content-`.
    return problem_response(
        HttpProblem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"The body has {body.size:,} bytes.",
            headers={"Content-Range": f"bytes */{body.size}"},
        )
    )


def _headers(body: Body) -> dict[str, str]:
    declared = (body.content_type or _OCTETS).strip()
    return {
        "Content-Type": declared if _SAFE_TYPE.fullmatch(declared) else _OCTETS,
        **attachment(str(body.job_id)),
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
        "ETag": body.etag,
    }
