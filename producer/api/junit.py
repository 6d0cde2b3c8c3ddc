"""A batch as JUnit XML, which build servers read. What is counted at the top is what is listed below.

A test case **fails** when the question was answered, and badly; it is an **error** when there is no answer:
a parked job, or a line that became none. Whether a URL that is `blocked` is good nobody can tell, least of
all a build server with another address than its readers, so its case is skipped, and the build goes on.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID
from xml.sax.saxutils import quoteattr

from producer.records import REJECTED, BatchRecord, JobRecord, Rejected, ResultCounts
from shared.kinds.check import Verdict
from shared.redaction import redact_text, redact_url
from shared.states import JobState

JUNIT_TAIL = b"</testsuite>\n"
# Whatever XML 1.0 (section 2.2) has no place for, not even as a reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class _Ending(StrEnum):
    """How a test case did not pass: its element."""

    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Junit:
    """Writes the parts of the document; what is `also_failing` fails beside what always does."""

    also_failing: Collection[str] = ()

    def head(self, batch: BatchRecord, counts: ResultCounts) -> bytes:
        """Return the beginning of a test suite: how many test cases there are, and how they ended."""
        number = dict.fromkeys(_Ending, 0)
        for (state, verdict), jobs in counts.jobs.items():
            if ending := self._ending(state, verdict):
                number[ending] += jobs
        attributes = {
            "name": f"batch {batch.id}",
            "timestamp": batch.created_at.isoformat(),
            "tests": sum(counts.jobs.values()) + counts.rejected,
            "failures": number[_Ending.FAILURE],
            "errors": number[_Ending.ERROR] + counts.rejected,
            "skipped": number[_Ending.SKIPPED],
        }
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite{_attributes(attributes)}>\n'.encode()

    def cases(self, records: Iterable[JobRecord], first_starts: Mapping[UUID, datetime]) -> bytes:
        """Return a test case for each job."""
        return "".join(self._case(record, first_starts.get(record.id)) for record in records).encode()

    def rejected_cases(self, lines: Iterable[Rejected], *, kind: str) -> bytes:
        """Return a test case for each line that became no job."""
        return "".join(_rejected_case(line, kind) for line in lines).encode()

    def _case(self, record: JobRecord, started_at: datetime | None) -> str:
        attributes: dict[str, object] = {
            "name": redact_url(str(record.url or record.id)),
            "classname": f"{record.kind}.{record.host}" if record.host else record.kind,
        }
        if started_at and record.finished_at:
            seconds = max(0.0, (record.finished_at - started_at).total_seconds())
            attributes["time"] = f"{seconds:.3f}"
        telling = record.telling
        ending = self._ending(record.state, telling.verdict)
        match record.state:
            case _ if ending is None:
                element = ""
            case JobState.PARKED:
                element = _element(ending, record.reason, record.explanation)
            case JobState.SUCCEEDED:
                element = _element(ending, telling.reason, telling.explanation)
            case state:
                element = _element(ending, None, record.explanation or state.value)
        return _test_case(attributes, record.line, record.ref, element)

    def _ending(self, state: JobState, verdict: object) -> _Ending | None:
        """Return how the case of a job did not pass; None when it did."""
        match state:
            case JobState.PARKED:
                return _Ending.ERROR
            case JobState.SUCCEEDED if verdict in (None, Verdict.OK):
                return None
            case JobState.SUCCEEDED if verdict != Verdict.BLOCKED or verdict in self.also_failing:
                return _Ending.FAILURE
            case _:
                return _Ending.SKIPPED


def _rejected_case(line: Rejected, kind: str) -> str:
    attributes = {"name": redact_url(line.given or line.loc), "classname": f"{kind}.{REJECTED}"}
    return _test_case(
        attributes, line.number, line.ref, _element(_Ending.ERROR, REJECTED, f"{line.loc}: {line.msg}")
    )


def _test_case(attributes: Mapping[str, object], line: int | None, ref: str | None, ending: str) -> str:
    # As pytest writes it: the line beside the name, and what JUnit has no attribute for as a property.
    place = {} if line is None else {"line": line}
    properties = f'<properties><property name="ref" value={_quoted(ref)}/></properties>' if ref else ""
    return f"<testcase{_attributes({**attributes, **place})}>{properties}{ending}</testcase>\n"


def _element(name: str, kind: object, message: object) -> str:
    attributes = {"type": kind, "message": redact_text(str(message)) if message else None}
    return f"<{name}{_attributes({key: value for key, value in attributes.items() if value})}/>"


def _attributes(values: Mapping[str, object]) -> str:
    return "".join(f" {name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(text: str) -> str:
    return quoteattr(_FORBIDDEN.sub(_REPLACEMENT, text))
