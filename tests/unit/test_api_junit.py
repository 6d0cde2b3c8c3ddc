"""A batch as JUnit XML: what is counted is what is listed, and every text is XML."""

from datetime import timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.api.exports import JUNIT_TAIL, junit_cases, junit_head
from producer.records import BatchRecord, JobRecord, VerdictCounts
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON


def make_record(state: JobState = JobState.SUCCEEDED, **fields: Any) -> JobRecord:
    values: dict[str, Any] = {
        "id": new_id(),
        "kind": "check",
        "lane": Lane.BULK,
        "args": {"url": "https://example.com/"},
        "retry": RetryPolicy(),
        "host": "example.com",
        "labels": {},
        "batch_id": None,
        "schedule_id": None,
        "state": state,
        "run": 1,
        "attempt": 1,
        "reason": None,
        "explanation": None,
        "result": None,
        "due_at": None,
        "deadline_at": None,
        "created_at": NOON,
        "finished_at": None,
    }
    return JobRecord(**(values | fields))


def parse(records: list[JobRecord], counts: VerdictCounts | None = None, **starts: Any) -> ET.Element:
    batch = BatchRecord(new_id(), "check", len(records), {}, {}, None, NOON, None)
    head = junit_head(batch, counts or VerdictCounts({}, 0))
    return ET.fromstring(head + junit_cases(records, starts.get("starts", {})) + JUNIT_TAIL)  # noqa: S314


def test_each_state_has_its_element() -> None:
    broken = {"verdict": "broken", "reason": "http_404", "explanation": "Gone & <lost>."}
    parked = {"reason": "http_503", "explanation": "Down."}
    records = [
        make_record(result={"verdict": "ok"}),
        make_record(result=broken),
        make_record(JobState.PARKED, result={"verdict": "down"}, **parked),
        make_record(JobState.CANCELLED, reason="cancelled"),
        make_record(JobState.QUEUED),
        make_record(kind="fetch", result={"data": 5}, host=""),
    ]

    suite = parse(records)

    endings = [[(each.tag, dict(each.attrib)) for each in case] for case in suite]
    assert endings[:3] == [
        [],
        [("failure", {"type": "http_404", "message": "Gone & <lost>."})],
        [("error", {"type": "http_503", "message": "Down."})],
    ]
    assert [[tag for tag, _ in ending] for ending in endings[3:]] == [["skipped"], ["skipped"], []]
    assert suite[0].attrib == {"name": "https://example.com/", "classname": "check.example.com"}
    assert suite[5].attrib["classname"] == "fetch"


def test_the_suite_says_how_many_ended_how() -> None:
    counts = VerdictCounts(
        {JobState.SUCCEEDED: 5, JobState.PARKED: 2, JobState.CANCELLED: 3, JobState.RUNNING: 1}, not_ok=4
    )

    suite = parse([], counts)

    said = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert said == {"tests": "11", "failures": "4", "errors": "2", "skipped": "4"}


def test_a_case_took_from_its_first_start_to_its_end() -> None:
    record = make_record(finished_at=NOON + timedelta(seconds=2.5))

    assert parse([record], starts={record.id: NOON})[0].attrib["time"] == "2.500"
    assert parse([record], starts={record.id: NOON + timedelta(hours=1)})[0].attrib["time"] == "0.000"


@pytest.mark.parametrize(
    "nasty", ["\0", "\x1b[0m", "\ud800", "\ufffe", "]]>", "\"'<&>", "a\r\nb\tc", "\N{PILE OF POO}"]
)
def test_no_text_breaks_the_document(nasty: str) -> None:
    record = make_record(JobState.PARKED, args={"url": nasty}, host=nasty, reason=nasty, explanation=nasty)

    (case,) = parse([record])

    kept = "".join("\ufffd" if char in "\0\x1b\ud800\ufffe" else char for char in nasty)
    assert (case.attrib["name"], case[0].attrib["message"]) == (kept, kept)


@given(text=st.text(alphabet=st.characters(exclude_categories=()), min_size=1))
def test_any_text_is_carried_but_for_what_xml_has_no_place_for(text: str) -> None:
    (case,) = parse([make_record(args={"url": text})])

    assert len(case.attrib["name"]) == len(text)
