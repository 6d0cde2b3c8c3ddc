"""Which lines and items of a batch become jobs, and whether the rest is stored without the others. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from producer.records import FIRST_REJECTED, Rejected
from producer.submission import JobTemplate, ValidArgs
from producer.submission_models import BatchSubmission
from shared.errors import FieldError, JobInvalid
from shared.messages import Ref
from shared.redaction import redact_pairs, redact_url

# How many faults an answer names.
MAX_ERRORS = 20
# So much of a rejected line is kept, for a person to find it by.
MAX_GIVEN_LENGTH = 200
# As long as a URL may be: what is cut off before its password ends could not be told from a host.
_MOST_READ_BYTES = 8_192
MAX_LOC_LENGTH = 200
MAX_MSG_LENGTH = 500
# All are counted, and so many listed: a person corrects no more by hand.
DEFAULT_MAX_REJECTED: Final = 10_000
# When the first so many are all rejected, it is no list of jobs, and nobody reads on.
HOPELESS_LINES: Final = 100_000
# As many as there may be jobs: whoever has so many wrong lines among good ones sends the list in parts.
MAX_REJECTED: Final = 1_000_000
# PostgreSQL stores no NUL; the other controls, but for tabs and line ends, spoil what shows them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_REF = TypeAdapter[str](Ref)


class BatchInvalid(JobInvalid):
    """A batch was not stored, because of its jobs; `summary` counts them, `errors` names the first."""

    def __init__(self, errors: Sequence[FieldError], summary: str) -> None:
        super().__init__(errors)
        self.summary = summary


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments on one line or in one item, with its number from 1 and its JSON pointer.

    The document is a `FieldError` when its JSON was refused. `line` is the line as it came, if it was one.
    """

    number: int
    at: str
    document: object
    line: bytes | None = None


def validate_item(
    template: JobTemplate, defaults: Mapping[str, Any], item: Arguments
) -> ValidArgs | Rejected:
    """Return the arguments of a job, with the batch's defaults filled in, or why it becomes no job."""
    if isinstance(item.document, FieldError):
        return Rejected(item.number, item.document.loc, item.document.msg)
    if not isinstance(item.document, dict):
        return _rejected(item, item.at, 'It is not an object of arguments, such as {"url": "https://..."}')
    args = {**defaults, **item.document}
    ref = args.pop("ref", None)
    try:
        if ref is not None:
            check_ref(ref, at=item.at)
        valid = template.validate(args, at=item.at)
    except JobInvalid as error:
        # One fault an item: a fault in the defaults would fill the list for every one of them.
        first = error.errors[0]
        return _rejected(item, first.loc, first.msg, ref=ref if first.loc != f"{item.at}/ref" else None)
    return ValidArgs(valid.document, valid.host, valid.given_url, ref, item.number)


def _rejected(item: Arguments, loc: str, msg: str, *, ref: str | None = None) -> Rejected:
    line = orjson.dumps(item.document) if item.line is None else item.line
    return Rejected(item.number, loc, msg, ref, given_text(line))


def check_ref(ref: object, *, at: str) -> None:
    """Return if this may be the ref of an item.

    Raises:
        JobInvalid: it is no text, too long, empty, or has control characters.
    """
    try:
        _REF.validate_python(ref, strict=True)
    except ValidationError as error:
        raise JobInvalid([FieldError(f"{at}/ref", error.errors()[0]["msg"])]) from None


def validate_items(
    items: Iterable[Arguments], template: JobTemplate, defaults: Mapping[str, Any]
) -> Iterator[ValidArgs | Rejected]:
    """Yield the validated arguments or the rejection of each item of a JSON batch, in their order."""
    for item in items:
        yield validate_item(template, defaults, item)


def batch_args(
    submission: BatchSubmission, template: JobTemplate
) -> tuple[Sequence[ValidArgs], Sequence[Rejected], int]:
    """Return the arguments of a JSON batch's jobs, its rejected items that are kept, and how many there were.

    Raises:
        BatchInvalid: as `RejectedLines` says.
    """
    valid: list[ValidArgs] = []
    kept: list[Rejected] = []
    rejected = RejectedLines("items", kept.append)
    items = (Arguments(index + 1, f"/items/{index}", each) for index, each in enumerate(submission.items))
    for item in validate_items(items, template, submission.defaults):
        if isinstance(item, ValidArgs):
            valid.append(item)
        else:
            rejected.add(item, valid=len(valid))
    rejected.check(valid=len(valid), strict=submission.strict)
    rejected.finish()
    return valid, kept, rejected.count


@dataclass(slots=True)
class RejectedLines:
    """What becomes no job of a batch that is being read: all are counted, the first are kept.

    Attributes:
        noun: What the batch calls them: lines or items.
        keep: Takes each that is kept.
        most: How many are kept; one more tells of those that are not.
    """

    noun: str
    keep: Callable[[Rejected], None]
    most: int = DEFAULT_MAX_REJECTED
    count: int = 0
    first: list[Rejected] = field(default_factory=list)
    _left_out: Rejected | None = None

    def add(self, rejected: Rejected, *, valid: int) -> None:
        """Count a line, and keep it while there are few.

        Args:
            rejected: The line.
            valid: How many jobs the batch has so far.

        Raises:
            BatchInvalid: so many were rejected, or so many with no valid one before, that nobody reads on.
        """
        self.count += 1
        if self.count <= self.most + 1:
            self._note(_shortened(rejected))
        if self.count > MAX_REJECTED or (self.count >= HOPELESS_LINES and not valid):
            seen = f"{self.count:,} of the first {valid + self.count:,} {self.noun} are not valid"
            raise BatchInvalid(self._errors(), f"{seen}; the rest was not read, and none was stored")

    def finish(self) -> None:
        """Tell in the list of those that are not in it."""
        if self._left_out is not None:
            others = self.count - self.most - 1
            rest = f". {others:,} more became no job: they are counted and not listed" if others else ""
            self.keep(replace(self._left_out, msg=self._left_out.msg + rest))

    def check(self, *, valid: int, strict: bool) -> None:
        """Return if the batch may be stored.

        Raises:
            BatchInvalid: a line was rejected and the batch is strict, or no line is valid.
        """
        if self.count and (strict or not valid):
            summary = f"{self.count:,} of {valid + self.count:,} {self.noun} are not valid; none was stored"
            raise BatchInvalid(self._errors(), summary)

    def _note(self, rejected: Rejected) -> None:
        if len(self.first) < FIRST_REJECTED:
            self.first.append(rejected)
        if self.count <= self.most:
            self.keep(rejected)
        else:
            self._left_out = rejected

    def _errors(self) -> list[FieldError]:
        return [FieldError(each.loc, each.msg) for each in self.first[:MAX_ERRORS]]


def _shortened(rejected: Rejected) -> Rejected:
    """Return a rejection as it is stored: a pointer into a stranger's JSON may be as long as that."""
    loc, msg = rejected.loc[:MAX_LOC_LENGTH], rejected.msg[:MAX_MSG_LENGTH]
    return replace(rejected, loc=loc, msg=msg)


def is_ref(text: str) -> bool:
    """Return whether a text may be the ref of an item."""
    try:
        check_ref(text, at="")
    except JobInvalid:
        return False
    return True


def given_text(line: bytes | None) -> str | None:
    """Return the beginning of a line as text that can be stored and shown; None, if it is not known.

    It runs no job, so user and password of its URL, and what looks secret beside it, are not even kept.
    """
    if line is None:
        return None
    text = redact_pairs(redact_url(line[:_MOST_READ_BYTES].decode(errors="replace")))
    shown = text[:MAX_GIVEN_LENGTH] + "…" * (len(text) > MAX_GIVEN_LENGTH)
    return shown if shown.isprintable() else _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", shown)


@contextmanager
def located(at: str) -> Iterator[None]:
    """Put `at` in front of the location of every fault that is raised within the block."""
    try:
        yield
    except JobInvalid as error:
        raise JobInvalid([FieldError(at + each.loc, each.msg) for each in error.errors]) from None
