"""Job ids that come as lines, as many as there are: kept in a file until they are stored."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Self
from uuid import UUID

from producer.api.batch_splitting import LineSplitter
from producer.api.problems import HttpProblem
from shared.errors import FieldError, JobInvalid

_ID_CHARACTERS = 36
_ID_BYTES = 16
_SPOOL_MEMORY_BYTES = 1_048_576
# How many faults an answer names.
_MAX_FAULTS = 20
# One transaction lists them, and SQLite has no other writer meanwhile.
MAX_LISTED_IDS: Final = 1_000_000
_TOO_MANY = f"A list may have {MAX_LISTED_IDS:,} ids; send it in parts"
_NO_ID = "It is not the id of a job, such as 0199aa3e-7b5c-7d4e-9f00-3b1f6c2a9d10"


def _open_spool() -> tempfile.SpooledTemporaryFile[bytes]:
    return tempfile.SpooledTemporaryFile(_SPOOL_MEMORY_BYTES)


@dataclass(slots=True)
class IdSpool:
    """Reads one id a line, however the body is cut; blank lines are ignored.

    Blocking and not thread-safe: one call at a time, off the event loop.
    """

    count: int = 0
    _faults: list[FieldError] = field(default_factory=list)
    _splitter: LineSplitter = field(default_factory=lambda: LineSplitter(_ID_CHARACTERS + 8))
    _ids: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=_open_spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ids.close()

    def feed(self, chunk: bytes) -> None:
        """Keep the ids that this chunk completes.

        Raises:
            JobInvalid: as many lines of what came before are no ids as are named, so nobody reads on.
            HttpProblem: 413: there are too many.
        """
        if len(self._faults) == _MAX_FAULTS:
            raise JobInvalid(self._faults)
        self._take(self._splitter.feed(chunk))

    def finish(self) -> None:
        """Keep the last id.

        Raises:
            JobInvalid: a line is no id, or there was none. So a list with a typing error begins nothing.
        """
        self._take(self._splitter.finish())
        if self._faults:
            raise JobInvalid(self._faults)
        if not self.count:
            raise JobInvalid([FieldError("/lines", "There is no id in the body")])

    def ids(self) -> Iterator[UUID]:
        """Yield the ids in their order, read from the file."""
        self._ids.seek(0)
        while each := self._ids.read(_ID_BYTES):
            yield UUID(bytes=each)

    def add(self, ids: Iterable[UUID]) -> None:
        """Keep ids that were found here.

        Raises:
            HttpProblem: 413: there are too many.
        """
        for each in ids:
            self._keep(each)

    def _take(self, lines: Iterable[tuple[int, bytes | None]]) -> None:
        for number, line in lines:
            if line == b"":
                continue
            job_id = _read_id(line)
            if job_id is None:
                if len(self._faults) < _MAX_FAULTS:
                    self._faults.append(FieldError(f"/lines/{number}", _NO_ID))
                continue
            self._keep(job_id)

    def _keep(self, job_id: UUID) -> None:
        self.count += 1
        if self.count > MAX_LISTED_IDS:
            fault = FieldError("/lines", _TOO_MANY)
            raise HttpProblem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{_TOO_MANY}.", errors=[fault])
        self._ids.write(job_id.bytes)


def _read_id(line: bytes | None) -> UUID | None:
    if line is None or len(line) != _ID_CHARACTERS:
        return None
    try:
        text = line.decode("ascii")
        job_id = UUID(text)
    except ValueError:
        return None
    # UUID() takes hyphens and underscores in any place; a job has one name.
    return job_id if str(job_id) == text.lower() else None
