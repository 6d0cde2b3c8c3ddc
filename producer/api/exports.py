"""The formats of an export: how a page of jobs is written as NDJSON or CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from producer.api.documents import job_summary
from producer.records import JobRecord

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
    JUNIT = "junit"


@dataclass(frozen=True, slots=True)
class Export:
    """What is sent: something before the jobs, a page of them at a time, something after them."""

    media_type: str
    extension: str
    encode: Encode
    head: bytes = b""
    tail: bytes = b""


def ndjson_export() -> Export:
    """Return an export of one JSON document a line."""
    return Export("application/x-ndjson", "ndjson", encode_ndjson)


def csv_export() -> Export:
    """Return an export of one row a job, under a row of column names."""
    return Export("text/csv; charset=utf-8", "csv", encode_csv, head=csv_header())


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
