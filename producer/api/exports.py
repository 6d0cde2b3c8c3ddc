"""The export of a batch: its jobs as NDJSON, CSV or JUnit XML, streamed page by page, in flat memory."""

import csv
import io
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import assert_never
from uuid import UUID
from xml.sax.saxutils import quoteattr

from starlette.requests import Request
from starlette.responses import Response
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from producer.api.documents import job_summary
from producer.api.guard import CSV_TYPE, JSONL_TYPE, NDJSON_TYPE
from producer.api.problems import HttpProblem
from producer.api.requests import Query, read_id
from producer.api.responses import StreamedResponse, attachment
from producer.records import BatchRecord, JobRecord, VerdictCounts
from producer.store import queries
from producer.store.database import Connection, Store
from shared.errors import BatchNotFound
from shared.kinds.check import Verdict
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
)
# A cell that begins with one of these is a formula to a spreadsheet (OWASP, CSV injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

JUNIT_TAIL = b"</testsuite>\n"
# Whatever XML 1.0 (section 2.2) has no place for, not even as a reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Encode = Callable[[Connection, Sequence[JobRecord]], bytes]


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
    head: bytes = b""
    tail: bytes = b""


class ExportHandlers:
    """Streams what became of the jobs of a batch."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def export_results(self, request: Request) -> Response:
        """Answer with all jobs of a batch, oldest first; a job that changes meanwhile appears once."""
        batch_id = read_id(request, "batch_id", BatchNotFound)
        async with self._store.long_calls:
            export = await self._store.read(_open_export, batch_id, _chosen_format(request))
        headers = {**attachment(f"{batch_id}.{export.extension}"), "Vary": "Accept"}
        return StreamedResponse(self._pages(batch_id, export), headers, export.media_type)

    async def _pages(self, batch_id: UUID, export: _Export) -> AsyncIterator[bytes]:
        if export.head:
            yield export.head
        after: UUID | None = None
        while True:
            page, after = await self._store.read(_read_page, batch_id, after, export.encode)
            if page:
                yield page
            if after is None:
                break
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
    return b"".join(job_summary(record).model_dump_json().encode() + b"\n" for record in records)


def csv_header() -> bytes:
    """Return the row of column names."""
    return _rows([COLUMNS])


def encode_csv(records: Iterable[JobRecord]) -> bytes:
    """Return one row a job (RFC 4180), safe to open in a spreadsheet."""
    return _rows(_cells(record) for record in records)


def junit_head(batch: BatchRecord, counts: VerdictCounts) -> bytes:
    """Return the beginning of a JUnit test suite: how many test cases there are, and how they ended."""
    ended = (JobState.SUCCEEDED, JobState.PARKED)
    attributes = _attributes(
        {
            "name": f"batch {batch.id}",
            "timestamp": batch.created_at.isoformat(),
            "tests": sum(counts.by_state.values()),
            "failures": counts.not_ok,
            "errors": counts.by_state.get(JobState.PARKED, 0),
            "skipped": sum(number for state, number in counts.by_state.items() if state not in ended),
        }
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite{attributes}>\n'.encode()


def junit_cases(records: Iterable[JobRecord], first_starts: Mapping[UUID, datetime]) -> bytes:
    """Return a test case for each job."""
    return "".join(_case(record, first_starts.get(record.id)) for record in records).encode()


def _chosen_format(request: Request) -> ExportFormat:
    if chosen := Query(request).text("format"):
        return ExportFormat(chosen)
    return accepted_format(", ".join(request.headers.getlist("accept")))


def _open_export(connection: Connection, batch_id: UUID, chosen: ExportFormat) -> _Export:
    batch = queries.get_batch(connection, batch_id)
    match chosen:
        case ExportFormat.NDJSON:
            return _Export(NDJSON_TYPE, "ndjson", lambda _, records: encode_ndjson(records))
        case ExportFormat.CSV:
            media_type = "text/csv; charset=utf-8"
            return _Export(media_type, "csv", lambda _, records: encode_csv(records), head=csv_header())
        case ExportFormat.JUNIT:
            # Its counts come first, so they are those of now; jobs that end meanwhile are not in them.
            head = junit_head(batch, queries.count_verdicts(connection, batch_id))
            return _Export("application/xml", "xml", _encode_cases, head, JUNIT_TAIL)
        case _:
            assert_never(chosen)


def _read_page(
    connection: Connection, batch_id: UUID, after: UUID | None, encode: Encode
) -> tuple[bytes, UUID | None]:
    records = queries.batch_jobs(connection, batch_id, after=after, limit=PAGE_JOBS)
    return encode(connection, records), records[-1].id if len(records) == PAGE_JOBS else None


def _encode_cases(connection: Connection, records: Sequence[JobRecord]) -> bytes:
    return junit_cases(records, queries.first_starts(connection, (record.id for record in records)))


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
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell


def _case(record: JobRecord, started_at: datetime | None) -> str:
    attributes = {
        "name": record.args.get("url") or str(record.id),
        "classname": f"{record.kind}.{record.host}" if record.host else record.kind,
    }
    if started_at and record.finished_at:
        seconds = max(0.0, (record.finished_at - started_at).total_seconds())
        attributes["time"] = f"{seconds:.3f}"
    return f"<testcase{_attributes(attributes)}>{_ending(record)}</testcase>\n"


def _ending(record: JobRecord) -> str:
    match record.state:
        case JobState.PARKED:
            return _element("error", record.reason, record.explanation)
        case JobState.SUCCEEDED:
            result = record.result or {}
            # The same as `count_verdicts` counts.
            if result.get("verdict", Verdict.OK) == Verdict.OK:
                return ""
            return _element("failure", result.get("reason"), result.get("explanation"))
        case state:
            return _element("skipped", None, record.explanation or state.value)


def _element(name: str, kind: object, message: object) -> str:
    attributes = {"type": kind, "message": message}
    return f"<{name}{_attributes({key: value for key, value in attributes.items() if value})}/>"


def _attributes(values: Mapping[str, object]) -> str:
    return "".join(f" {name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(text: str) -> str:
    return quoteattr(_FORBIDDEN.sub(_REPLACEMENT, text))
