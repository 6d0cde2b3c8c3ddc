"""What became of a link: one word for each way, whatever asked and however it is reported. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from retriever_client.cli.links.targets import FileVerdict
from retriever_client.models import Job


class Outcome(StrEnum):
    """What became of a link, worst first."""

    BROKEN = "broken"  # A definite bad answer, which stays until somebody repairs it.
    DOWN = "down"  # It may pass, and had not when all attempts were used up.
    REJECTED = "rejected"  # It is no URL that can be asked for.
    UNANSWERED = "unanswered"  # The service could not find out; that says nothing about the URL.
    UNREAD = "unread"  # A document that could not be read.
    BLOCKED = "blocked"  # Somebody is there and does not let us in; a person may see a page.
    UNFINISHED = "unfinished"  # Not known yet.
    REDIRECT = "redirect"  # Good, and somewhere else; only where `--redirects` is not `allow`.
    OK = "ok"


FAILING: Final = (Outcome.BROKEN, Outcome.DOWN, Outcome.REJECTED, Outcome.UNANSWERED, Outcome.UNREAD)
"""What `--fail-on` names when it is not given."""
# What an answer can be; the others are ours.
_VERDICTS = frozenset({Outcome.OK, Outcome.BROKEN, Outcome.BLOCKED, Outcome.DOWN})
_PERMANENT = frozenset({301, 308})


class Redirects(StrEnum):
    """What is to be said of a link that leads elsewhere."""

    ALLOW = "allow"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found out about a target.

    Attributes:
        reason: A stable code, such as `http_404`.
        final_url: Where it leads, if it is elsewhere.
        fragments: For those that were asked about whether they are in the page; None where that was not
            judged.
    """

    outcome: Outcome
    reason: str | None = None
    explanation: str | None = None
    status: int | None = None
    final_url: str | None = None
    job_id: str | None = None
    fragments: Mapping[str, bool | None] | None = None


def answer_of_job(job: Job, redirects: Redirects) -> Answer:
    """Return what a check found; of one that has not ended that it is unfinished."""
    result = job.result or {}
    verdict = job.verdict if job.verdict in _VERDICTS else None
    if not job.is_ended or job.state == "cancelled":
        return Answer(Outcome.UNFINISHED, job.reason or job.state, job.explanation, job_id=job.id)
    if verdict is None:
        return Answer(Outcome.UNANSWERED, job.reason, job.explanation, job_id=job.id)
    moved = _redirect(result)
    outcome, reason = Outcome(verdict), _text(result.get("reason")) or job.reason
    explanation = _text(result.get("explanation")) or job.explanation
    if moved is not None and outcome is Outcome.OK and redirects is not Redirects.ALLOW:
        outcome, reason = Outcome.REDIRECT, f"http_{moved}"
        kind = "for good" if moved in _PERMANENT else "for now"
        explanation = f"It has moved {kind} to {result.get('final_url')}"
    return Answer(
        outcome,
        None if outcome is Outcome.OK else reason,
        None if outcome is Outcome.OK else explanation,
        result.get("status"),
        None if moved is None else _text(result.get("final_url")),
        job.id,
        _fragments(result),
    )


def answer_of_file(verdict: FileVerdict) -> Answer:
    """Return what was found of a file on this machine."""
    match verdict:
        case FileVerdict.OK:
            return Answer(Outcome.OK)
        case FileVerdict.MISSING:
            return Answer(Outcome.BROKEN, "file_missing", "There is no such file.")
        case FileVerdict.MISSING_FRAGMENT:
            return Answer(Outcome.BROKEN, "fragment_missing", FRAGMENT_MISSING)
        case FileVerdict.UNREADABLE:
            return Answer(Outcome.UNANSWERED, "file_unreadable", "The file cannot be read.")


FRAGMENT_MISSING: Final = "Nothing in the page has this name."


def _redirect(result: Mapping[str, Any]) -> int | None:
    """Return the status of the first redirect on the way to the final URL, None without one."""
    for hop in result.get("hops") or ():
        if hop.get("location"):
            return int(hop.get("status", 0))
    return None


def _fragments(result: Mapping[str, Any]) -> dict[str, bool | None] | None:
    found = result.get("fragments")
    return {name: each.get("passed") for name, each in found.items()} if isinstance(found, Mapping) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
