"""From a submitted document to the jobs to store. Pure: knows neither requests nor the store."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

from pydantic import BaseModel, ValidationError

from producer.callers import DEFAULT_PROJECT
from producer.records import LOOK_AFTER, CallbackEvent, NewBatch, NewJob
from producer.submission_models import (
    MAX_AHEAD_SECONDS,
    BatchSubmission,
    JobSubmission,
    StreamedBatchSubmission,
    TaskSubmission,
    TimedSubmission,
)
from producer.unknown_fields import known_fields, no_such
from shared import exact_json
from shared.errors import FieldError, JobInvalid
from shared.kinds.registry import KINDS, Kind, Lane, args_document
from shared.kinds.webhook import WEBHOOK
from shared.redaction import MASK, masked_places, redact_text
from shared.retry import RetryPolicy
from shared.urls import url_host

MAX_AHEAD = timedelta(seconds=MAX_AHEAD_SECONDS)
MAX_ECHO_LENGTH = 60
_CHECK = "check"
_MASK_OCTETS = MASK.encode()
_MASKED = (
    f"{MASK} stands where Retriever hides a user, password or key; write out what belongs there, "
    "or the name of a secret"
)
# More than any document of ours, or the arguments of any kind, has.
_MAX_NAMES = 1_000
# pydantic's name for it.
_UNKNOWN_FIELD = "extra_forbidden"


def new_job(
    submission: JobSubmission | TaskSubmission, *, job_id: UUID, project: str, now: datetime
) -> NewJob:
    """Return the job of a project that a submission asks for, ready to be stored.

    Raises:
        JobInvalid: the kind is unknown or its arguments break a rule; every field is named.
    """
    template = JobTemplate.of(submission, project=project, now=now)
    args = template.validate(submission.args, at=submission.ARGS_AT)
    return replace(
        template.job(args, job_id=job_id),
        unique_key=unique_key(submission.kind, args.document, project=project),
        unique_for_seconds=submission.unique_for_seconds,
        ref=submission.ref,
    )


def unique_key(kind: str, args: Mapping[str, Any], *, project: str) -> bytes:
    """Return 16 bytes that are the same for jobs of a project that ask for the same.

    The arguments are normalized already. The fragment of a URL does not count: it is never sent to a server
    (RFC 9110 section 4.2.5).
    """
    asked = dict(args)
    if isinstance(url := asked.get("url"), str):
        asked["url"] = url.partition("#")[0]
    said = [kind, asked] if project == DEFAULT_PROJECT else [kind, asked, project]
    text = exact_json.dumps(said, sort_keys=True)
    return hashlib.sha256(text).digest()[:16]


class ValidArgs(NamedTuple):
    """Arguments as they are stored, and the host they lead to; the host is empty when there is none.

    A tuple, which is made in a quarter of the time: a batch makes three a line.

    Attributes:
        given_url: The URL as it was handed in, where that is another text than the one in the document.
        ref: The sender's own name for the item of a batch.
        line: The number of the item or line, from 1.
    """

    document: Mapping[str, Any]
    host: str
    given_url: str | None = None
    ref: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Both in UTC. Without `due_at` a job runs now; without `deadline_at` it waits for ever."""

    due_at: datetime | None = None
    deadline_at: datetime | None = None


NOW = Timing()


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """What all jobs of one submission have in common, worked out once."""

    kind: Kind
    lane: Lane
    retry: RetryPolicy
    labels: Mapping[str, str]
    created_at: datetime
    project: str
    timing: Timing = NOW
    schedule_id: UUID | None = None
    callback_url: str | None = None
    callback_events: Sequence[str] | None = None

    @classmethod
    def of(
        cls,
        submission: JobSubmission | TaskSubmission | BatchSubmission | StreamedBatchSubmission,
        *,
        project: str,
        now: datetime,
        schedule_id: UUID | None = None,
    ) -> Self:
        """Return the template of a submission to a project.

        Raises:
            JobInvalid: the kind is unknown or has no callback, or the times contradict each other.
        """
        kind = find_kind(submission.kind)
        retry = kind.retry.model_copy(update=submission.retry.model_dump(exclude_unset=True))
        timing = timing_of(submission, now=now)
        callback_url = submission.callback_url
        if callback_url is not None and kind.name == WEBHOOK:
            # Otherwise webhooks would report webhooks for ever.
            raise _invalid("/callback_url", "A webhook has no callback of its own")
        if getattr(submission, "reuse_within_seconds", None) is not None and kind.name != _CHECK:
            raise _invalid("/reuse_within_seconds", "Only checks can take the answers of others")
        if callback_url is None and submission.callback_events is not None:
            raise _invalid("/callback_events", "They go with callback_url")
        return cls(
            kind,
            submission.lane,
            retry,
            submission.labels,
            now,
            project,
            timing,
            schedule_id,
            callback_url,
            submission.callback_events,
        )

    def validate(self, args: Mapping[str, Any], *, at: str = "/args") -> ValidArgs:
        """Return arguments as they are stored: normalized, and only what differs from the defaults.

        Args:
            at: JSON pointer of the arguments, for the errors.

        Raises:
            JobInvalid: they break a rule; every field is named.
        """
        valid = valid_args(self.kind, args, at=at)
        if "page" in valid.document:
            # Only new jobs are refused: a parked page may be redriven with edited arguments.
            raise _invalid(f"{at}/page", "Only the service itself creates jobs for single pages")
        return valid

    def job(
        self, args: ValidArgs, *, job_id: UUID, batch_id: UUID | None = None, same_as: UUID | None = None
    ) -> NewJob:
        """Return one job of this template.

        Args:
            same_as: The job of its batch that asks for the same; its own id if it is the one that asks.
        """
        due_at = self.timing.due_at
        if same_as is not None and same_as != job_id:
            due_at = (due_at or self.created_at) + LOOK_AFTER
        events = self.callback_events
        if batch_id is not None and events is not None:
            # A batch calls back once, for all its jobs, unless their own ends are asked for.
            events = [event for event in events if event != CallbackEvent.BATCH_COMPLETED] or None
        return NewJob(
            id=job_id,
            kind=self.kind.name,
            lane=self.lane,
            args=args.document,
            retry=self.retry,
            host=args.host,
            created_at=self.created_at,
            labels=self.labels,
            batch_id=batch_id,
            due_at=due_at,
            deadline_at=self.timing.deadline_at,
            schedule_id=self.schedule_id,
            callback_url=self.callback_url if batch_id is None or events else None,
            callback_events=events,
            ref=args.ref,
            line=args.line,
            given_url=args.given_url,
            same_as=same_as,
            project=self.project,
        )

    def batch(self, *, batch_id: UUID, repeats: int = 0, rejected: int = 0) -> NewBatch:
        """Return a batch for jobs of this template, of which so many repeat others; of so many came none."""
        return NewBatch(
            id=batch_id,
            kind=self.kind.name,
            created_at=self.created_at,
            labels=self.labels,
            schedule_id=self.schedule_id,
            callback_url=self.callback_url,
            callback_events=self.callback_events,
            repeats=repeats,
            rejected=rejected,
            project=self.project,
        )


def timing_of(submission: TimedSubmission, *, now: datetime) -> Timing:
    """Return when a job may run and until when.

    Raises:
        JobInvalid: two fields set the same time, a time is over a year ahead, or the deadline comes first.
    """
    due_at = _due_at(submission, now)
    return Timing(due_at, _deadline_at(submission, due_at or now))


def valid_args(kind: Kind, args: Mapping[str, Any], *, at: str = "/args") -> ValidArgs:
    """Return arguments of a kind as they are stored: normalized, and only what differs from the defaults.

    Args:
        kind: Whose arguments they are.
        args: As they were sent.
        at: JSON pointer of the arguments, for the errors.

    Raises:
        JobInvalid: they break a rule; every field is named.
    """
    check_names(args, at=at)
    text = _args_text(args, at=at)
    model = _validate_args(kind, text, at=at)
    document = args_document(model)
    # A backslash before it may be escaped, so this only says where it is worth to look.
    if b"\\u0000" in text:
        check_storable(document, at=at)
    if _MASK_OCTETS in text:
        _check_unmasked(document, at=at)
    url = getattr(model, "url", None)
    if not url:
        return ValidArgs(document, "")
    given_url = args["url"]
    return ValidArgs(document, url_host(url), None if given_url == url else given_url)


def _check_unmasked(document: object, *, at: str) -> None:
    # Arguments that were read from us and come back would send the mask, in silence.
    if (masked_at := next(masked_places(document, at), None)) is not None:
        raise _invalid(masked_at, _MASKED)


def check_names(document: object, *, at: str = "") -> None:
    """Do nothing if an object has no more names than any of ours: each that is unknown would be a fault.

    Raises:
        JobInvalid: it has.
    """
    if isinstance(document, dict) and len(document) > _MAX_NAMES:
        raise _invalid(at, f"It has {len(document):,} names, and no document has so many")


def check_storable(document: object, *, at: str) -> None:
    """Do nothing if a JSON value can be stored.

    Raises:
        JobInvalid: it has a NUL, which PostgreSQL stores neither in text nor in JSON.
    """
    if (nul_at := next(_nul_pointers(document, at), None)) is not None:
        raise _invalid(nul_at, "A NUL character cannot be stored")


def find_kind(name: str) -> Kind:
    """Return the kind with this name.

    Raises:
        JobInvalid: there is no such kind; the message lists the known ones.
    """
    if (kind := KINDS.get(name)) is None:
        known = ", ".join(sorted(KINDS))
        raise JobInvalid(
            [FieldError("/kind", f"Unknown kind '{redact_text(name)[:MAX_ECHO_LENGTH]}'; known are: {known}")]
        )
    return kind


def field_errors(error: ValidationError, model: type[BaseModel], *, at: str = "") -> list[FieldError]:
    """Return the faults that pydantic found, each with its JSON pointer below `at`, without the values.

    For a field that there is none of, the fault lists the fields of the model that there are.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        FieldError(
            at + json_pointer(entry["loc"]),
            no_such("field", known_fields(model, entry["loc"][:-1]))
            if entry["type"] == _UNKNOWN_FIELD
            else entry["msg"],
        )
        for entry in found
    ]


def json_pointer(parts: Iterable[int | str]) -> str:
    """Return a JSON pointer (RFC 6901), each part cut to a bounded length; "" is the whole document."""
    # pydantic appends `[key]` when the name of a field is at fault.
    named = (redact_text(str(part))[:MAX_ECHO_LENGTH] for part in parts if part != "[key]")
    shown = (
        name.replace("~", "~0").replace("/", "~1").replace("\0", "\N{REPLACEMENT CHARACTER}")
        for name in named
    )
    return "".join(f"/{name}" for name in shown)


def _args_text(args: Mapping[str, Any], *, at: str) -> bytes:
    try:
        return exact_json.dumps(args)
    except (TypeError, ValueError):
        # What comes as JSON was read by `json_text`, so only arguments that were made otherwise end here.
        raise _invalid(at, "A number is too large, or values are nested too deeply") from None


def _validate_args(kind: Kind, text: bytes, *, at: str) -> BaseModel:
    try:
        # Strict, but from JSON: "5" is no number, and "GET" is a method all the same.
        return kind.args_model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise JobInvalid(field_errors(error, kind.args_model, at=at)) from None


def _nul_pointers(document: object, at: str) -> Iterator[str]:
    match document:
        case str() if "\0" in document:
            yield at
        case dict():
            for name, value in document.items():
                place = at + json_pointer([name])
                if "\0" in name:
                    yield place
                yield from _nul_pointers(value, place)
        case list():
            for index, value in enumerate(document):
                yield from _nul_pointers(value, f"{at}/{index}")


def _due_at(submission: TimedSubmission, now: datetime) -> datetime | None:
    if submission.run_at is not None and submission.delay_seconds is not None:
        raise _invalid("/delay_seconds", "Send either run_at or delay_seconds")
    due_at = submission.run_at
    if submission.delay_seconds is not None:
        due_at = now + timedelta(seconds=submission.delay_seconds)
    if due_at is None or due_at <= now:
        return None
    if due_at > now + MAX_AHEAD:
        raise _invalid("/run_at", "It is more than a year ahead")
    return due_at.astimezone(UTC)


def _deadline_at(submission: TimedSubmission, starts_at: datetime) -> datetime | None:
    if submission.deadline_at is not None and submission.expires_after_seconds is not None:
        raise _invalid("/expires_after_seconds", "Send either deadline_at or expires_after_seconds")
    if submission.expires_after_seconds is not None:
        return starts_at + timedelta(seconds=submission.expires_after_seconds)
    if submission.deadline_at is None:
        return None
    if submission.deadline_at <= starts_at:
        raise _invalid("/deadline_at", "It comes before the job may run")
    if submission.deadline_at > starts_at + MAX_AHEAD:
        raise _invalid("/deadline_at", "It is more than a year after the job may run")
    return submission.deadline_at.astimezone(UTC)


def _invalid(loc: str, msg: str) -> JobInvalid:
    return JobInvalid([FieldError(loc, msg)])
