"""How the jobs of a batch arrive: validated line by line, and kept in files until they are stored."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import islice
from typing import Self
from uuid import UUID

import orjson

from producer.api.batch_lines import Line, LineReader, open_reader
from producer.api.problems import HttpProblem
from producer.api.requests import read_document
from producer.batch_validation import DEFAULT_MAX_REJECTED, RejectedLines, located, validate_item
from producer.callers import runs_program
from producer.json_text import read_json
from producer.quotas import LimitName, refusal
from producer.records import NewJob, Rejected
from producer.repeats import RepeatFinder, is_searched
from producer.submission import JobTemplate, ValidArgs, unique_key
from producer.submission_models import BatchSubmission, StreamedBatchSubmission
from shared import exact_json
from shared.clock import utc_now
from shared.errors import FieldError, JobInvalid

_SPOOL_MEMORY_BYTES = 1_048_576
_PART_BYTES = 65_536
# So many are looked up by one query, with their results.
_QUESTIONS = 250
# In place of a key or an id.
_NONE = bytes(16)
# Four times the longest stream: what stands beside each URL, and room for defaults.
_MAX_BATCH_BYTES = 1_073_741_824

# These are written in the query as JSON; all others are written as they are.
_AS_JSON = frozenset(
    {
        *("defaults", "labels", "retry", "callback_events"),
        *("delay_seconds", "expires_after_seconds", "reuse_within_seconds"),
    }
)
_AS_BOOLEAN = frozenset({"dedupe", "strict"})


def _open_spool() -> tempfile.SpooledTemporaryFile[bytes]:
    return tempfile.SpooledTemporaryFile(_SPOOL_MEMORY_BYTES)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one batch may store: jobs, listed lines that became none, bytes of all arguments.

    The `project` is the one that has a limit of its own for the jobs of a batch; it is empty where none has.
    """

    jobs: int = 1_000_000
    rejected: int = DEFAULT_MAX_REJECTED
    bytes: int = _MAX_BATCH_BYTES
    project: str = ""


def bounded(most: BatchLimits, limits: Mapping[LimitName, int], project: str) -> BatchLimits:
    """Return how much a batch of a project may store: what any may, or less."""
    jobs = limits.get(LimitName.BATCH_JOBS, most.jobs)
    rejected = min(most.rejected, limits.get(LimitName.REJECTED_LINES, most.rejected))
    if jobs >= most.jobs:
        return replace(most, rejected=rejected)
    return replace(most, jobs=jobs, rejected=rejected, project=project)


@dataclass(slots=True)
class BatchSpool:
    """The valid jobs and the rejected lines of a batch that is arriving, in memory while they are few.

    Blocking and not thread-safe: one call at a time, off the event loop.
    """

    limits: BatchLimits = BatchLimits()
    noun: str = "items"
    valid: int = 0
    finder: RepeatFinder = field(default_factory=RepeatFinder)
    # What the defaults add to each line, valid or not.
    default_bytes: int = 0
    kind: str = ""
    # Whether one of its jobs runs a program.
    runs_program: bool = False
    _bytes: int = 0
    _rejections: RejectedLines | None = None
    _jobs: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=_open_spool)
    _rejected: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=_open_spool)
    # How many jobs need not ask, and of each job what it asks and who has the answer.
    reused: int = 0
    _answers: tempfile.SpooledTemporaryFile[bytes] = field(default_factory=_open_spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._jobs.close()
        self._rejected.close()
        self._answers.close()

    @property
    def rejections(self) -> int:
        """How many lines became no job."""
        return self._rejections.count if self._rejections else 0

    @property
    def first(self) -> Sequence[Rejected]:
        """The first of them."""
        return self._rejections.first if self._rejections else ()

    @property
    def listed(self) -> int:
        """How many of them are kept."""
        return min(self.rejections, self.limits.rejected + 1)

    def begin(self, template: JobTemplate, submission: BatchSubmission | StreamedBatchSubmission) -> None:
        """Prepare for the jobs of a submission."""
        self.kind = template.kind.name
        self.finder = RepeatFinder(template, dedupe=submission.dedupe)
        self.noun = "items" if isinstance(submission, BatchSubmission) else "lines"
        self.default_bytes = len(exact_json.dumps(submission.defaults))

    def add(self, item: ValidArgs | Rejected) -> None:
        """Keep a job's arguments, or why a line becomes no job.

        Raises:
            BatchInvalid: as `RejectedLines.add` says.
            HttpProblem: 413: the jobs are too many, or too large together.
            ProjectLimitReached: they are more than its project may hand in at once.
        """
        self._bytes += self.default_bytes
        if isinstance(item, ValidArgs):
            line = orjson.dumps((tuple(item), self.finder.find(item.document))) + b"\n"
            self._bytes += len(line)
            self._check_size()
            self.valid += 1
            self.runs_program = self.runs_program or runs_program(self.kind, [item.document])
            self._jobs.write(line)
            return
        self._check_size()
        if self._rejections is None:
            self._rejections = RejectedLines(self.noun, self._keep, self.limits.rejected)
        self._rejections.add(item, valid=self.valid)

    def add_all(self, items: Iterable[ValidArgs | Rejected]) -> int:
        """Keep each of the items, and return how many there were.

        Raises:
            BatchInvalid, HttpProblem: as `add` says.
        """
        count = 0
        for item in items:
            self.add(item)
            count += 1
        return count

    def check(self, *, strict: bool, noun: str) -> None:
        """Return if there is a batch to store.

        Raises:
            BatchInvalid: some were rejected and it is strict, or none is valid.
            JobInvalid: there was nothing at all.
        """
        if not self.valid and not self.rejections:
            raise JobInvalid([FieldError(f"/{noun}", "There is no job in the body")])
        if self._rejections:
            self._rejections.check(valid=self.valid, strict=strict)
            self._rejections.finish()

    def _keep(self, rejected: Rejected) -> None:
        why = (rejected.number, rejected.loc, rejected.msg, rejected.ref, rejected.given)
        self._rejected.write(orjson.dumps(why) + b"\n")

    def _check_size(self) -> None:
        if self.valid >= self.limits.jobs:
            if self.limits.project:
                most = self.limits.jobs
                raise refusal(self.limits.project, LimitName.BATCH_JOBS, value=most, used=most + 1)
            msg = f"A batch may have {self.limits.jobs:,} jobs; send it in parts"
        elif self._bytes > self.limits.bytes:
            msg = (
                f"With the defaults of each, the arguments of all jobs take more than {self.limits.bytes:,} "
                "bytes; send the batch in parts"
            )
        else:
            return
        fault = FieldError(f"/{self.noun}", msg)
        raise HttpProblem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{msg}. Nothing was stored.", errors=[fault])

    def questions(self, template: JobTemplate) -> Iterator[list[bytes | None]]:
        """Yield the keys of what the jobs ask, some at a time; `keep_answers` of them before the next."""
        keys = (self._key(template, *each) for each in self._found())
        while part := list(islice(keys, _QUESTIONS)):
            yield part

    def keep_answers(self, keys: Sequence[bytes | None], answers: Mapping[bytes, UUID]) -> None:
        """Keep which jobs have the answers to the next questions; a job that has one need not ask."""
        for key in keys:
            answer = None if key is None else answers.get(key)
            self.reused += answer is not None
            self._answers.write((key or _NONE) + (answer.bytes if answer else _NONE))

    def jobs(self, template: JobTemplate, *, batch_id: UUID) -> Iterator[NewJob]:
        """Yield the jobs in the order of their lines, read from the file as they are asked for."""
        yield from self.finder.jobs(template, self._found(), batch_id=batch_id, known=self._known())

    def _key(self, template: JobTemplate, args: ValidArgs, original: int | None) -> bytes | None:
        # A page that is searched for a fragment was searched for another one.
        if original is not None or is_searched(args.document):
            return None
        return unique_key(template.kind.name, args.document, project=template.project)

    def _known(self) -> Iterator[tuple[bytes | None, UUID | None]]:
        self._answers.seek(0)
        while each := self._answers.read(2 * len(_NONE)):
            key, answer = each[: len(_NONE)], each[len(_NONE) :]
            yield None if key == _NONE else key, None if answer == _NONE else UUID(bytes=answer)

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
    def open(cls, media_type: str, query: Mapping[str, str], spool: BatchSpool, *, project: str) -> Self:
        """Return the stream to a project that a query announces.

        Raises:
            JobInvalid: the query breaks a rule; every parameter is named.
        """
        submission = read_query(query)
        with located("/query"):
            template = JobTemplate.of(submission, project=project, now=utc_now())
        spool.begin(template, submission)
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


def parts_of(chunk: bytes) -> Iterator[bytes]:
    """Cut what arrived at once into pieces of work of some 50 ms."""
    for begin in range(0, len(chunk), _PART_BYTES):
        yield chunk[begin : begin + _PART_BYTES]


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
