"""Where a batch waits while it arrives: its jobs and rejected lines, held in memory while small."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import orjson

from producer.batch_validation import check_batch
from producer.records import FIRST_REJECTED, NewJob, Rejected
from producer.submission import JobTemplate, ValidArgs
from shared.errors import FieldError, JobInvalid
from shared.identity import new_id

SPOOL_MEMORY_BYTES = 1_048_576


def open_spool() -> tempfile.SpooledTemporaryFile[bytes]:
    """Return a temporary file that stays in memory while it is small; the caller closes it."""
    return tempfile.SpooledTemporaryFile(SPOOL_MEMORY_BYTES)


@dataclass(slots=True)
class BatchSpool:
    """What the lines or items of a batch have come to so far.

    Blocking and not thread-safe: one call at a time, off the event loop.
    """

    valid: int = 0
    rejections: int = 0
    first: list[Rejected] = field(default_factory=list)
    _jobs: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=open_spool)
    _rejected: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=open_spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._jobs.close()
        self._rejected.close()

    def add(self, judged: ValidArgs | Rejected) -> None:
        """Keep a job's arguments, or why a line is none."""
        if isinstance(judged, ValidArgs):
            self.valid += 1
            self._jobs.write(orjson.dumps((judged.document, judged.host)) + b"\n")
            return
        self.rejections += 1
        self._rejected.write(orjson.dumps((judged.number, judged.loc, judged.msg)) + b"\n")
        if len(self.first) < FIRST_REJECTED:
            self.first.append(judged)

    def check(self, *, strict: bool, noun: str) -> None:
        """Do nothing if there is a batch to be stored.

        Raises:
            BatchInvalid: some were rejected and it is strict, or none is valid.
            JobInvalid: there was nothing at all.
        """
        if not self.valid and not self.rejections:
            raise JobInvalid([FieldError(f"/{noun}", "There is no job in the body")])
        check_batch(valid=self.valid, rejected=self.rejections, first=self.first, strict=strict, noun=noun)

    def jobs(self, template: JobTemplate, *, batch_id: UUID) -> Iterator[NewJob]:
        """Yield the jobs in the order of their lines, read from the file as they are asked for."""
        self._jobs.seek(0)
        for line in self._jobs:
            document, host = orjson.loads(line)
            yield template.job(ValidArgs(document, host), job_id=new_id(), batch_id=batch_id)

    def rejected(self) -> Iterator[Rejected]:
        """Yield what became no job, in the order of the lines, read from the file."""
        self._rejected.seek(0)
        for line in self._rejected:
            yield Rejected(*orjson.loads(line))
