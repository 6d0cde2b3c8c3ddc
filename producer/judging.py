"""Which lines and items of a batch become jobs, and whether the batch stands with the rest. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from producer.api.models import BatchSubmission
from producer.records import Rejected
from producer.submission import JobTemplate, ValidArgs
from shared.errors import FieldError, JobInvalid

# How many faults an answer names.
MAX_ERRORS = 20


class BatchInvalid(JobInvalid):
    """A batch was not stored, because of its jobs; `summary` counts them, `errors` names the first."""

    def __init__(self, errors: Sequence[FieldError], summary: str) -> None:
        super().__init__(errors)
        self.summary = summary


@dataclass(frozen=True, slots=True)
class Arguments:
    """What one line or item says, and where: its number from 1 and its JSON pointer."""

    number: int
    at: str
    document: object


def judge(template: JobTemplate, defaults: Mapping[str, Any], said: Arguments) -> ValidArgs | Rejected:
    """Return the arguments of a job, the batch's defaults filled in, or why it is none."""
    if not isinstance(said.document, dict):
        return Rejected(said.number, said.at, "It is not an object of arguments")
    try:
        return template.validate({**defaults, **said.document}, at=said.at)
    except JobInvalid as error:
        # Each is named once: a fault in the defaults is in every one.
        first = error.errors[0]
        return Rejected(said.number, first.loc, first.msg)


def judge_items(submission: BatchSubmission, template: JobTemplate) -> Iterator[ValidArgs | Rejected]:
    """Yield what each item of a JSON batch comes to, in their order."""
    for index, item in enumerate(submission.items):
        yield judge(template, submission.defaults, Arguments(index + 1, f"/items/{index}", item))


def batch_args(
    submission: BatchSubmission, template: JobTemplate
) -> tuple[Sequence[ValidArgs], Sequence[Rejected]]:
    """Return the arguments of a JSON batch's jobs, and the items that are none.

    Raises:
        BatchInvalid: as `check_batch` says.
    """
    valid: list[ValidArgs] = []
    rejected: list[Rejected] = []
    for judged in judge_items(submission, template):
        if isinstance(judged, Rejected):
            rejected.append(judged)
        else:
            valid.append(judged)
    check_batch(valid=len(valid), rejected=len(rejected), first=rejected, strict=submission.strict)
    return valid, rejected


def check_batch(
    *, valid: int, rejected: int, first: Sequence[Rejected], strict: bool, noun: str = "items"
) -> None:
    """Do nothing if the batch is to be stored.

    Raises:
        BatchInvalid: some were rejected and it is strict, or none is valid.
    """
    if rejected and (strict or not valid):
        errors = [FieldError(each.loc, each.msg) for each in first[:MAX_ERRORS]]
        summary = f"{rejected:,} of {valid + rejected:,} {noun} are not valid; none was stored"
        raise BatchInvalid(errors, summary)


@contextmanager
def located(at: str) -> Iterator[None]:
    """Name the fields of what is invalid within the block below `at`."""
    try:
        yield
    except JobInvalid as error:
        raise JobInvalid([FieldError(at + each.loc, each.msg) for each in error.errors]) from None
