"""How the jobs of a batch arrive: validated line by line, and kept in files until they are stored."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import orjson

from producer.api.batch_lines import Line, LineReader, open_reader
from producer.api.requests import read_document, validate_document
from producer.batch_validation import check_batch, located, validate_item
from producer.json_text import AmbiguousJson, read_json
from producer.records import FIRST_REJECTED, NewJob, Rejected
from producer.repeats import RepeatFinder
from producer.submission import JobTemplate, ValidArgs
from producer.submission_models import BatchSubmission, StreamedBatchSubmission
from shared.clock import utc_now
from shared.errors import FieldError, JobInvalid

_SPOOL_MEMORY_BYTES = 1_048_576

# These are written in the query as JSON; all others are written as they are.
_AS_JSON = frozenset(
    {"defaults", "labels", "retry", "callback_events", "delay_seconds", "expires_after_seconds"}
)
_AS_BOOLEAN = frozenset({"dedupe", "strict"})


def _open_spool() -> tempfile.SpooledTemporaryFile[bytes]:
    return tempfile.SpooledTemporaryFile(_SPOOL_MEMORY_BYTES)


@dataclass(slots=True)
class BatchSpool:
    """The valid jobs and the rejected lines of a batch that is arriving, in memory while they are few.

    Blocking and not thread-safe: one call at a time, off the event loop.
    """

    valid: int = 0
    rejections: int = 0
    first: list[Rejected] = field(default_factory=list)
    finder: RepeatFinder = field(default_factory=RepeatFinder)
    _jobs: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=_open_spool)
    _rejected: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=_open_spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._jobs.close()
        self._rejected.close()

    def add(self, item: ValidArgs | Rejected) -> None:
        """Keep a job's arguments, or why a line becomes no job."""
        if isinstance(item, ValidArgs):
            self.valid += 1
            self._jobs.write(orjson.dumps((tuple(item), self.finder.find(item.document))) + b"\n")
            return
        self.rejections += 1
        why = (item.number, item.loc, item.msg, item.ref, item.given)
        self._rejected.write(orjson.dumps(why) + b"\n")
        if len(self.first) < FIRST_REJECTED:
            self.first.append(item)

    def add_all(self, items: Iterable[ValidArgs | Rejected]) -> None:
        """Keep each of the items."""
        for item in items:
            self.add(item)

    def check(self, *, strict: bool, noun: str) -> None:
        """Return if there is a batch to store.

        Raises:
            BatchInvalid: some were rejected and it is strict, or none is valid.
            JobInvalid: there was nothing at all.
        """
        if not self.valid and not self.rejections:
            raise JobInvalid([FieldError(f"/{noun}", "There is no job in the body")])
        check_batch(valid=self.valid, rejected=self.rejections, first=self.first, strict=strict, noun=noun)

    def jobs(self, template: JobTemplate, *, batch_id: UUID) -> Iterator[NewJob]:
        """Yield the jobs in the order of their lines, read from the file as they are asked for."""
        yield from self.finder.jobs(template, self._found(), batch_id=batch_id)

    def _found(self) -> Iterator[tuple[ValidArgs, int | None]]:
        self._jobs.seek(0)
        for line in self._jobs:
            args, original = orjson.loads(line)
            yield ValidArgs(*args), original

    def rejected(self) -> Iterator[Rejected]:
        """Yield what became no job, in the order of the lines, read from the file."""
        self._rejected.seek(0)
        for line in self._rejected:
            yield Rejected(*orjson.loads(line))


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed batch that is arriving; its lines go into the spool.

    Blocking and not thread-safe: one call at a time, off the event loop.
    """

    submission: StreamedBatchSubmission
    template: JobTemplate
    reader: LineReader
    spool: BatchSpool

    @classmethod
    def open(cls, media_type: str, query: Mapping[str, str], spool: BatchSpool) -> Self:
        """Return the stream that a query announces.

        Raises:
            JobInvalid: the query breaks a rule; every parameter is named.
        """
        submission = read_query(query)
        with located("/query"):
            template = JobTemplate.of(submission, now=utc_now())
        spool.finder = RepeatFinder(template, dedupe=submission.dedupe)
        reader = open_reader(media_type, template.kind, submission.defaults)
        return cls(submission, template, reader, spool)

    def feed(self, chunk: bytes) -> None:
        """Validate the lines that this chunk completes.

        Raises:
            JobInvalid: no line can be read, as `LineReader.feed` says.
        """
        self.spool.add_all(self._validated(self.reader.feed(chunk)))

    def finish(self) -> None:
        """Validate the last line.

        Raises:
            JobInvalid: as `feed` says, or a quoted cell of CSV is never closed.
        """
        self.spool.add_all(self._validated(self.reader.finish()))

    def _validated(self, lines: Iterable[Line]) -> Iterator[ValidArgs | Rejected]:
        for line in lines:
            if isinstance(line, Rejected):
                yield line
            else:
                yield validate_item(self.template, self.submission.defaults, line)


def read_batch(body: bytes) -> BatchSubmission:
    """Return the JSON batch in a body; in the place of an item that `read_json` refuses is the first reason.

    Raises:
        JobInvalid: the body is no batch, or what is refused is no item.
    """
    try:
        return read_document(BatchSubmission, body)
    except AmbiguousJson as error:
        faults = {
            index: fault for fault in reversed(error.errors) if (index := _item_index(fault.loc)) is not None
        }
        if any(_item_index(fault.loc) is None for fault in error.errors):
            raise
    submission = validate_document(BatchSubmission, body)
    for index, fault in faults.items():
        submission.items[index] = fault
    return submission


def read_query(query: Mapping[str, str]) -> StreamedBatchSubmission:
    """Return the fields of a batch that a query holds, validated as those of a JSON batch are.

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
        read_json(value, at=f"/{name}")
    except orjson.JSONDecodeError as error:
        raise JobInvalid([FieldError(f"/{name}", f"It is not JSON: {error.msg}")]) from None
    return value


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _item_index(loc: str) -> int | None:
    match loc.split("/"):
        case ["", "items", index, *_] if index.isdigit():
            return int(index)
        case _:
            return None
