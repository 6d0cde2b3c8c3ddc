"""A batch of lines, one URL each: split, validated and spooled as it arrives, in flat memory."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import orjson

from producer.records import NewJob
from producer.submission import MAX_ERRORS, BatchInvalid, JobTemplate, ValidArgs
from shared.errors import FieldError, JobInvalid
from shared.identity import new_id
from shared.kinds.urls import MAX_URL_LENGTH

# The longest URL in the longest UTF-8; a line beyond it is dropped while it arrives.
MAX_LINE_BYTES = 4 * MAX_URL_LENGTH
SPOOL_MEMORY_BYTES = 1_048_576
BLANKS = b" \t\r"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_spool() -> tempfile.SpooledTemporaryFile[bytes]:
    """Return a temporary file that stays in memory while it is small; the caller closes it."""
    return tempfile.SpooledTemporaryFile(SPOOL_MEMORY_BYTES)


@dataclass(slots=True)
class LineSplitter:
    """Cuts chunks of bytes into numbered lines; a line that is too long comes as None."""

    max_line_bytes: int = MAX_LINE_BYTES
    _number: int = 0
    _rest: bytes = b""
    _is_dropping: bool = False

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines that this chunk completes."""
        *complete, rest = (self._rest + chunk).split(b"\n")
        for line in complete:
            yield self._end_line(line)
        # What is over the limit is forgotten, so that no line fills the memory.
        self._is_dropping = self._is_dropping or len(rest) > self.max_line_bytes
        self._rest = b"" if self._is_dropping else rest

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last line, when the body did not end with a line feed."""
        if self._rest or self._is_dropping:
            yield self._end_line(self._rest)

    def _end_line(self, line: bytes) -> tuple[int, bytes | None]:
        self._number += 1
        is_too_long = self._is_dropping or len(line) > self.max_line_bytes
        self._is_dropping = False
        if self._number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        return self._number, None if is_too_long else line.strip(BLANKS)


@dataclass(slots=True)
class LineBatch:
    """The jobs of a text body, valid ones in a temporary file until the last line has been judged.

    Blocking and not thread-safe: one call at a time, off the event loop.
    """

    template: JobTemplate
    valid: int = 0
    invalid: int = 0
    errors: list[FieldError] = field(default_factory=list)
    _splitter: LineSplitter = field(default_factory=LineSplitter)
    _spool: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=open_spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._spool.close()

    def feed(self, chunk: bytes) -> None:
        """Judge the lines that this chunk completes."""
        for number, line in self._splitter.feed(chunk):
            self._judge(number, line)

    def finish(self) -> None:
        """Judge the last line.

        Raises:
            BatchInvalid: a line was not valid; the first 20 are named.
            JobInvalid: there was no line at all.
        """
        for number, line in self._splitter.finish():
            self._judge(number, line)
        if self.invalid:
            total = self.valid + self.invalid
            summary = f"{self.invalid:,} of {total:,} lines are not valid; none was stored"
            raise BatchInvalid(self.errors, summary)
        if not self.valid:
            raise JobInvalid([FieldError("/lines", "There is no URL in the body")])

    def jobs(self, *, batch_id: UUID) -> Iterator[NewJob]:
        """Yield the jobs in the order of their lines, read from the file as they are asked for."""
        self._spool.seek(0)
        for line in self._spool:
            document, host = orjson.loads(line)
            yield self.template.job(ValidArgs(document, host), job_id=new_id(), batch_id=batch_id)

    def _judge(self, number: int, line: bytes | None) -> None:
        if line == b"":
            return
        try:
            args = self._validate(number, line)
        except JobInvalid as error:
            self.invalid += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(FieldError(f"/lines/{number}", error.errors[0].msg))
            return
        self.valid += 1
        if not self.invalid:
            self._spool.write(orjson.dumps((args.document, args.host)) + b"\n")

    def _validate(self, number: int, line: bytes | None) -> ValidArgs:
        at = f"/lines/{number}"
        if line is None:
            raise JobInvalid([FieldError(at, f"The line is longer than {MAX_URL_LENGTH} characters")])
        try:
            url = line.decode()
        except UnicodeDecodeError:
            raise JobInvalid([FieldError(at, "The line is not UTF-8")]) from None
        return self.template.validate({"url": url}, at=at)
