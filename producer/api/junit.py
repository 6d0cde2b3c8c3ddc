"""A batch as JUnit XML, which build servers show: a test suite, and a test case for each of its jobs."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID
from xml.sax.saxutils import quoteattr

from producer.records import BatchRecord, JobRecord, VerdictCounts
from shared.kinds.check import Verdict
from shared.states import JobState

# Whatever XML 1.0 (section 2.2) has no place for, not even as a reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

JUNIT_TAIL = b"</testsuite>\n"


def junit_head(batch: BatchRecord, counts: VerdictCounts) -> bytes:
    """Return the beginning of the document: how many test cases there are, and how they ended."""
    ended = (JobState.SUCCEEDED, JobState.PARKED)
    attributes = _attributes(
        {
            "name": f"batch {batch.id}",
            "timestamp": batch.created_at.isoformat(),
            "tests": sum(counts.by_state.values()),
            "failures": counts.not_ok,
            "errors": counts.by_state.get(JobState.PARKED, 0),
            "skipped": sum(number for state, number in counts.by_state.items() if state not in ended),
        }
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite{attributes}>\n'.encode()


def junit_cases(records: Sequence[JobRecord], first_starts: Mapping[UUID, datetime]) -> bytes:
    """Return the test cases of a page of jobs."""
    return "".join(_case(record, first_starts.get(record.id)) for record in records).encode()


def _case(record: JobRecord, started_at: datetime | None) -> str:
    attributes = {
        "name": record.args.get("url") or str(record.id),
        "classname": f"{record.kind}.{record.host}" if record.host else record.kind,
    }
    if started_at and record.finished_at:
        seconds = max(0.0, (record.finished_at - started_at).total_seconds())
        attributes["time"] = f"{seconds:.3f}"
    inner = _ending(record)
    return f"<testcase{_attributes(attributes)}>{inner}</testcase>\n"


def _ending(record: JobRecord) -> str:
    match record.state:
        case JobState.PARKED:
            return _element("error", record.reason, record.explanation)
        case JobState.SUCCEEDED:
            result = record.result or {}
            # The same as `count_verdicts` counts.
            if result.get("verdict", Verdict.OK) == Verdict.OK:
                return ""
            return _element("failure", result.get("reason"), result.get("explanation"))
        case state:
            return _element("skipped", None, record.explanation or state.value)


def _element(name: str, kind: object, message: object) -> str:
    said = {"type": kind, "message": message}
    return f"<{name}{_attributes({key: value for key, value in said.items() if value})}/>"


def _attributes(values: Mapping[str, object]) -> str:
    return "".join(f" {name}={_quoted(str(value))}" for name, value in values.items())


def _quoted(text: str) -> str:
    return quoteattr(_FORBIDDEN.sub(_REPLACEMENT, text))
