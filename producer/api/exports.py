"""The export of a batch: its results as NDJSON, CSV or JUnit XML, streamed page by page, in flat memory."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from typing import assert_never
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from producer.api.documents import RejectedResult, job_explanation, job_summary
from producer.api.guard import CSV_TYPE, JSONL_TYPE, NDJSON_TYPE
from producer.api.junit import JUNIT_TAIL, Junit
from producer.api.problems import HttpProblem
from producer.api.requests import Query, read_caller, read_id
from producer.api.responses import StreamedResponse, attachment
from producer.api.slow_work import caller_of
from producer.records import REJECTED, JobRecord, Rejected, ResultFilter
from producer.store import queries, results
from producer.store.database import Connection, LongCall, Store
from shared.errors import BatchNotFound
from shared.redaction import redact_text, redact_url
from shared.states import JobState

PAGE_JOBS = 500

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
    "line",
    "ref",
    "given_url",
    "final_url",
    "explanation",
    "title",
    "same_as",
)
# A cell that begins with one of these is a formula to a spreadsheet (OWASP, CSV injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001

Encode = Callable[[Connection, Sequence[JobRecord]], bytes]
EncodeRejected = Callable[[Sequence[Rejected]], bytes]


class ExportFormat(StrEnum):
    """How the jobs of a batch are written."""

    NDJSON = "ndjson"
    CSV = "csv"
    JUNIT = "junit"


# What `Accept` may ask for; of those that it likes best, the first is sent.
_OFFERED = {
    NDJSON_TYPE: ExportFormat.NDJSON,
    JSONL_TYPE: ExportFormat.NDJSON,
    CSV_TYPE: ExportFormat.CSV,
    "application/xml": ExportFormat.JUNIT,
    "text/xml": ExportFormat.JUNIT,
}
_HTML_TYPE = "text/html"


@dataclass(frozen=True, slots=True)
class _Export:
    """What is sent: something before the jobs, a page of them at a time, something after them."""

    media_type: str
    extension: str
    encode: Encode
    encode_rejected: EncodeRejected
    head: bytes = b""
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Whose results are asked for, and the project of who asks."""

    id: UUID
    project: str | None


class ExportHandlers:
    """Streams what became of the jobs of a batch."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def export_results(self, request: Request) -> Response:
        """Answer with the results of a batch that match, jobs oldest first; each job appears once."""
        batch_id, query = read_id(request, "batch_id", BatchNotFound), Query(request)
        wanted = ResultFilter(
            query.texts("state"), query.texts("verdict"), query.texts("reason"), query.text("ref")
        )
        junit, batch = Junit(query.texts("junit_fail_on")), _Batch(batch_id, read_caller(request).project)
        async with self._store.long_call(LongCall.READ, caller_of(request)):
            export = await self._store.read(_open_export, batch, _chosen_format(request), wanted, junit)
        headers = {**attachment(f"{batch_id}.{export.extension}"), "Vary": "Accept"}
        return StreamedResponse(
            self._pages(batch, export, wanted, caller_of(request)), headers, export.media_type
        )

    async def _pages(
        self, batch: _Batch, export: _Export, wanted: ResultFilter, caller: str
    ) -> AsyncIterator[bytes]:
        if export.head:
            yield export.head
        after: UUID | None = None
        is_open = wanted.has_jobs
        while is_open:
            page, after = await self._store.read_page(caller, _read_page, batch, after, export.encode, wanted)
            if page:
                yield page
            is_open = after is not None
        number, is_open = 0, wanted.has_rejected
        while is_open:
            lines = await self._store.read(
                queries.list_rejected,
                batch.id,
                project=batch.project,
                after=number,
                limit=PAGE_JOBS,
                ref=wanted.ref,
            )
            if lines and (page := export.encode_rejected(lines)):
                yield page
            number, is_open = lines[-1].number if lines else 0, len(lines) == PAGE_JOBS
        if export.tail:
            yield export.tail


def accepted_format(header: str) -> ExportFormat:
    """Return the format that an `Accept` header likes best (RFC 9110 section 12.5.1); NDJSON without one.

    A browser likes XML better than what it does not know, as a page to show, so one gets XML only for want of
    another format.

    Raises:
        HttpProblem: 406: it accepts none; the answer lists them.
    """
    parsed = parse_accept_header(header, MIMEAccept)
    # Parameters such as a charset tell nothing of these formats.
    accepted = MIMEAccept([(each.partition(";")[0].strip(), quality) for each, quality in parsed])
    if not accepted:
        return ExportFormat.NDJSON
    best = accepted.best_match(_OFFERED)
    if best is not None and accepted.quality(_HTML_TYPE) > accepted.quality(best):
        others = [name for name, offered in _OFFERED.items() if offered is not ExportFormat.JUNIT]
        best = accepted.best_match(others, best)
    if best is None:
        detail = f"There is {', '.join(_OFFERED)}; or choose with the parameter format."
        raise HttpProblem(HTTPStatus.NOT_ACCEPTABLE, detail)
    return _OFFERED[best]


def encode_ndjson(records: Iterable[JobRecord]) -> bytes:
    """Return one JSON document a line: jobs without their attempts."""
    return b"".join(job_summary(record) + b"\n" for record in records)


def encode_rejected_ndjson(lines: Iterable[Rejected]) -> bytes:
    """Return one JSON document a line that became no job."""
    return b"".join(RejectedResult.of(line).model_dump_json().encode() + b"\n" for line in lines)


def csv_header() -> bytes:
    """Return the row of column names."""
    return _rows([COLUMNS])


def encode_csv(records: Iterable[JobRecord]) -> bytes:
    """Return one row a job (RFC 4180), safe to open in a spreadsheet."""
    return _rows(map(_cells, records))


def encode_rejected_csv(lines: Iterable[Rejected], *, kind: str) -> bytes:
    """Return one row a line that became no job."""
    return _rows(_rejected_cells(line, kind) for line in lines)


def _chosen_format(request: Request) -> ExportFormat:
    if chosen := Query(request).text("format"):
        return ExportFormat(chosen)
    return accepted_format(", ".join(request.headers.getlist("accept")))


def _open_export(
    connection: Connection, asked: _Batch, chosen: ExportFormat, wanted: ResultFilter, junit: Junit
) -> _Export:
    batch = queries.get_batch(connection, asked.id, project=asked.project)
    match chosen:
        case ExportFormat.NDJSON:
            # Every line is a job to those who do not ask for others.
            lines = encode_rejected_ndjson if REJECTED in wanted.states else lambda _: b""
            return _Export(NDJSON_TYPE, "ndjson", lambda _, records: encode_ndjson(records), lines)
        case ExportFormat.CSV:
            return _Export(
                "text/csv; charset=utf-8",
                "csv",
                lambda _, records: encode_csv(records),
                partial(encode_rejected_csv, kind=batch.kind),
                csv_header(),
            )
        case ExportFormat.JUNIT:
            # Its counts come first, so they are those of now; jobs that end meanwhile are not in them.
            counts = results.count_results(connection, asked.id, wanted, project=asked.project)
            head = junit.head(batch, counts)
            rejected = partial(junit.rejected_cases, kind=batch.kind)
            return _Export(
                "application/xml", "xml", partial(_encode_cases, junit), rejected, head, JUNIT_TAIL
            )
        case _:
            assert_never(chosen)


def _read_page(
    connection: Connection, batch: _Batch, after: UUID | None, encode: Encode, wanted: ResultFilter
) -> tuple[bytes, UUID | None]:
    found = results.batch_jobs(
        connection, batch.id, project=batch.project, after=after, limit=PAGE_JOBS, wanted=wanted
    )
    return encode(connection, found.records), found.following


def _encode_cases(junit: Junit, connection: Connection, records: Sequence[JobRecord]) -> bytes:
    return junit.cases(records, results.first_starts(connection, (record.id for record in records)))


def _cells(record: JobRecord) -> Sequence[object]:
    telling, url = record.telling, _shown(record.url)
    is_answered = record.state is JobState.SUCCEEDED
    return (
        record.id,
        record.kind,
        url,
        record.state,
        telling.verdict,
        telling.status,
        record.reason or telling.reason,
        record.attempt,
        record.created_at.isoformat(),
        record.finished_at.isoformat() if record.finished_at else None,
        record.line,
        record.ref,
        _shown(record.given_url) or url,
        telling.final_url,
        _shown_text(telling.explanation if is_answered else job_explanation(record)),
        telling.title,
        record.original,
    )


def _rejected_cells(line: Rejected, kind: str) -> Sequence[object]:
    known = {
        "kind": kind,
        "state": REJECTED,
        "line": line.number,
        "ref": line.ref,
        "given_url": _shown(line.given),
        "explanation": redact_text(f"{line.loc}: {line.msg}"),
    }
    return [known.get(name) for name in COLUMNS]


def _shown(url: object) -> object:
    return redact_url(url) if isinstance(url, str) else url


def _shown_text(text: object) -> object:
    return redact_text(text) if isinstance(text, str) else text


def _rows(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    # A stranger's result may hold a lone surrogate.
    return text.getvalue().encode(errors="replace")


def _safe(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
