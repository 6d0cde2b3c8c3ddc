"""Which lines and items of a batch become jobs, and whether the rest is stored without the others. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from producer.records import Rejected
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


def validate_items(submission: BatchSubmission, template: JobTemplate) -> Iterator[ValidArgs | Rejected]:
    """Yield the validated arguments or the rejection of each item of a JSON batch, in their order."""
    for index, item in enumerate(submission.items):
        yield validate_item(template, submission.defaults, Arguments(index + 1, f"/items/{index}", item))


def batch_args(
    submission: BatchSubmission, template: JobTemplate
) -> tuple[Sequence[ValidArgs], Sequence[Rejected]]:
    """Return the arguments of a JSON batch's jobs, and its rejected items.

    Raises:
        BatchInvalid: as `check_batch` says.
    """
    items = list(validate_items(submission, template))
    valid = [item for item in items if isinstance(item, ValidArgs)]
    rejected = [item for item in items if isinstance(item, Rejected)]
    check_batch(valid=len(valid), rejected=len(rejected), first=rejected, strict=submission.strict)
    return valid, rejected


def check_batch(
    *, valid: int, rejected: int, first: Sequence[Rejected], strict: bool, noun: str = "items"
) -> None:
    """Return if the batch may be stored.

    Raises:
        BatchInvalid: an item was rejected and the batch is strict, or no item is valid.
    """
    if rejected and (strict or not valid):
        errors = [FieldError(each.loc, each.msg) for each in first[:MAX_ERRORS]]
        summary = f"{rejected:,} of {valid + rejected:,} {noun} are not valid; none was stored"
        raise BatchInvalid(errors, summary)


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
