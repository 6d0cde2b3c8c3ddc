"""A batch that comes as a stream: what its query says of it, and how its body is read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from producer.api.csv_lines import CsvLines
from producer.api.guard import CSV_TYPE, TEXT_TYPE
from producer.api.lines import Reader, Said, json_lines, url_lines
from producer.api.reading import read_document
from producer.api.spool import BatchSpool
from producer.batch_validation import located, validate_item
from producer.records import Rejected
from producer.submission import JobTemplate
from producer.submission_models import StreamedBatchSubmission
from shared.clock import utc_now
from shared.errors import FieldError, JobInvalid
from shared.kinds.registry import Kind

# Written in the query as JSON; all others are written as they are.
_AS_JSON = frozenset({"defaults", "labels", "retry", "delay_seconds", "expires_after_seconds"})
_AS_BOOLEAN = frozenset({"strict"})


@dataclass(frozen=True, slots=True)
class Stream:
    """A batch that is arriving: judged line by line, kept in a spool.

    Blocking and not thread-safe: one call at a time, off the event loop.
    """

    template: JobTemplate
    defaults: Mapping[str, Any]
    strict: bool
    reader: Reader
    spool: BatchSpool

    @classmethod
    def open(cls, media_type: str, query: Mapping[str, str], spool: BatchSpool) -> "Stream":
        """Return the stream that a query announces.

        Raises:
            JobInvalid: the query breaks a rule; every parameter is named.
        """
        submission = read_query(query)
        with located("/query"):
            template = JobTemplate.of(submission, now=utc_now())
        return cls(
            template, submission.defaults, submission.strict, _open_reader(media_type, template.kind), spool
        )

    def feed(self, chunk: bytes) -> None:
        """Judge the lines that this chunk completes.

        Raises:
            JobInvalid: no line can be read, because the header of CSV is at fault.
        """
        self._judge(self.reader.feed(chunk))

    def finish(self) -> None:
        """Judge the last line.

        Raises:
            JobInvalid: as `feed` says, or a quoted cell of CSV is never closed.
        """
        self._judge(self.reader.finish())

    def _judge(self, lines: Iterator[Said]) -> None:
        for said in lines:
            judged = said if isinstance(said, Rejected) else validate_item(self.template, self.defaults, said)
            self.spool.add(judged)


def read_query(query: Mapping[str, str]) -> StreamedBatchSubmission:
    """Return what a query says of a batch: the fields of a JSON batch, validated as these are.

    Raises:
        JobInvalid: a parameter breaks a rule; every one is named.
    """
    with located("/query"):
        fields = (f"{_quoted(name)}:{_json(name, value)}" for name, value in query.items())
        return read_document(StreamedBatchSubmission, f"{{{','.join(fields)}}}".encode())


def _json(name: str, value: str) -> str:
    if name in _AS_BOOLEAN:
        return value.lower()
    if name not in _AS_JSON:
        return _quoted(value)
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise JobInvalid([FieldError(f"/{name}", f"It is not JSON: {error.msg}")]) from None
    return value


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _open_reader(media_type: str, kind: Kind) -> Reader:
    if media_type == TEXT_TYPE:
        return url_lines()
    return CsvLines(kind) if media_type == CSV_TYPE else json_lines()
